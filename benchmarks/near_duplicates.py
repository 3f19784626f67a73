"""Planted near-duplicates: how many are found, how long it takes, in how much memory, and how that grows.

    python -m benchmarks.near_duplicates [--sizes 100000,300000,1000000] [--kind topics] [--ray]
    python -m benchmarks.near_duplicates --sizes 20000 --peer PYTHON

5 % of the rows are planted at a cosine of 0.952 to 0.999 to another; the others are drawn about 500 topics, or evenly
(`--kind even`), which is the hardest for cells. Each size has a process of its own. `--peer` is the Python of an
environment with py-data-juicer 1.6.1 (and aiohttp): its DocumentMinhashDeduplicator, a fuzzy one, takes as many texts,
5 % of them planted with a word changed. Up to 20,000 rows faiss's exact range search and
scikit-learn's radius search take the same vectors. NeMo Curator 1.4 installs without a GPU, and each of its
deduplicators then ends at `import cudf`.

Growth is told as the time of each size over n log n, that of the smallest being 1; what is loaded at the first call is
loaded before the clock starts.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from typing import Any

from benchmarks.results import append

TAU = 0.95
PLANTED = 0.05
EXACT = 20_000
"""Rows up to which exact search is measured as well."""
_WARM = 5_000


def rows(n: int, kind: str, d: int = 384) -> tuple[Any, Any]:
    """Vectors [n, d], and of each row the one that it was planted beside, itself if it was not."""
    import numpy as np

    rng = np.random.default_rng(0)

    def unit(vectors: Any) -> Any:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    base = n - round(PLANTED * n)
    vectors = unit(rng.standard_normal((n, d), dtype=np.float32))
    if kind == "topics":
        topics = unit(rng.standard_normal((500, d), dtype=np.float32))
        for start in range(0, base, 100_000):
            some = vectors[start : min(start + 100_000, base)]
            some *= rng.uniform(0.5, 0.9, (len(some), 1)).astype(np.float32)
            some += topics[rng.integers(0, len(topics), len(some))]
            unit(some)
    source = rng.choice(base, n - base, replace=False)
    from_here, away = vectors[source], vectors[base:]
    away -= (away * from_here).sum(axis=1, keepdims=True) * from_here
    unit(away)
    cosine = rng.uniform(0.952, 0.999, (n - base, 1)).astype(np.float32)
    vectors[base:] = cosine * from_here + np.sqrt(1 - cosine**2) * away
    return vectors, np.concatenate([np.arange(base), source])


def measure(n: int, kind: str, how: str) -> dict[str, Any]:
    """One size, in this process."""
    import numpy as np

    vectors, group = rows(n, kind)
    ids = [f"opinion/{k}" for k in range(n)]
    if how == "ray":
        import ray

        ray.init(address="local", _node_ip_address="127.0.0.1", num_cpus=2, include_dashboard=False,
                 log_to_driver=False, object_store_memory=4 * vectors.nbytes + 2**28)  # fmt: skip
    _HOW[how](vectors[:_WARM], ids[:_WARM])
    began, cpu = time.monotonic(), time.process_time()
    behind = np.asarray(_HOW[how](vectors, ids))
    found = {"s": time.monotonic() - began, "cpu_s": time.process_time() - cpu}
    removed = np.flatnonzero(behind >= 0)
    right = int((group[removed] == group[behind[removed]]).sum())
    return {
        "how": how, "n": n, "kind": kind, **{name: round(value, 2) for name, value in found.items()},
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "recall": round(right / round(PLANTED * n), 5), "precision": round(right / max(1, len(removed)), 5),
    }  # fmt: skip


def _ours(vectors: Any, ids: list[str], on_ray: bool = False) -> Any:
    from cp_ray.near import near_duplicates

    return near_duplicates(vectors, ids, TAU, on_ray=on_ray)


def _ours_on_ray(vectors: Any, ids: list[str]) -> Any:
    return _ours(vectors, ids, on_ray=True)


def _greedy(n: int, earlier_of: Any) -> list[int]:
    behind = [-1] * n
    for i in range(n):
        kept = [k for k in earlier_of(i) if k < i and behind[k] < 0]
        behind[i] = min(kept, default=-1)
    return behind


def _faiss_exact(vectors: Any, ids: list[str]) -> list[int]:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    ends, _, found = index.range_search(vectors, TAU)
    return _greedy(len(ids), lambda i: found[ends[i] : ends[i + 1]].tolist())


def _sklearn_exact(vectors: Any, ids: list[str]) -> list[int]:
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(radius=math.sqrt(2 - 2 * TAU), algorithm="brute").fit(vectors)
    found = near.radius_neighbors(vectors, return_distance=False)
    return _greedy(len(ids), lambda i: found[i].tolist())


_HOW: dict[str, Any] = {"ours": _ours, "ray": _ours_on_ray, "faiss": _faiss_exact, "sklearn": _sklearn_exact}


def _in_process(python: str, *arguments: str) -> dict[str, Any]:
    ended = subprocess.run([python, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    line: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return line


def main() -> None:
    """Measure each size in a fresh process, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default="100000,300000,1000000")
    parser.add_argument("--kind", choices=("topics", "even"), default="topics")
    parser.add_argument("--ray", action="store_true", help="the search in Ray tasks")
    parser.add_argument("--peer", help="a Python with py-data-juicer")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(int(given.sizes), given.kind, given.one)))
        return
    lines = []
    print(f"{'':<14}{'rows':>10}{'s':>9}{'CPU s':>9}{'GiB':>7}{'recall':>9}{'precision':>11}")
    for n in (int(size) for size in given.sizes.split(",")):
        hows = ["ray" if given.ray else "ours", *(("faiss", "sklearn") if n <= EXACT else ())]
        for how in hows:
            arguments = ["-m", "benchmarks.near_duplicates", "--one", how, "--sizes", str(n), "--kind", given.kind]
            lines.append(_in_process(sys.executable, *arguments))
            _show(lines[-1])
        if given.peer:
            lines.append(_in_process(given.peer, "benchmarks/near_duplicates_peer.py", str(n)))
            _show(lines[-1])
    figures: dict[str, Any] = {"rows": lines}
    own = [line for line in lines if line["how"] in ("ours", "ray")]
    if len(own) > 1:
        few, many = own[0], own[-1]
        more = math.log(many["n"] / few["n"])
        figures["exponent"] = round(math.log(many["s"] / few["s"]) / more, 3)
        figures["exponent_of_n_log_n"] = round(1 + math.log(math.log(many["n"]) / math.log(few["n"])) / more, 3)
        print(f"time grows as n to the {figures['exponent']}; n log n would be {figures['exponent_of_n_log_n']}")
        over = [line["s"] / (line["n"] * math.log(line["n"])) for line in own]
        figures["over_n_log_n"] = [round(one / over[0], 3) for one in over]
        print(
            "over n log n: "
            + ", ".join(f"{line['n']:,}: {one}" for line, one in zip(own, figures["over_n_log_n"], strict=True))
        )
    append("near_duplicates", figures)


def _show(line: dict[str, Any]) -> None:
    numbers = f"{line['n']:>10,}{line['s']:>9.1f}{line['cpu_s']:>9.1f}{line['peak_gib']:>7.1f}"
    print(f"{line['how']:<14}{numbers}{line['recall']:>9.4f}{line['precision']:>11.4f}", flush=True)


if __name__ == "__main__":
    main()
