"""Evaluations that take whole answers, so of models behind endpoints: open questions with judges, and lessons."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from cp_ray.arrow import to_table
from cp_ray.cultures import of
from cp_ray.evals.bias import OpenAnswer, bias_scores
from cp_ray.evals.judge import TASK as OPEN
from cp_ray.evals.judge import JudgeConfig, Judgement, Pair, agreement, judge, win_rates
from cp_ray.evals.learning import LearnerConfig, Lesson, exam_of, learn, learning_gains, lessons, reply
from cp_ray.evals.open_ended import SayConfig, open_items, pairs, say
from cp_ray.folder import Folder
from cp_ray.pipeline import Step
from cp_ray.records import Item, Score, Seed
from cp_ray.steps.evaluation import items, part_name
from cp_ray.steps.rows import Inputs, generating
from cp_ray.steps.suite import Compared, Endpoint

__all__ = ["learning", "open_ended"]


@dataclass(frozen=True)
class SpokenScoring:
    """How figures are made."""

    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class LessonsConfig:
    """Which lessons are held."""

    tutors: tuple[str, ...]
    learners: int
    length: int
    rounds: int
    seed: int


def open_ended(seeds: Step, compared: Compared, judges: Sequence[Endpoint]) -> list[Step]:
    """What the endpoints' models say about held-out questions: their biases, and who is judged the better."""
    cultures = seeds.config.cultures
    asked = items("open_items", SpokenScoring(seed=compared.seed),
                  lambda inputs: open_items(inputs[seeds.name].read(Seed), cultures), (seeds,))  # fmt: skip
    answers = [
        generating(
            f"open_answers.{part_name(e.name)}", asked, say,
            SayConfig(e.name, e.model, seed=compared.seed, url=e.url), e.by, OpenAnswer,
        )
        for e in compared.endpoints
    ]  # fmt: skip
    scoring = SpokenScoring(seed=compared.seed)

    def paired(folder: Folder, inputs: Inputs) -> pa.Table:
        told = [row for step in answers for row in inputs[step.name].read(OpenAnswer)]
        return to_table(pairs(told, inputs[asked.name].read(Item), cultures), Pair)

    made = [asked, *answers]
    verdicts: list[Step] = []
    if judges and len(answers) > 1:
        against = Step("open_pairs", scoring, paired, (asked, *answers), Pair)
        verdicts = [
            generating(
                f"open_judgements.{part_name(j.name)}", against, judge, JudgeConfig(j.name, j.model, url=j.url), j.by,
                Judgement,
            )
            for j in judges
        ]  # fmt: skip
        made += [against, *verdicts]

    def scored(folder: Folder, inputs: Inputs) -> pa.Table:
        told = [row for step in answers for row in inputs[step.name].read(OpenAnswer)]
        judged = [inputs[step.name].read(Judgement) for step in verdicts]
        rates = win_rates([row for own in judged for row in own], resamples=scoring.resamples, seed=scoring.seed)
        rows = [*bias_scores(told, resamples=scoring.resamples, seed=scoring.seed), *rates, *_agreements(judged)]
        return to_table(rows, Score)

    return [*made, Step("open_scores", scoring, scored, (*answers, *verdicts), Score)]


def _agreements(judged: Sequence[Sequence[Judgement]]) -> list[Score]:
    """Of each two judges."""
    scores = []
    for k, first in enumerate(judged):
        for second in judged[k + 1 :]:
            if {r.pair for r in first if r.reject is None} & {r.pair for r in second if r.reject is None}:
                share, kappa, n = agreement(first, second)
                names = f"{first[0].judge} and {second[0].judge}"
                scores.append(Score(names, "", OPEN, "agreement", share, share, share, n))
                scores.append(Score(names, "", OPEN, "kappa", kappa, kappa, kappa, n))
    return scores


def learning(
    seeds: Step, compared: Compared, learner: Endpoint, *, learners: int, length: int = 5, rounds: int = 3
) -> list[Step]:
    """Simulated learners' exams before and after a talk with each endpoint's model."""
    cultures = seeds.config.cultures
    config = LearnerConfig(learner.model, seed=compared.seed, url=learner.url)
    made: list[Step] = []
    last: list[Step] = []
    for tutor in compared.endpoints:
        plan = LessonsConfig((tutor.name,), learners, length, rounds, compared.seed)
        part = part_name(tutor.name)

        def planned(folder: Folder, inputs: Inputs, plan: LessonsConfig = plan) -> pa.Table:
            rows = inputs[seeds.name].read(Seed)
            held = [
                lesson
                for id in dict.fromkeys(seed.culture for seed in rows)
                for lesson in lessons(
                    exam_of(rows, id), of(cultures, id), plan.tutors[0],
                    learners=plan.learners, length=plan.length, rounds=plan.rounds, seed=plan.seed,
                )
            ]  # fmt: skip
            return to_table(held, Lesson)

        lesson = Step(f"lessons.{part}", plan, planned, (seeds,), Lesson)
        before = generating(f"exam_before.{part}", lesson, learn, config, learner.by, Lesson)
        talk = generating(
            f"talks.{part}", before, reply, LearnerConfig(tutor.model, 160, seed=compared.seed, url=tutor.url),
            tutor.by, Lesson,
        )  # fmt: skip
        after = generating(f"exam_after.{part}", talk, learn, config, learner.by, Lesson)
        made += [lesson, before, talk, after]
        last.append(after)
    scoring = SpokenScoring(seed=compared.seed)

    def scored(folder: Folder, inputs: Inputs) -> pa.Table:
        held = [row for step in last for row in inputs[step.name].read(Lesson)]
        return to_table(learning_gains(held, resamples=scoring.resamples, seed=scoring.seed), Score)

    return [*made, Step("learning_scores", scoring, scored, tuple(last), Score)]
