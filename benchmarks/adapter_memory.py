"""Memory of a process that serves many adapters on one base, beside the adapters' own files.

    python -m benchmarks.adapter_memory [--adapters 50]

Resident memory before the first adapter and after all have answered, batches of eight different ones included; the
peak is the most that it ever was, with what reading and moving them took.
"""

import argparse
import multiprocessing
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil

from benchmarks.random_model import random_adapters
from benchmarks.results import append
from cp_ray.llm.embedded import smollm2
from cp_ray.records import Message
from cp_ray.serving.chat import ChatRequest
from cp_ray.serving.engine import Engine

_MIB = 2**20


def main() -> None:
    """Print the table and append the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        # Memory does not hang on the weights' values: one file under many names. Another process makes it.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
            folder = other.submit(random_adapters, str(smollm2()), Path(root), 1).result()["a0"]
        size = (folder / "adapter_model.safetensors").stat().st_size
        engine = Engine("smollm2", {"base": None}, prefix_bytes=0, max_adapters=args.adapters)
        ask(engine, ["base"] * 8)  # with the keys and values of as many rows as are asked below
        base = resident()
        names = [f"a{k}" for k in range(args.adapters)]
        for name in names:
            engine.adapters.know(name, folder)
        for name in names:
            ask(engine, [name])
        for first in range(0, args.adapters, 8):
            ask(engine, names[first : first + 8])
        loaded = resident()
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert len(engine.adapters.loaded) == args.adapters
    figures = {
        "adapters": args.adapters,
        "base_mib": round(base / _MIB),
        "files_mib": round(args.adapters * size / _MIB),
        "stacks_over_files": round(engine.adapters.nbytes / (args.adapters * size), 3),
        "resident_over_files": round((loaded - base) / (args.adapters * size), 3),
        "peak_over_files": round((peak - base) / (args.adapters * size), 3),
    }
    for name, value in figures.items():
        print(f"{name:24} {value}")
    append("adapter_memory", figures)


def ask(engine: Engine, models: list[str]) -> None:
    """Use adapters."""
    engine.generate([ChatRequest(model, (Message("user", "hi"),), 0, 4) for model in models])


def resident() -> int:
    """Bytes of this process."""
    rss: int = psutil.Process().memory_info().rss
    return rss


if __name__ == "__main__":
    main()
