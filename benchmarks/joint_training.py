"""Training many adapters in one run, beside one run after another: time, memory, and whether they come out the same.

    python -m benchmarks.joint_training --adapters 8 --rows 1

Every adapter has rows of its own: the survey's questions, put to its culture. Both ways run the same code in a process
of their own, two threads each by default; the sequential way trains the same adapters one at a time, and its memory is
that of the first run: what comes after finds what that left. Speeds are of the steps alone, without start-up. Prints a
table and appends a line to benchmarks/results.jsonl.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

from benchmarks.results import append
from cp_ray.cultures import CULTURES, Culture
from cp_ray.records import Example
from cp_ray.stages.examples import ExamplesConfig, make_examples
from cp_ray.stages.seeds import SeedsConfig, make_seeds
from cp_ray.survey.read import WVS7, read_survey
from cp_ray.training.config import AdapterConfig, Placement, TrainConfig


def main() -> None:
    """Measure both ways, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rows", type=int, default=1, help="of each adapter in a step")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-tokens", type=int)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--layers", type=int, help="of the base that are adapted, the topmost (default: all)")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto", help="of the base")
    parser.add_argument("--way", choices=("joint", "sequential"))
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given)))
        return
    found = {way: _in_a_process(way) for way in ("joint", "sequential")}
    joint, sequential = found["joint"], found["sequential"]
    print(f"{given.adapters} adapters, {given.rows} rows each in a step, {given.steps} steps")
    print(f"{'':12}{'s/step':>9}{'tokens/s':>10}{'GiB':>7}{'loss':>9}")
    for way, line in found.items():
        print(f"{way:12}{line['seconds']:9.2f}{line['tokens_per_s']:10.0f}{line['gib']:7.2f}{line['loss']:9.5f}")
    ratio, memory = sequential["seconds"] / joint["seconds"], joint["gib"] / sequential["gib"]
    print(f"joint is {ratio:.2f} times as fast, with {memory:.2f} of the memory; losses differ by "
          f"{abs(joint['loss'] - sequential['loss']):.1e}")  # fmt: skip
    settings = {key: value for key, value in vars(given).items() if key != "way"}
    append("joint_training", {"settings": settings, **found, "ratio": round(ratio, 3), "memory": round(memory, 3)})


def measure(given: argparse.Namespace) -> dict[str, float]:
    """Seconds a step (of all adapters), tokens/s, peak memory, and the mean loss of the last step."""
    import torch
    import torch.distributed as dist

    from cp_ray.llm.embedded import load_tokenizer
    from cp_ray.training.data import make_data
    from cp_ray.training.loop import Told, Trainer

    torch.set_num_threads(given.threads)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]))
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    dist.init_process_group("gloo")
    adapters = [_adapter(k, given) for k in range(given.adapters)]
    runs = [tuple(adapters)] if given.way == "joint" else [(adapter,) for adapter in adapters]
    placement = Placement(1, zero_stage=0, offload="none", micro_tokens=given.micro_tokens)
    seconds, tokens, losses, peak = 0.0, 0, list[float](), 0.0
    for run in runs:
        examples = [e for adapter in run for e in _examples(adapter.cultures[0], given)]
        config = TrainConfig(given.base, run, WVS7, dtype=given.dtype, layers=given.layers)
        trainer = Trainer(config, placement, make_data(examples, config, load_tokenizer(given.base)), None)
        times = [time.perf_counter()]

        def on_step(told: Told, times: list[float] = times) -> None:
            times.append(time.perf_counter())

        trainer.run(on_step, lambda state: None)
        # The first step also makes what is made once.
        seconds += (times[-1] - times[1]) / (len(times) - 2)
        tokens += trainer.summary().tokens
        losses += [p.loss for p in trainer.state.points if p.step == given.steps]
        peak = peak or trainer.summary().peak_bytes / 2**30
        del trainer
    return {
        "seconds": round(seconds, 4),
        "tokens_per_s": round(tokens / given.steps / seconds, 1),
        "gib": round(peak, 3),
        "loss": round(sum(losses) / len(losses), 6),
    }


def _adapter(k: int, given: argparse.Namespace) -> AdapterConfig:
    shipped = list(CULTURES.values())
    culture = replace(shipped[k % len(shipped)], id=f"c{k}")
    return AdapterConfig(culture.id, (culture,), passes=1, batch_size=given.rows)


def _examples(culture: Culture, given: argparse.Namespace) -> list[Example]:
    """So many prompts that there is a batch for each step."""
    survey = read_survey()
    config = SeedsConfig((culture,), survey.content, survey.source, questions=40)
    made = make_examples(make_seeds(config, survey.items), (), ExamplesConfig((culture,), answers=16))
    prompts = list(dict.fromkeys(example.messages[:-1] for example in made))
    wanted = given.rows * given.steps
    if wanted > len(prompts):
        raise SystemExit(f"rows x steps: at most {len(prompts)} prompts, got {wanted}")
    kept = set(prompts[:wanted])
    return [example for example in made if example.messages[:-1] in kept]


def _in_a_process(way: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.joint_training", *sys.argv[1:], "--way", way]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
