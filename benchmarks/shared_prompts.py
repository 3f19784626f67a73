"""Seconds per row of a training step: every row by itself, and rows of one prompt together.

Run as `python -m benchmarks.shared_prompts`. Prints a table and appends one line to benchmarks/results.jsonl.

The rows are what the job trains on: survey answers drawn in proportion to the real distribution, on SmolLM2 with LoRA
on every linear map of every layer. Both ways run the same code, one answer to a prompt or all of them; both must end at
the same loss and the same gradients.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.results import append
from cp_ray.branches import Branches, collate, hidden_states, token_logprobs
from cp_ray.cultures import CULTURES
from cp_ray.llm.embedded import load_base
from cp_ray.records import Example
from cp_ray.stages.examples import ExamplesConfig, make_examples
from cp_ray.stages.seeds import SeedsConfig, make_seeds
from cp_ray.survey.read import WVS7, read_survey
from cp_ray.training.config import AdapterConfig, TrainConfig
from cp_ray.training.data import make_data


@dataclass(frozen=True, slots=True)
class Measured:
    """One step: its mean loss per row, its gradients, and how long it took."""

    loss: float
    gradients: dict[str, torch.Tensor]
    seconds: float


def main() -> None:
    """Measure both ways in turn, several rounds, and keep each one's best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--answers", type=int, default=16, help="drawn for each prompt")
    parser.add_argument("--rows", type=int, default=8, help="computed at once when rows are by themselves")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base, tokenizer = load_base("smollm2")
    model = adapted(base)
    one = TrainConfig("smollm2", (AdapterConfig("german", (CULTURES["german"],)),), WVS7)
    shared = [row.branches for row in make_data(drawn(args.prompts, args.answers), one, tokenizer).train]
    ways = {
        "rows by themselves": in_parts(separate(shared), args.rows),
        "shared prompts": [shared],
    }
    best: dict[str, Measured] = {}
    for _ in range(args.rounds):
        for name, parts in ways.items():
            found = step(model, parts, tokenizer.pad_token_id)
            best[name] = min(best.get(name, found), found, key=lambda m: m.seconds)
    report(args, ways, best)


def drawn(prompts: int, answers: int) -> list[Example]:
    """Answers of one culture to so many prompts; a question makes two, one for each order of its options."""
    survey, german = read_survey(), (CULTURES["german"],)
    config = SeedsConfig(german, survey.content, survey.source, questions=(prompts + 1) // 2)
    seeds = make_seeds(config, survey.items)
    examples = make_examples(seeds, (), ExamplesConfig(german, answers=2 * answers))
    kept = list(dict.fromkeys(example.messages[:-1] for example in examples))[:prompts]
    return [example for example in examples if example.messages[:-1] in kept]


def separate(rows: Sequence[Branches]) -> list[Branches]:
    """The same rows with a prompt of their own each."""
    return [
        Branches(row.prompt, (answer,), (1.0,))
        for row in rows
        for answer, weight in zip(row.answers, row.weights, strict=True)
        for _ in range(round(weight))
    ]


def in_parts(rows: Sequence[Branches], size: int) -> list[list[Branches]]:
    """Batches that fit into memory, rows of like length together: little of the time goes into padding."""
    ordered = sorted(rows, key=lambda row: row.tokens)
    return [ordered[k : k + size] for k in range(0, len(ordered), size)]


def adapted(base: Any) -> Any:
    """The base, frozen, with LoRA r=16 whose weights are random throughout, so that every gradient counts."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, lora)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.01)
    return model


def step(model: Any, parts: Sequence[Sequence[Branches]], pad_id: int) -> Measured:
    """Forwards and backwards over all parts."""
    causal = model.get_base_model()
    model.zero_grad()
    rows = sum(sum(row.weights) for part in parts for row in part)
    loss = 0.0
    began = time.perf_counter()
    for part in parts:
        batch = collate(part, pad_id)
        own: Any = -(token_logprobs(causal, hidden_states(causal, batch), batch) * batch.weight).sum() / rows
        own.backward()
        loss += float(own.detach())
    seconds = time.perf_counter() - began
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return Measured(loss, gradients, seconds)


def difference(one: Measured, other: Measured) -> float:
    """Distance of two gradients over all weights, as a share of the first one's length."""
    length = torch.stack([g.norm() for g in one.gradients.values()]).norm()
    apart = torch.stack([(g - other.gradients[name]).norm() for name, g in one.gradients.items()]).norm()
    return float(apart / length)


def report(args: argparse.Namespace, ways: dict[str, list[list[Branches]]], best: dict[str, Measured]) -> None:
    """Print the table and append the line."""
    apart, together = best.values()
    rows = args.prompts * args.answers
    print(f"{rows} rows, {args.prompts} prompts, {args.threads} threads")
    print(f"{'':20}{'tokens':>8}{'s/row':>9}{'loss':>11}")
    tokens = {name: sum(row.tokens for part in parts for row in part) for name, parts in ways.items()}
    for name, found in best.items():
        print(f"{name:20}{tokens[name]:8}{found.seconds / rows:9.4f}{found.loss:11.6f}")
    off = difference(apart, together)
    print(f"{apart.seconds / together.seconds:.1f} times as fast; gradients differ by {off:.1e} of their length")
    append(
        "shared_prompts",
        {
            "torch": torch.__version__,
            "settings": vars(args),
            "tokens": tokens,
            "seconds_per_row": {name: round(found.seconds / rows, 5) for name, found in best.items()},
            "loss": {name: round(found.loss, 6) for name, found in best.items()},
            "gradient_difference": float(f"{off:.1e}"),
        },
    )
    if abs(apart.loss - together.loss) > 1e-4 * abs(apart.loss) or off > 1e-3:
        raise SystemExit("the two ways do not agree")


if __name__ == "__main__":
    main()
