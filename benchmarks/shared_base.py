"""Memory of training workers that each load the base whole, and of those that share it from the start (ZeRO-3).

    python -m benchmarks.shared_base [--shape llama-1b] [--workers 2] [--gpu]

A base of a known shape with random weights is adapted for a few steps by workers of one machine, without Ray. Figures
on CPUs are of the whole process, its libraries included, and the first worker also reads the weights for all. In a step
a worker has, beside its part, the weights that are being computed with, up to 10^9 of them (DeepSpeed's
`stage3_max_live_parameters`). Prints a table and appends a line to benchmarks/results.jsonl.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks.random_model import SHAPES, make
from benchmarks.results import append
from cp_ray.cultures import CULTURES
from cp_ray.records import Example, Message
from cp_ray.survey.read import WVS7
from cp_ray.training.config import AdapterConfig, Placement, TrainConfig

STEPS = 3


def main() -> None:
    """Measure both ways, each with workers of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=SHAPES, default="llama-1b")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--layers", type=int, default=2, help="of the base that are adapted, the topmost")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each worker")
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stage", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.base:
        print(json.dumps(measure(given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        make(given.shape, base)
        whole = sum(file.stat().st_size for file in base.glob("*.safetensors")) / 2**30
        found = {stage: _on_workers(given, base, stage) for stage in (0, 3)}
    print(f"a base of {whole:.2f} GiB, {given.workers} workers")
    for stage, lines in found.items():
        loaded, peaks = (", ".join(f"{line[name]:.2f}" for line in lines) for name in ("loaded_gib", "peak_gib"))
        print(f"ZeRO-{stage}: {loaded} GiB once loaded, {peaks} at the peak, loss {lines[0]['loss']:.4f}")
    settings = {name: getattr(given, name) for name in ("shape", "workers", "layers", "gpu")}
    append("shared_base", {"settings": settings, "base_gib": round(whole, 3), "zero": found})


def measure(given: argparse.Namespace) -> dict[str, float]:
    """One worker's peak memory, and the loss of the last step."""
    import torch
    import torch.distributed as dist

    from cp_ray.llm.embedded import load_tokenizer
    from cp_ray.training.data import make_data
    from cp_ray.training.loop import Trainer

    torch.set_num_threads(1)
    if given.gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if given.gpu else "gloo")
    german = CULTURES["german"]
    examples = [
        Example(f"e{k}", "german", "answer", f"Q{k}", (Message("user", f"Is it {k}?"), Message("assistant", "Yes")), (),
                "train")
        for k in range(STEPS * given.workers)
    ]  # fmt: skip
    adapter = AdapterConfig("german", (german,), passes=1, batch_size=given.workers)
    config = TrainConfig(str(given.base), (adapter,), WVS7, layers=given.layers)
    placement = Placement(given.workers, given.gpu, zero_stage=given.stage, offload="none")
    data = make_data(examples, config, load_tokenizer(str(given.base)))
    trainer = Trainer(config, placement, data, None)
    loaded = torch.cuda.memory_allocated() if given.gpu else psutil.Process().memory_info().rss
    trainer.run(lambda told: None, lambda state: None)
    return {
        "loaded_gib": round(loaded / 2**30, 3),
        "peak_gib": round(trainer.summary().peak_bytes / 2**30, 3),
        "loss": round(trainer.state.points[-1].loss, 5),
    }


def _on_workers(given: argparse.Namespace, base: Path, stage: int) -> list[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(given.workers)}
    command = [sys.executable, "-m", "benchmarks.shared_base", *sys.argv[1:], f"--base={base}", f"--stage={stage}"]
    running = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**group, "RANK": str(k), "LOCAL_RANK": str(k)}
        )
        for k in range(given.workers)
    ]
    told = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"a worker of ZeRO-{stage} failed")
    return [json.loads(out.strip().splitlines()[-1]) for out in told]


if __name__ == "__main__":
    main()
