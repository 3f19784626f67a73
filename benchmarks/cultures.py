"""All ten cultures on the embedded model: does each adapter come nearest to its own people, on questions held out?

    python -m benchmarks.cultures --seeds 0,1,2 --ways joint,unified

Learns from the published answer counts alone, one adapter a culture in one run (`joint`), the same one after the other
(`separate`), or one for all (`unified`), and prints the matrix of held-out earth mover's distances: each row a
culture's people, each column an adapter. `--fold 0` to `3` judges by a quarter of the training questions, which are
left out of training, and not by those that are held out: settings are to be chosen so. `--validation 0.2` keeps so
many training questions to validate with, and each adapter's best weights. Appends a line a run to
benchmarks/results.jsonl.
"""

import argparse
import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.results import append
from cp_ray.cultures import CULTURES, Culture
from cp_ray.embedding import Embedder
from cp_ray.evals.distances import emd
from cp_ray.evals.nulls import SCALE, UNIFORM, null_answers
from cp_ray.records import Example, Mixture, Seed
from cp_ray.stages.examples import ExamplesConfig, make_examples
from cp_ray.stages.leakage import LeakageConfig
from cp_ray.stages.mixed import MixedConfig, mix
from cp_ray.stages.seeds import SeedsConfig, make_seeds
from cp_ray.survey.asking import ask
from cp_ray.survey.read import WVS7, read_survey
from cp_ray.training.config import METHODS, UNIFIED, WHOLE_RATE, AdapterConfig, Placement, TrainConfig

if TYPE_CHECKING:
    from cp_ray.evals.scorer import Scorer
    from cp_ray.folder import Folder

FOLDS = 4
_ANSWERERS = (UNIFORM, SCALE)
"""Without a model: every option alike, and the people's own mean over the training questions with the same options."""

TARGET = "target: own at most 0.45 of base, and the best of all adapters in at least 8 rows of 10"


def main() -> None:
    """Run each seed and way in a process of its own, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--ways", default="joint,unified")
    parser.add_argument("--cultures", default=",".join(CULTURES))
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--draw", default="apportioned")
    parser.add_argument("--pooling", type=float, default=0.0)
    parser.add_argument("--mixed", type=int, default=0)
    parser.add_argument("--objective", default="distribution")
    parser.add_argument("--learning-rate", type=float, help="default: 2e-3, of all weights 1e-4")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--method", choices=METHODS, default="lora", help="full: all weights, in no joint run")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--validation", type=float, default=0.0)
    parser.add_argument("--fold", type=int, choices=range(FOLDS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.method == "full" and "joint" in given.ways.split(","):
        parser.error("--method full: changes the base, so models are not trained in one run; --ways separate,unified")
    if given.learning_rate is None:
        given.learning_rate = WHOLE_RATE if given.method == "full" else 2e-3
    if given.one:
        print(json.dumps(measure(given)))
        return
    for seed in given.seeds.split(","):
        for way in given.ways.split(","):
            found = _in_a_process("--one", "--seeds", seed, "--ways", way)
            show(f"{way}, seed {seed}", found)
            settings = {k: v for k, v in vars(given).items() if k not in ("one", "seeds", "ways", "threads")}
            append("cultures", {"way": way, "seed": int(seed), "settings": settings, **found})
    print(TARGET)


def show(title: str, found: dict[str, Any]) -> None:
    """The matrix, and what it comes to."""
    matrix: dict[str, dict[str, float]] = found["matrix"]
    models = list(next(iter(matrix.values())))
    print(f"\n{title}: {found['seconds']:.0f} s of training, {found['tokens_per_s']:.0f} tokens/s")
    print(f"{'':12}" + "".join(f"{model[:9]:>10}" for model in models))
    for culture, row in matrix.items():
        print(f"{culture:12}" + "".join(f"{row[model]:10.3f}" for model in models))
    others = "" if found["others"] is None else f"others {found['others']:.3f}, "
    best = "" if found["best"] is None else f", best of all adapters in {found['best']} rows of {len(matrix)}"
    print(
        f"own {found['own']:.3f}, {others}base {found['base']:.3f}, uniform {found[UNIFORM]:.3f}, scale "
        f"{found[SCALE]:.3f}; own/base "
        f"{found['own'] / found['base']:.2f}{best}, nearer than uniform in {found['nearer_than_uniform']}",
        flush=True,
    )


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Train, then ask all models every held-out question in both orders."""
    import torch

    torch.set_num_threads(given.threads)
    survey, cultures = read_survey(), tuple(CULTURES[id] for id in given.cultures.split(","))
    seeds = make_seeds(SeedsConfig(cultures, survey.content, survey.source), survey.items)
    if given.fold is not None:
        seeds = _fold(seeds, given.fold)
    with tempfile.TemporaryDirectory() as folder:
        summary = _train(given, seeds, cultures, folder)
        shares = _asked([s for s in seeds if s.split == "heldout"], cultures, folder, given)
    blind = {(name, seed.id): answers for name, seed, answers in null_answers(seeds)}
    for seed, asked in shares:
        asked |= {name: blind[name, seed.id] for name in _ANSWERERS}
    matrix: dict[str, dict[str, float]] = {}
    for culture in cultures:
        own = [(seed, asked) for seed, asked in shares if seed.culture == culture.id]
        matrix[culture.id] = {
            name: round(statistics.fmean(emd(asked[name], seed.distribution) for seed, asked in own), 4)
            for name in own[0][1]
        }
    return {**_summed_up(matrix), **summary, "matrix": matrix}


def _fold(seeds: Sequence[Seed], fold: int) -> list[Seed]:
    """The training questions, a quarter of them held out."""
    training = [seed for seed in seeds if seed.split == "train"]
    ids = sorted({s.question_id for s in training}, key=lambda id: hashlib.sha256(id.encode()).digest())
    held = set(ids[fold::FOLDS])
    return [replace(seed, split="heldout" if seed.question_id in held else "train") for seed in training]


def _too_near(mixtures: Sequence[Mixture], seeds: Sequence[Seed]) -> list[str]:
    """Those that the pipeline would leave out."""
    if not mixtures:
        return []
    embedder, heldout = Embedder("minilm"), sorted({seed.question for seed in seeds if seed.split == "heldout"})
    cosines = embedder.encode([mixture.text for mixture in mixtures]) @ embedder.encode(heldout).T
    near = cosines.max(axis=1) > LeakageConfig().tau
    return [mixture.id for mixture, is_near in zip(mixtures, near, strict=True) if is_near]


def _train(given: argparse.Namespace, seeds: Sequence[Seed], cultures: Sequence[Culture], out: str) -> dict[str, float]:
    import torch.distributed as dist

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]))
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    dist.init_process_group("gloo")
    seed, every = int(given.seeds), tuple(cultures)
    data = {name: getattr(given, name) for name in ("answers", "draw", "pooling")}
    mixtures = mix(seeds, MixedConfig(given.mixed, seed))
    examples = make_examples(
        seeds, (), ExamplesConfig(every, seed=seed, **data), mixtures=mixtures, left_out=_too_near(mixtures, seeds)
    )
    how: dict[str, Any] = {"learning_rate": given.learning_rate, "passes": given.passes}
    one = AdapterConfig(UNIFIED, every, batch_size=given.batch_size * len(every), **how)
    own = [AdapterConfig(c.id, (c,), batch_size=given.batch_size, **how) for c in every]
    began, tokens = time.monotonic(), 0
    ways: dict[str, list[tuple[AdapterConfig, ...]]] = {
        "unified": [(one,)],
        "joint": [tuple(own)],
        "separate": [(adapter,) for adapter in own],
    }
    for run in ways[given.ways]:
        names = {culture.id for adapter in run for culture in adapter.cultures}
        tokens += _run(given, run, [e for e in examples if e.culture in names], out)
    seconds = time.monotonic() - began
    return {"seconds": round(seconds, 1), "tokens_per_s": round(tokens / seconds, 1)}


def _run(given: argparse.Namespace, adapters: tuple[AdapterConfig, ...], examples: Sequence[Example], out: str) -> int:
    """One training, its adapters left in `out`; the tokens that it computed."""
    from cp_ray.folder import open_folder
    from cp_ray.llm.embedded import load_tokenizer
    from cp_ray.training.data import make_data
    from cp_ray.training.loop import Trainer
    from cp_ray.training.save import save_adapter, save_model

    config = TrainConfig(
        "smollm2", adapters, WVS7, method=given.method, rank=given.rank, alpha=2 * given.rank,
        layers=None if given.method == "full" else given.layers, objective=given.objective,
        validation=given.validation, validate_every=5, seed=int(given.seeds),
    )  # fmt: skip
    data = make_data(examples, config, load_tokenizer("smollm2"))
    trainer = Trainer(config, Placement(1, zero_stage=0, offload="none"), data, None)

    def on_step(told: Any) -> None:
        if told.step % 5 == 0 or told.step == told.steps:
            validated = [p.validation for p in told.points if p.validation is not None]
            held = f" validation {statistics.fmean(validated):.3f}" if validated else ""
            rate = f"{told.tokens_per_s:.0f} tokens/s"
            print(f"step {told.step}/{told.steps} loss {told.loss:.3f}{held} {rate}", file=sys.stderr, flush=True)

    trainer.run(on_step, lambda state: None)
    weights = trainer.weights()
    for adapter in adapters:
        points = [p for p in trainer.state.points if p.model == adapter.name]
        folder, own = open_folder(f"{out}/{adapter.name}"), weights[adapter.name]
        learnt = data.learnt(config, adapter.name)
        adapted = trainer.learner.adapters
        if adapted is None:
            save_model(folder, trainer.base, trainer.tokenizer, config, adapter, own, points, learnt)
        else:
            save_adapter(folder, adapted, config, adapter, own, points, learnt)
    return trainer.summary().tokens


def _asked(
    seeds: Sequence[Seed], cultures: Sequence[Culture], folder: str, given: argparse.Namespace
) -> list[tuple[Seed, dict[str, tuple[float, ...]]]]:
    from cp_ray.evals.scorer import Scorer
    from cp_ray.folder import open_folder

    names = [UNIFIED] if given.ways == UNIFIED else [c.id for c in cultures]
    folders = {name: open_folder(f"{folder}/{name}") for name in names}
    by_id, rows = {c.id: c for c in cultures}, sorted(seeds, key=lambda s: (len(s.options), len(s.question), s.id))
    if given.method != "full":
        return list(zip(rows, _means(Scorer("smollm2", folders), rows, by_id, (None, *names)), strict=True))
    found: list[dict[str, tuple[float, ...]]] = [{} for _ in rows]
    bases: dict[str, str | Folder] = {"base": "smollm2", **folders}
    for name, base in bases.items():
        for asked, own in zip(found, _means(Scorer(base, {}), rows, by_id, (None,)), strict=True):
            asked[name] = own["base"]
    return list(zip(rows, found, strict=True))


def _means(
    scorer: "Scorer", rows: Sequence[Seed], cultures: Mapping[str, Culture], models: tuple[str | None, ...]
) -> list[dict[str, tuple[float, ...]]]:
    """The mean of both orders of the options, by model, for each question."""
    from cp_ray.evals.scorer import Asked

    found = []
    for k in range(0, len(rows), 4):
        some = rows[k : k + 4]
        forward, backward = (
            scorer.option_shares(
                [Asked(ask(cultures[s.culture], s.question, s.options, reverse=way), s.options, models) for s in some]
            )
            for way in (False, True)
        )
        for one, others in zip(forward, backward, strict=True):
            found.append(
                {
                    model or "base": tuple((a + b) / 2 for a, b in zip(own, other, strict=True))
                    for model, own, other in zip(models, one, others, strict=True)
                }
            )
    return found


def _summed_up(matrix: dict[str, dict[str, float]]) -> dict[str, Any]:
    adapters = [name for name in next(iter(matrix.values())) if name not in ("base", *_ANSWERERS)]
    own = {culture: row[culture if culture in row else UNIFIED] for culture, row in matrix.items()}
    others = [row[a] for culture, row in matrix.items() for a in adapters if a not in (culture, UNIFIED)]
    return {
        "own": round(statistics.fmean(own.values()), 4),
        "others": round(statistics.fmean(others), 4) if others else None,
        "base": round(statistics.fmean(row["base"] for row in matrix.values()), 4),
        **{name: round(statistics.fmean(row[name] for row in matrix.values()), 4) for name in _ANSWERERS},
        "best": sum(own[culture] == min(row[a] for a in adapters) for culture, row in matrix.items())
        if others
        else None,
        "nearer_than_uniform": sum(own[culture] < row["uniform"] for culture, row in matrix.items()),
    }


def _in_a_process(*more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.cultures", *sys.argv[1:], *more]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
