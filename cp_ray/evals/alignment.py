"""How near each answerer comes to the people: per question, per topic, per culture, with its interval.

A distance says little by itself. It stands beside answerers that know nothing (`nulls`), and beside what the people
themselves would get (one half against the other); the skill puts both on one scale, where 0 is a uniform answerer and
1 is as near as people are to people.
"""

import itertools
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from cp_ray.errors import ConfigError
from cp_ray.evals.distances import emd, jsd
from cp_ray.evals.intervals import Interval, interval, ratio_interval
from cp_ray.evals.nulls import HUMAN, UNIFORM, null_answers, split_half
from cp_ray.records import Prediction, QuestionScore, Score, Seed

__all__ = ["ScoreConfig", "question_scores", "score", "summed"]

Questions = Mapping[str, QuestionScore]
"""One answerer's, by the question's id."""


@dataclass(frozen=True)
class ScoreConfig:
    """How distances are summed up."""

    resamples: int = 2000
    seed: int = 0
    splits: int = 200
    """How often the people are halved."""
    interval: str = "studentised"
    """Bootstrap; the only one there is, here so that a change of it changes the step's fingerprint."""

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise ConfigError(f"resamples: must be at least 100 for a 95 % interval, got {self.resamples}")
        if self.splits < 1:
            raise ConfigError(f"splits: must be at least 1, got {self.splits}")


def score(predictions: Sequence[Prediction], seeds: Sequence[Seed], config: ScoreConfig) -> list[Score]:
    """All figures, on trained and held-out questions apart."""
    return summed(question_scores(predictions, seeds, config), config)


def question_scores(
    predictions: Sequence[Prediction], seeds: Sequence[Seed], config: ScoreConfig
) -> list[QuestionScore]:
    """The distances of every model, every null answerer and the halved people, question by question."""
    of = {(s.culture, s.question_id): s for s in seeds}
    found = [_scored(p.model, of[p.culture, p.item], p.probabilities, p.asked) for p in predictions if not p.reject]
    found += [_scored(name, seed, answers) for name, seed, answers in null_answers(seeds)]
    for seed in seeds:
        drawn = config.seed + zlib.crc32(seed.id.encode())
        halves = split_half(seed, splits=config.splits, rng_seed=drawn)
        if halves is not None:
            found.append(
                QuestionScore(HUMAN, seed.culture, seed.question_id, seed.topic, seed.split, halves.emd, halves.jsd)
            )
    return found


def summed(questions: Sequence[QuestionScore], config: ScoreConfig) -> list[Score]:
    """Means over the questions of each model, culture, split and topic, with intervals over questions."""
    groups: dict[tuple[str, str], dict[str, dict[str, QuestionScore]]] = defaultdict(lambda: defaultdict(dict))
    for q in questions:
        for task in (f"survey_{q.split}", f"survey_{q.split}/{q.topic}"):
            groups[q.culture, task][q.model][q.question_id] = q
    scores = []
    for (culture, task), by_model in sorted(groups.items()):
        for model, own in sorted(by_model.items()):
            figures = _figures(own, by_model.get(UNIFORM, {}), by_model.get(HUMAN, {}), config)
            scores += [Score(model, culture, task, name, i.mean, i.low, i.high, n) for name, i, n in figures]
    return scores


def _scored(model: str, seed: Seed, answers: Sequence[float], asked: Sequence[Sequence[float]] = ()) -> QuestionScore:
    # Of each wording, the answers with the options from either end.
    pairs = list(zip(asked[::2], asked[1::2], strict=False))
    wordings = [[(a + b) / 2 for a, b in zip(*pair, strict=True)] for pair in pairs]
    return QuestionScore(
        model, seed.culture, seed.question_id, seed.topic, seed.split,
        emd(answers, seed.distribution), jsd(answers, seed.distribution),
        _mean([emd(*pair) for pair in pairs]),
        _mean([emd(a, b) for a, b in itertools.combinations(wordings, 2)]),
    )  # fmt: skip


def _figures(
    own: Questions, uniform: Questions, human: Questions, config: ScoreConfig
) -> Iterator[tuple[str, Interval, int]]:
    """Name, interval and number of questions of each measure that can be told."""
    for way in ("order", "wording"):
        gaps = [value for q in own.values() if (value := getattr(q, f"{way}_gap")) is not None]
        if gaps:
            yield f"{way}_stability", _mean_interval([1 - value for value in gaps], config), len(gaps)
    for name, distance in (("emd", attrgetter("emd")), ("jsd", attrgetter("jsd"))):
        yield name, _mean_interval([distance(q) for q in own.values()], config), len(own)
        known = [(own[id], uniform[id], human[id]) for id in own if id in uniform and id in human]
        model = next(iter(own.values())).model
        if known and model not in (UNIFORM, HUMAN):
            won = [distance(null) - distance(q) for q, null, _ in known]
            possible = [distance(null) - distance(people) for _, null, people in known]
            if sum(possible) > 0:
                skill = ratio_interval(won, possible, resamples=config.resamples, seed=config.seed)
                yield f"skill_{name}", skill, len(known)


def _mean_interval(values: Sequence[float], config: ScoreConfig) -> Interval:
    return interval(values, resamples=config.resamples, seed=config.seed)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
