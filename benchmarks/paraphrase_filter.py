"""Does the filter tell wordings that ask the same from those that do not? On pairs not seen while it was made.

    python -m benchmarks.paraphrase_filter
    python -m benchmarks.paraphrase_filter --teacher-url https://api.openai.com/v1 --teacher-model gpt-4o-mini
    python -m benchmarks.paraphrase_filter --fit        what the filter learns from, out of the seen pairs
    python -m benchmarks.paraphrase_filter --folds 10   the seen pairs, each judged by what the other seeds' teach

Beside it stands the original's rule: mean-pooled states of an encoder, cosine above 0.8; here of all-MiniLM-L6-v2 and
of SmolLM2's last layer. `at 0.7` is the precision where the score's threshold gives a recall of 0.7. With a teacher,
the last lines are what its answers, in both directions, say by themselves and after the filter.
"""

import argparse
import asyncio
import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import append
from cp_ray.llm.call import Completion, Sampling
from cp_ray.llm.endpoint import Endpoint, check_teacher
from cp_ray.paraphrase import meaning
from cp_ray.paraphrase.meaning import FEATURES, Judgement, Meaning, MeaningConfig, measured_pairs, new_forest
from cp_ray.paraphrase.rules import compare
from cp_ray.paraphrase.words import read_words
from cp_ray.records import Message, Paraphrase
from cp_ray.stages.entail import SOMETHING_ELSE, EntailConfig, entail

FOLDER = Path(__file__).parent / "paraphrases"


@dataclass(frozen=True)
class Pair:
    """A labelled pair."""

    seed: str
    text: str
    same: bool
    kind: str
    set: str
    """A letter: pairs that were written together."""


def main() -> None:
    """Judge the pairs, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--fit", action="store_true", help="measure the seen pairs anew, for the filter to learn from")
    parser.add_argument("--folds", type=int, help="cross-validate on the seen pairs, whole seeds at a time")
    parser.add_argument("--pairs", default="unseen", choices=("seen", "unseen"))
    parser.add_argument("--teacher-url", help="an OpenAI-compatible server, its key in OPENAI_API_KEY")
    parser.add_argument("--teacher-model", default="smollm2")
    parser.add_argument("--structured", default="yes", choices=("yes", "no"), help="ask it for JSON, as a run does")
    given = parser.parse_args()
    if given.fit:
        _fit(_read("seen"))
        return
    print(f"{'rule':<46}{'precision':>10}{'recall':>8}{'passed':>8}  at 0.7")
    if given.folds:
        _cross_validate(_read("seen"), given.folds)
        return
    if given.teacher_url:
        check_teacher(given.teacher_url, given.teacher_model, os.environ.get("OPENAI_API_KEY"))
    pairs = _read(given.pairs)
    judged = Meaning(MeaningConfig(tau=0.0)).judge([(pair.seed, pair.text) for pair in pairs])
    lines = _offline(pairs, judged)
    if given.teacher_url:
        config = EntailConfig(given.teacher_model, structured=given.structured == "yes")
        lines += _by_teacher(pairs, judged, given.teacher_url, config)
    append("paraphrase_filter", {"pairs": given.pairs, "rows": lines})


def _read(name: str) -> list[Pair]:
    rows = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [Pair(row["seed"], row["text"], row["label"] == "same", row["kind"], row["id"][0]) for row in rows]


def _offline(pairs: Sequence[Pair], judged: Sequence[Judgement]) -> list[dict[str, Any]]:
    near = np.array([j.similarity for j in judged])
    pooled = _pooled_cosines([(pair.seed, pair.text) for pair in pairs])
    sure = np.array([j.sureness for j in judged])
    words = [compare(read_words(p.seed), read_words(p.text)).reason is None for p in pairs]
    passed = np.array([j.reject is None for j in judged])
    return [
        _line("the original's: cosine > 0.8, mean-pooled SmolLM2", pairs, pooled > 0.8, pooled),
        _line("the original's: cosine > 0.8, MiniLM", pairs, near > 0.8, near),
        _line("the rules alone", pairs, np.array(words)),
        _line("the filter", pairs, passed, sure),
        _line("the filter, similarity at least 0.7", pairs, passed & (near >= 0.7)),
        _line("the filter, similarity at least 0.8", pairs, passed & (near >= 0.8)),
        *_kinds(pairs, passed),
    ]


def _line(
    rule: str, pairs: Sequence[Pair], passed: NDArray[np.bool_], score: NDArray[np.float64] | None = None
) -> dict[str, Any]:
    same = np.array([pair.same for pair in pairs])
    found = int((passed & same).sum())
    precision, recall = found / max(1, int(passed.sum())), found / int(same.sum())
    at = None if score is None else round(_precision_at(0.7, score, same), 3)
    shown = "" if at is None else f"{at:8.3f}"
    print(f"{rule:<46}{precision:10.3f}{recall:8.3f}{int(passed.sum()):8d}{shown}", flush=True)
    return {"rule": rule, "precision": round(precision, 3), "recall": round(recall, 3), "at_0.7": at}


def _precision_at(recall: float, score: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Precision where the score's threshold lets at least this share of the right ones pass."""
    threshold = np.sort(score[same])[::-1][int(np.ceil(recall * same.sum())) - 1]
    passed = score >= threshold
    return float((passed & same).sum() / passed.sum())


def _kinds(pairs: Sequence[Pair], passed: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """How many of each kind pass the filter."""
    kinds = {
        kind: [bool(one) for p, one in zip(pairs, passed, strict=True) if p.kind == kind]
        for kind in sorted({p.kind for p in pairs})
    }
    print("passed: " + ", ".join(f"{kind} {sum(own)} of {len(own)}" for kind, own in kinds.items()))
    return [{"passed_by_kind": {kind: [sum(own), len(own)] for kind, own in kinds.items()}}]


def _pooled_cosines(texts: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """The original's measure: the mean of the last layer's states."""
    import torch

    from cp_ray.llm.embedded import load_base

    model, tokenizer = load_base("smollm2")

    def pooled(text: str) -> Any:
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[-1][0]
        return torch.nn.functional.normalize(states.float().mean(0), dim=0)

    return np.array([float(pooled(seed) @ pooled(text)) for seed, text in texts])


def _fit(pairs: Sequence[Pair]) -> None:
    """Measure the seen pairs into the file that the filter grows its trees from."""
    found = Meaning(MeaningConfig()).features([(pair.seed, pair.text) for pair in pairs])
    target = Path(meaning.__file__).parent / "pairs.csv"
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["same", *FEATURES])
        writer.writerows([int(pair.same), *values] for pair, values in zip(pairs, found, strict=True))
    print(f"{target}: {len(pairs)} pairs")


def _cross_validate(pairs: Sequence[Pair], folds: int) -> None:
    """By the measured pairs, without any model; nothing here decides on the unseen ones."""
    from sklearn.model_selection import GroupKFold, cross_val_predict

    found, same = measured_pairs()
    seeds = [pair.seed for pair in pairs]
    split = GroupKFold(folds, shuffle=True, random_state=0)
    sure = cross_val_predict(new_forest(), found, same, groups=seeds, cv=split, method="predict_proba")[:, 1]
    passed = sure >= MeaningConfig().sureness
    lines = [_line("the filter, cross-validated", pairs, passed, sure)]
    for name in sorted({pair.set for pair in pairs}):
        own = np.array([pair.set == name for pair in pairs])
        some = [pair for pair in pairs if pair.set == name]
        lines.append(_line(f"the same, set {name}", some, passed[own], sure[own]))
    lines += _kinds(pairs, passed)
    append("paraphrase_filter", {"pairs": f"seen, {folds} folds", "rows": lines})


def _by_teacher(
    pairs: Sequence[Pair], judged: Sequence[Judgement], url: str, config: EntailConfig
) -> list[dict[str, Any]]:
    """What a teacher says of the same pairs, through the stage that a run asks it by."""
    wordings = [Paraphrase(str(k), "", p.seed, ("Agree", "Disagree"), p.text, "template") for k, p in enumerate(pairs)]
    said = asyncio.run(_asked(wordings, url, config))
    other = Counter(row.reject for row in said if row.reject is not None and row.reject != SOMETHING_ELSE)
    print(f"{config.teacher}: no answer of {other.total()} of {len(said)} pairs {dict(other) or ''}")
    yes = np.array([row.reject is None for row in said])
    both = yes & np.array([j.reject is None for j in judged])
    return [
        _line(f"{config.teacher}, asked in both directions", pairs, yes),
        _line(f"the filter, then {config.teacher}", pairs, both),
    ]


async def _asked(wordings: Sequence[Paraphrase], url: str, config: EntailConfig) -> list[Paraphrase]:
    endpoint = Endpoint(url, config.teacher, os.environ.get("OPENAI_API_KEY"))
    room = asyncio.Semaphore(16)

    async def generate(messages: Sequence[Message], sampling: Sampling) -> Completion:
        async with room:
            return await endpoint(messages, sampling)

    try:
        rows = await asyncio.gather(*(entail(wording, generate, config) for wording in wordings))
    finally:
        await endpoint.close()
    return [row for made in rows for row in made]


if __name__ == "__main__":
    main()
