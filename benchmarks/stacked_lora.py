"""Tokens per second of one batch with an adapter per row: the engine, PEFT's mixed batches, one adapter, no adapter.

Run as `python -m benchmarks.stacked_lora`. Prints a table and appends one line to benchmarks/results.jsonl.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import append
from cp_ray.llm.embedded import load_base, smollm2
from cp_ray.records import Message
from cp_ray.serving.chat import ChatRequest, ChatResult
from cp_ray.serving.engine import Engine

_PROMPT = "Tell me a long story about a town by the sea."


def main() -> None:
    """Measure each way in turn, several rounds, and keep each one's best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32, help="drawn per row")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as root:
        adapters: dict[str, Path | None] = {
            f"a{i}": random_adapter(Path(root) / f"a{i}", i) for i in range(args.adapters)
        }
        ways = {
            "engine, mixed adapters": engine(adapters, args.batch, args.tokens),
            "PEFT, mixed adapters": peft(adapters, args.batch, args.tokens),
            "engine, one adapter": engine({"a0": adapters["a0"]}, args.batch, args.tokens),
            "engine, bare base": engine({"base": None}, args.batch, args.tokens),
        }
        best = dict.fromkeys(ways, 0.0)
        for _ in range(args.rounds):
            for name, way in ways.items():
                best[name] = max(best[name], tokens_per_second(way))
    report(args, best)


def random_adapter(folder: Path, seed: int) -> Path:
    """A PEFT folder, r=16 on all linear layers, with small random weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(smollm2())
    model: Any = get_peft_model(base, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear"))
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.01)
    model.save_pretrained(folder)
    return folder


def engine(adapters: dict[str, Path | None], batch: int, tokens: int) -> Callable[[], int]:
    """The engine with these adapters, rows taking them in turn: a function that runs once and counts its tokens."""
    names = list(adapters)
    ready = Engine("smollm2", adapters, prefix_bytes=0)
    chat = (Message("user", _PROMPT),)
    requests = [ChatRequest(names[i % len(names)], chat, 0.0, tokens) for i in range(batch)]

    def run() -> int:
        return sum(r.completion_tokens for r in ready.generate(requests) if isinstance(r, ChatResult))

    return run


def peft(adapters: dict[str, Path | None], batch: int, tokens: int) -> Callable[[], int]:
    """PEFT's own mixed batch of the same rows."""
    from peft import PeftModel

    base, tokenizer = load_base("smollm2")
    names = list(adapters)
    model: Any = PeftModel.from_pretrained(base, str(adapters[names[0]]), adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(str(adapters[name]), adapter_name=name)
    model.eval()
    chat = [{"role": "user", "content": _PROMPT}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer([text] * batch, return_tensors="pt", add_special_tokens=False)
    rows = [names[i % len(names)] for i in range(batch)]

    def run() -> int:
        with torch.inference_mode():
            out = model.generate(
                **inputs, adapter_names=rows, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens
            )
        drawn: int = out[:, inputs["input_ids"].shape[1] :].numel()
        return drawn

    return run


def tokens_per_second(way: Callable[[], int]) -> float:
    """Tokens drawn per second of wall time, prompts included in the time."""
    started = time.perf_counter()
    return way() / (time.perf_counter() - started)


def report(args: argparse.Namespace, best: dict[str, float]) -> None:
    """Print the table and append the line."""
    print(f"batch {args.batch}, {args.adapters} adapters, {args.tokens} tokens a row, {args.threads} threads")
    for name, speed in best.items():
        print(f"{name:24} {speed:8.1f} tokens/s")
    figures = {name: round(speed, 1) for name, speed in best.items()}
    append("stacked_lora", {"torch": torch.__version__, "settings": vars(args), "tokens_per_second": figures})


if __name__ == "__main__":
    main()
