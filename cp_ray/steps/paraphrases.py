"""The steps that word survey questions anew: CultureLLM's branch of the pipeline.

    questions ─ templates ─ check ─ (entail) ─ pick ─ synonyms ─ check ─ (entail) ─ wordings ─ (translate)

A wording is the same for all cultures, so it is made, judged and paid for once, however many cultures answer it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from cp_ray.arrow import to_table
from cp_ray.cultures import Culture
from cp_ray.folder import Folder
from cp_ray.pipeline import Step
from cp_ray.records import Paraphrase, Seed, Translation
from cp_ray.stages.augment import (
    BackTranslationsConfig,
    SynonymsConfig,
    TemplatesConfig,
    back_translations,
    own_wording,
    synonyms,
    templates,
)
from cp_ray.stages.check import CheckConfig
from cp_ray.stages.check import check as check_meaning
from cp_ray.stages.entail import EntailConfig
from cp_ray.stages.entail import entail as ask_whether_same
from cp_ray.stages.pick import PickConfig
from cp_ray.stages.pick import pick as pick_wordings
from cp_ray.stages.translate import TranslateConfig, to_translate
from cp_ray.stages.translate import translate as ask_for_translation
from cp_ray.steps.rows import Inputs, counting, dataset_of, emptied, generating
from cp_ray.teacher import Teacher

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = [
    "back_translated", "check", "entail", "exchange_words", "own_wordings", "pick", "restructure", "translate",
    "wordings",
]  # fmt: skip


@dataclass(frozen=True)
class _NoConfig:
    """Of a step with nothing to choose."""


@dataclass(frozen=True)
class _CulturesConfig:
    cultures: tuple[Culture, ...]


def own_wordings(seeds: Step) -> Step:
    """The training questions in the survey's words, each once, whoever was asked it."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        rows = sorted(inputs[seeds.name].read(Seed), key=lambda seed: (seed.place, seed.question_id))
        asked = {seed.question_id: own_wording(seed) for seed in rows if seed.split == "train"}
        return to_table(list(asked.values()), Paraphrase)

    return Step("questions", _NoConfig(), run, (seeds,), Paraphrase)


def restructure(questions: Step, by: Teacher, config: TemplatesConfig) -> Step:
    """Sentences of another structure."""
    return generating("templates", questions, templates, config, by, Paraphrase)


def exchange_words(sentences: Step, by: Teacher, config: SynonymsConfig) -> Step:
    """The same sentences in other words."""
    return generating("synonyms", sentences, synonyms, config, by, Paraphrase)


def back_translated(questions: Step, by: Teacher, config: BackTranslationsConfig) -> Step:
    """The questions after a way through other languages."""
    return generating("translations", questions, back_translations, config, by, Paraphrase)


def check(drafts: Step, config: CheckConfig) -> Step:
    """The wordings that ask the same, by rules and sentence vectors."""

    def run(folder: Folder, inputs: Inputs) -> "Dataset | pa.Table":
        found = counting(inputs[drafts.name].table())
        return check_meaning(dataset_of(found), config) if found.num_rows else found

    return Step(f"check.{drafts.name}", config, run, (drafts,), Paraphrase, remarks=emptied)


def entail(checked: Step, by: Teacher, config: EntailConfig) -> Step:
    """The wordings that ask the same, as the teacher finds."""
    return generating(f"entail.{_last(checked)}", checked, ask_whether_same, config, by, Paraphrase)


def pick(judged: Step, config: PickConfig) -> Step:
    """So many wordings of each question."""
    return _picked(f"pick.{_last(judged)}", (judged,), config)


def wordings(questions: Step, judged: Sequence[Step], config: PickConfig) -> Step:
    """The wordings to train on: the survey's own and so many others of each question."""
    step = _picked("wordings", (questions, *judged), config)

    def said(folder: Folder, inputs: Inputs) -> list[str]:
        rows = counting(folder.table(["question_id", "way", "reject"])).to_pylist()
        kept = Counter(row["question_id"] for row in rows if row["way"] != "survey")
        fewer = sum(kept[id] < config.per_question for id in {row["question_id"] for row in rows})
        return [f"{fewer} questions have fewer than {config.per_question} other wordings"] if fewer else []

    return replace(step, remarks=said)


def translate(wordings: Step, cultures: tuple[Culture, ...], by: Teacher, config: TranslateConfig) -> tuple[Step, Step]:
    """The wordings in the cultures' own languages: what there is to translate, and the translations."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        return to_table(to_translate(inputs[wordings.name].read(Paraphrase), cultures), Translation)

    english = Step("languages", _CulturesConfig(cultures), run, (wordings,), Translation)
    return english, generating("translate", english, ask_for_translation, config, by, Translation)


def _picked(name: str, judged: Sequence[Step], config: PickConfig) -> Step:
    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        rows = [row for step in judged for row in inputs[step.name].read(Paraphrase) if row.reject is None]
        return to_table(pick_wordings(rows, config), Paraphrase)

    return Step(name, config, run, tuple(judged), Paraphrase)


def _last(step: Step) -> str:
    """`templates` of `check.templates`."""
    return step.name.rpartition(".")[2]
