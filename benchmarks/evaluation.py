"""The suite's time over a folder of test sets, and its throughput beside the bare batched scorer.

    python -m benchmarks.evaluation FOLDER [--run runs/demo] [--rows 200] [--sample 300] [--beside 4096]

Throughput: the same items through `cp-ray evaluate`'s local door (Ray Data, two workers of one core) and through
`Scorer.option_shares` in as many bare processes, start-up excluded from both. `--run` has adapters; the time of the
whole suite is that of `cp-ray evaluate` on them. `--beside` is another number of tokens in a batch of the bare scorer.
"""

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import append
from cp_ray.cultures import CULTURES
from cp_ray.evals.moderation.read import read_task
from cp_ray.evals.moderation.tasks import find_tasks
from cp_ray.records import Item

WORKERS = 2


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", help="run folder with adapters, for the whole suite's time")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--sample", type=int, default=300, help="items for the throughput")
    parser.add_argument("--beside", type=int, help="tokens in a batch of the bare scorer, beside its own number")
    given = parser.parse_args()
    items = [
        item
        for task, path in find_tasks(given.folder)
        for item in read_task(task, path, CULTURES[task.culture], rows=given.rows, characters=600)
        if item.reject is None
    ]
    some = items[:: max(1, len(items) // given.sample)]
    ours, bare = _ours(some), _bare(some)
    figures: dict[str, Any] = {
        "items": len(some), "ours": round(ours, 2), "bare": round(bare, 2), "share": round(ours / bare, 3)
    }  # fmt: skip
    print(f"cp-ray evaluate's door  {ours:8.2f} items/s")
    print(f"bare batched scorer     {bare:8.2f} items/s")
    print(f"share                   {ours / bare:8.3f}  at least 0.9")
    if given.beside:
        figures |= {"beside": given.beside, "bare_beside": round(_bare(some, given.beside), 2)}
        print(f"bare, {given.beside} tokens a batch {figures['bare_beside']:4.2f} items/s")
    if given.run:
        figures |= {"suite_s": round(_suite(given.folder, given.run, given.rows), 1), "rows": given.rows}
        print(f"the whole suite         {figures['suite_s']:8.1f} s   at most 1200")
    append("evaluation", figures)


def _ours(items: list[Item]) -> float:
    """Items a second of the second half of the time, start-up being told apart by a run of few items."""
    import ray

    from cp_ray.cluster import quiet
    from cp_ray.evals.choose import LocalModels, choose

    ray.init(address="local", _node_ip_address="127.0.0.1", num_cpus=WORKERS, include_dashboard=False,
             log_to_driver=False)  # fmt: skip
    quiet()

    def seconds(some: list[Item]) -> float:
        began = time.monotonic()
        assert sum(map(len, choose(some, LocalModels("smollm2"), {}, workers=WORKERS))) == len(some)
        return time.monotonic() - began

    short = sorted(items, key=lambda i: len(i.messages[-1].content))[: 2 * WORKERS]
    start = seconds(short)
    whole = seconds(items)
    ray.shutdown()
    return len(items) / (whole - start)


def _bare(items: list[Item], tokens: int | None = None) -> float:
    """Items a second of as many bare processes, their models loaded."""
    parts = [items[k::WORKERS] for k in range(WORKERS)]
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        spans = pool.starmap(_score, [(part, tokens) for part in parts])
    return len(items) / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def _score(items: list[Item], tokens: int | None) -> tuple[float, float]:
    import torch

    from cp_ray.evals.scorer import Asked, Scorer

    torch.set_num_threads(1)
    scorer = Scorer("smollm2", {})
    began = time.time()
    scorer.option_shares([Asked(item.messages, item.options, (None,)) for item in items], tokens)
    return began, time.time()


def _suite(folder: Path, run: str, rows: int) -> float:
    with tempfile.TemporaryDirectory() as root:
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "jobs/evaluate.py", "--root", f"{root}/run", "--run", run, "--moderation", str(folder),
             "--rows", str(rows)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return time.monotonic() - began


if __name__ == "__main__":
    main()
