"""Stages that compute, with one process and with two, on as many cores: how near to twice as fast.

    python -m benchmarks.cpu_stages [--texts 4096] [--rounds 2] [--stages embed,dedup,perplexity]

A process computes on one thread. Start-up is told apart, by a run of a row for each process; the best round counts.
Beside it: two bare processes of sentence-transformers, which share nothing, against one. That is what the machine gives
where memory and caches are shared by the cores, and no scheduling could pass it.
"""

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.embedding import opinions
from benchmarks.results import append

LEAST = 1.8

BARE = """
import sys, time, torch
from benchmarks.embedding import opinions
from sentence_transformers import SentenceTransformer
from cp_ray.llm.embedded import minilm
torch.set_num_threads(1)
model, texts = SentenceTransformer(str(minilm()), device="cpu"), opinions(int(sys.argv[1]))
model.encode(texts[:64])
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
for k in range(0, len(texts), 1024):
    model.encode(texts[k : k + 1024], normalize_embeddings=True, show_progress_bar=False)
print(time.monotonic() - began, flush=True)
"""


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--stages", default=",".join(STAGES))
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import ray

    from cp_ray.cluster import quiet

    ray.init(address="local", _node_ip_address="127.0.0.1", num_cpus=2, include_dashboard=False, log_to_driver=False,
             logging_level=logging.ERROR)  # fmt: skip
    quiet()
    print(f"{'stage':<12}{'one':>10}{'two':>10}{'times':>8}{'start-up':>10}   at least {LEAST}")
    lines: list[dict[str, Any]] = []
    for name in given.stages.split(","):
        rows = given.texts // 8 if name == "perplexity" else given.texts
        start = [_seconds(STAGES[name], 2, workers) for workers in (1, 2)]
        took = [min(_seconds(STAGES[name], rows, workers) for _ in range(given.rounds)) for workers in (1, 2)]
        one, two = (rows / (whole - begun) for whole, begun in zip(took, start, strict=True))
        lines.append(_line(name, one, two, start[1]))
    lines.append(_line("bare", given.texts / _bare(given.texts, 1), 2 * given.texts / _bare(given.texts, 2), None))
    append("cpu_stages", {"texts": given.texts, "rows": lines})


def _line(name: str, one: float, two: float, start_s: float | None) -> dict[str, Any]:
    shown = f"{start_s:>8.1f} s" if start_s is not None else ""
    print(f"{name:<12}{one:>10.1f}{two:>10.1f}{two / one:>8.2f}{shown}", flush=True)
    return {"stage": name, "one": round(one, 1), "two": round(two, 1), "times": round(two / one, 3),
            "start_s": round(start_s, 1) if start_s is not None else None}  # fmt: skip


def _embed(n: int, workers: int) -> None:
    import pyarrow as pa
    import ray.data

    from cp_ray.embedding import embed

    texts = opinions(n)
    embed(ray.data.from_arrow(pa.table({"text": texts})), "text", workers=workers).materialize()


def _dedup(n: int, workers: int) -> None:
    from cp_ray.arrow import to_table
    from cp_ray.records import Opinion
    from cp_ray.stages.dedup import DedupConfig, dedup

    rows = [
        Opinion(f"o{k:06d}", "d", f"s{k % max(1, n // 20):05d}", "german", "Hanna", "c", "q", text)
        for k, text in enumerate(opinions(n))
    ]
    dedup(to_table(rows, Opinion), DedupConfig(per_seed=4), workers=workers).materialize()


def _perplexity(n: int, workers: int) -> None:
    from cp_ray.arrow import to_table
    from cp_ray.quality import Measured, QualityConfig, measure
    from cp_ray.steps.rows import dataset_of

    rows = [Measured(f"o{k:06d}", "german", "s", "opinion", text, "Is it so?") for k, text in enumerate(opinions(n))]
    measure(
        dataset_of(to_table(rows, Measured), blocks=workers, most=1024), QualityConfig(), workers=workers
    ).materialize()


STAGES: dict[str, Callable[[int, int], None]] = {"embed": _embed, "dedup": _dedup, "perplexity": _perplexity}


def _bare(texts: int, processes: int) -> float:
    """Seconds that the slower of them takes, all begun at once."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", BARE, str(texts)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return max(float(process.communicate()[0]) for process in started)


def _seconds(stage: Callable[[int, int], None], rows: int, workers: int) -> float:
    began = time.monotonic()
    stage(rows, workers)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
