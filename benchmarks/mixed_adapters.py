"""Tokens per second of batches in which every row has its own adapter, beside the same batch on one and beside PEFT.

    python -m benchmarks.mixed_adapters [--batches 8,32] [--rounds 3]

All ways are greedy and take turns on the same rows, and each one's best round counts: the engine with the rows' own
adapters, the same engine with one adapter for all rows, PEFT's `generate(adapter_names=...)`, and the engine with no
adapter. The engine's answers must be PEFT's, token for token. Where a step takes as long as reading its weights does,
eight adapters' are read beside the base's, and one adapter's: `if_reading_were_all` is what of one adapter's speed that
would leave.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_model import random_adapters
from benchmarks.results import append
from cp_ray.llm.embedded import compute_dtype, load_base, smollm2
from cp_ray.records import Message
from cp_ray.serving.chat import ChatRequest, ChatResult
from cp_ray.serving.engine import Engine

_PROMPTS = (
    "Tell me a long story about a town by the sea.",
    "What matters most in life?",
    "Describe a market in the morning, with its smells and its voices, to somebody who has never seen one.",
    "How do people greet each other where you live?",
)
Way = Callable[[], tuple[list[str], int]]
"""Answers the rows of a batch once: the answers, and how many tokens were drawn."""


def main() -> None:
    """Print a table for each batch and append its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="8,32", help="rows, with commas between")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--layers", type=int, help="that adapters are of, the topmost; the demo's are of 10")
    parser.add_argument("--tokens", type=int, default=32, help="drawn per row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    fast = str(compute_dtype("cpu", draws=True)).removeprefix("torch.")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default=fast, help=f"default: {fast}, the faster")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as root:
        folders = random_adapters(str(smollm2()), Path(root), args.adapters, layers=args.layers)
        engine = Engine("smollm2", {"base": None, **folders}, dtype=args.dtype, prefix_bytes=0)
        peft, tokenizer = with_peft(folders, args.dtype)
    for batch in map(int, args.batches.split(",")):
        measure(args, batch, list(folders), engine, peft, tokenizer)


def measure(
    args: argparse.Namespace, batch: int, names: Sequence[str], engine: Engine, peft: Any, tokenizer: Any
) -> None:
    """One batch size."""
    mixed = [names[i % len(names)] for i in range(batch)]
    ways: dict[str, Way] = {
        "engine, mixed adapters": by_engine(engine, mixed, args.tokens),
        "engine, one adapter": by_engine(engine, [names[0]] * batch, args.tokens),
        "PEFT, mixed adapters": by_peft(peft, tokenizer, mixed, args.tokens),
        "engine, bare base": by_engine(engine, ["base"] * batch, args.tokens),
    }
    best = dict.fromkeys(ways, 0.0)
    answers: dict[str, list[str]] = {}
    for _ in range(args.rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            answers[name], drawn = way()
            best[name] = max(best[name], drawn / (time.perf_counter() - began))
    ours, theirs = answers["engine, mixed adapters"], answers["PEFT, mixed adapters"]
    figures = {
        "equal_answers": sum(a == b for a, b in zip(ours, theirs, strict=True)),
        "different_answers": len(set(ours)),
        "of_one_adapter": round(best["engine, mixed adapters"] / best["engine, one adapter"], 3),
        "of_peft": round(best["engine, mixed adapters"] / best["PEFT, mixed adapters"], 3),
        "if_reading_were_all": round(_read(peft, 1) / _read(peft, len(set(mixed))), 3),
    }
    where = "all layers" if args.layers is None else f"{args.layers} layers"
    print(f"batch {batch}, {len(names)} adapters of {where}, {args.tokens} tokens a row, {args.threads} threads")
    for name, speed in best.items():
        print(f"{name:24} {speed:8.1f} tokens/s")
    print("  ".join(f"{name} {value}" for name, value in figures.items()), flush=True)
    speeds = {name: round(speed, 1) for name, speed in best.items()}
    settings = vars(args) | {"batch": batch}
    append("mixed_adapters", {"torch": torch.__version__, "settings": settings, "tokens_per_s": speeds, **figures})


def _read(peft: Any, adapters: int) -> float:
    """Weights that a step reads: the base's, and those of so many adapters."""
    own = sum(weight.numel() for name, weight in peft.named_parameters() if "lora_" in name)
    every = sum(weight.numel() for weight in peft.parameters())
    share: float = every - own + own * adapters / len(peft.peft_config)
    return share


def by_engine(engine: Engine, models: Sequence[str], tokens: int) -> Way:
    """The engine, a model per row."""
    requests = [
        ChatRequest(model, (Message("user", _PROMPTS[k % len(_PROMPTS)]),), 0.0, tokens)
        for k, model in enumerate(models)
    ]

    def run() -> tuple[list[str], int]:
        results = [r for r in engine.generate(requests) if isinstance(r, ChatResult)]
        return [r.text for r in results], sum(r.completion_tokens for r in results)

    return run


def with_peft(folders: dict[str, Path], dtype: str) -> tuple[Any, Any]:
    """PEFT's model with all adapters on it, and its tokenizer."""
    from peft import PeftModel

    base, tokenizer = load_base("smollm2", dtype=getattr(torch, dtype))
    first, *others = folders
    model: Any = PeftModel.from_pretrained(base, str(folders[first]), adapter_name=first)
    for name in others:
        model.load_adapter(str(folders[name]), adapter_name=name)
    tokenizer.padding_side = "left"
    return model.eval(), tokenizer


def by_peft(model: Any, tokenizer: Any, names: Sequence[str], tokens: int) -> Way:
    """PEFT, an adapter per row."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": _PROMPTS[k % len(_PROMPTS)]}], add_generation_prompt=True, tokenize=False
        )
        for k in range(len(names))
    ]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)

    def run() -> tuple[list[str], int]:
        with torch.inference_mode():
            out = model.generate(**inputs, adapter_names=list(names), do_sample=False, max_new_tokens=tokens)
        new = out[:, inputs["input_ids"].shape[1] :]
        ended = (new == tokenizer.eos_token_id).int().cumsum(1)
        drawn = int((ended == 0).sum() + (ended == 1).any(1).sum())  # what follows an answer's end is padding
        return tokenizer.batch_decode(new, skip_special_tokens=True), drawn

    return run


if __name__ == "__main__":
    main()
