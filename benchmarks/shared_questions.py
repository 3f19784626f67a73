"""Seconds to ask the survey's held-out questions in both orders of their options: each by itself, and in shared lines.

    python -m benchmarks.shared_questions

On SmolLM2 with two adapters of random weights on the topmost ten layers, as the demo's are, and the bare base; in
turns, the best of each. Both ways must give the same probabilities. Appends a line to benchmarks/results.jsonl.
"""

import argparse
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

from benchmarks.results import append
from cp_ray.cultures import CULTURES
from cp_ray.evals.scorer import Asked, Scorer
from cp_ray.evals.survey import survey_items
from cp_ray.folder import Folder, open_folder
from cp_ray.llm.embedded import load_base
from cp_ray.stages.seeds import SeedsConfig, make_seeds
from cp_ray.survey.read import read_survey

NAMES = ("arabic", "german")
WAYS = {"by themselves": 0, "in shared lines": 256}
"""Tokens of questions that may share a line."""


def main() -> None:
    """Measure, compare, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    survey, cultures = read_survey(), tuple(CULTURES[name] for name in NAMES)
    seeds = make_seeds(SeedsConfig(cultures, survey.content, survey.source), survey.items)
    items = survey_items([seed for seed in seeds if seed.split == "heldout"], cultures, 1)
    asked = [Asked(item.messages, item.options, (None, *NAMES)) for item in items]
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        scorer = Scorer("smollm2", {name: _adapter(Path(folder, name), k) for k, name in enumerate(NAMES)})
        for _ in range(given.rounds):
            for way, tokens in WAYS.items():
                with mock.patch("cp_ray.evals.scorer._LINE", tokens):
                    began = time.monotonic()
                    found[way] = scorer.option_shares(asked)
                    seconds[way].append(time.monotonic() - began)
    pairs = zip(*([p for one in found[way] for model in one for p in model] for way in WAYS), strict=True)
    difference = max(abs(one - other) for one, other in pairs)
    apart, shared = (min(seconds[way]) for way in WAYS)
    for way in WAYS:
        print(f"{way:<16}{min(seconds[way]):8.2f} s for {len(asked)} questions and {1 + len(NAMES)} models")
    print(f"{apart / shared:.2f} times as fast in shared lines; probabilities differ by {difference:.0e} at most")
    append("shared_questions", {
        "questions": len(asked), "threads": given.threads, "apart_s": round(apart, 2), "shared_s": round(shared, 2),
        "times": round(apart / shared, 3), "difference": difference,
    })  # fmt: skip


def _adapter(folder: Path, seed: int) -> Folder:
    """A PEFT folder with random weights."""
    from peft import LoraConfig, get_peft_model

    model, _ = load_base("smollm2", dtype=torch.float32)
    maps = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(
        model, LoraConfig(r=16, lora_alpha=32, target_modules=maps, layers_to_transform=list(range(20, 30)))
    )
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(str(folder))
    return open_folder(str(folder))


if __name__ == "__main__":
    main()
