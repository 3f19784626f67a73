"""Does each culture's adapter come nearest to its people, whatever the seed?

    python -m benchmarks.heldout --seeds 0,1,2 --root runs/heldout

Runs the main job once for each seed (a seed whose run is done is not run again) and prints the held-out earth mover's
distances: a culture's own adapter beside the untrained base, the nearest other adapter, and a uniform answerer.
"""

import argparse
import subprocess
import sys

from benchmarks.results import append
from cp_ray.evals.nulls import BASE, HUMAN, NULLS
from cp_ray.pipeline import Run
from cp_ray.records import Score


def main() -> None:
    """Run, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--root", default="runs/heldout")
    parser.add_argument("--cultures", default="arabic,german")
    given = parser.parse_args()
    print(f"{'seed':>4}  {'culture':<12}{'own':>8}{'base':>8}{'other':>8}{'uniform':>9}  verdict")
    lines = []
    for seed in given.seeds.split(","):
        root = f"{given.root}-{seed}"
        subprocess.run(
            [sys.executable, "jobs/demo.py", "--root", root, "--seed", seed, "--cultures", given.cultures],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for culture in given.cultures.split(","):
            line = _distances(root, culture)
            won = line["own"] < min(line["base"], line["other"])
            shown = "".join(f"{line[name]:8.3f}" for name in ("own", "base", "other"))
            print(f"{seed:>4}  {culture:<12}{shown}{line['uniform']:9.3f}  {'holds' if won else 'DOES NOT HOLD'}")
            lines.append({"seed": int(seed), "culture": culture, **{k: round(v, 4) for k, v in line.items()}})
    append("heldout", {"rows": lines})


def _distances(root: str, culture: str) -> dict[str, float]:
    (folder,) = [f for f in Run(root).done() if (m := f.manifest()) and m.name == "evaluate"][-1:]
    found = {
        s.model: s.value
        for s in folder.read(Score)
        if (s.culture, s.task, s.metric) == (culture, "survey_heldout", "emd")
    }
    others = [v for m, v in found.items() if m not in (culture, BASE, HUMAN, *NULLS)]
    return {"own": found[culture], "base": found["base"], "other": min(others), "uniform": found["uniform"]}


if __name__ == "__main__":
    main()
