"""The steps at both ends of the branches: seeds and candidates before them, training rows after them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from cp_ray.arrow import to_table
from cp_ray.cultures import NEIGHBOURS
from cp_ray.errors import ConfigError
from cp_ray.exports.config import ExportConfig
from cp_ray.exports.export import made_by, write_export
from cp_ray.exports.export import remarks as export_remarks
from cp_ray.folder import Folder
from cp_ray.pipeline import Step
from cp_ray.recipe import Options
from cp_ray.records import Candidate, Example, Mixture, Nearness, Opinion, Paraphrase, Quality, Seed, Translation
from cp_ray.stages.examples import ExamplesConfig, make_examples
from cp_ray.stages.leakage import LeakageConfig, texts_to_check
from cp_ray.stages.leakage import leakage as find_nearest
from cp_ray.stages.mixed import MixedConfig, mix
from cp_ray.stages.quota import QuotaConfig, next_wave
from cp_ray.stages.seeds import CandidatesConfig, NeighboursConfig, SeedsConfig, from_neighbours, make_seeds
from cp_ray.stages.seeds import candidates as make_candidates
from cp_ray.steps.rows import Inputs, dataset_of, emptied
from cp_ray.survey.read import read_survey

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["candidates", "examples", "export", "leakage", "mixed", "neighbours", "seeds", "wave"]

Row = TypeVar("Row")


def seeds(options: Options, *, questions: int | None = None, heldout: int | None = None) -> Step:
    """Survey questions with each culture's real answers.

    Args:
        options: what every recipe takes.
        questions: training questions, spread over the topics; None for all.
        heldout: questions kept for the test; None for a fifth.

    Raises:
        SurveyError, ConfigError: the survey file or the choice of cultures is wrong; nothing has been started.
    """
    survey = read_survey(Path(options.survey) if options.survey else None)
    config = SeedsConfig(options.chosen, survey.content, survey.source, heldout=heldout, questions=questions)
    rows = make_seeds(config, survey.items)
    return Step("seeds", config, lambda folder, inputs: to_table(rows, Seed), rows=Seed)


def neighbours(asked: Step, options: Options) -> Step:
    """The seeds as if their cultures had never been asked: trained on their neighbours' answers, judged on their own.

    Raises:
        ConfigError: a culture's neighbours are not known, or were asked nothing in this survey.
    """
    unknown = next((culture.id for culture in options.chosen if culture.id not in NEIGHBOURS), None)
    if unknown is not None:
        raise ConfigError(
            f"answers-from: the neighbours of {unknown!r} are not known, only those of {', '.join(NEIGHBOURS)}; leave "
            "it out, or give it its neighbours' countries in --cultures-file"
        )
    pairs = tuple((culture.id, NEIGHBOURS[culture.id]) for culture in options.chosen)
    ids = sorted({id for _, near in pairs for id in near})
    survey = read_survey(Path(options.survey) if options.survey else None)
    known = tuple(options.known[id] for id in ids)
    config = NeighboursConfig(SeedsConfig(known, survey.content, survey.source, heldout=asked.config.heldout), pairs)

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        return to_table(from_neighbours(inputs[asked.name].read(Seed), config, survey.items), Seed)

    return Step("neighbours", config, run, (asked,), Seed)


def candidates(seeds: Step, config: CandidatesConfig) -> Step:
    """What to talk about, all at once."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        return to_table(make_candidates(inputs[seeds.name].read(Seed), config), Candidate)

    return Step("candidates", config, run, (seeds,), Candidate)


def wave(seeds: Step, waves: Sequence[Sequence[Step]], config: QuotaConfig) -> Step:
    """What to talk about next, after some waves: each begins with its `candidates` and ends with the opinions left."""
    waves = tuple(waves)  # the caller's list grows
    before = tuple(step for one in waves for step in (one[0], one[-1]))

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        tried = Counter(c.seed.culture for one in waves for c in inputs[one[0].name].read(Candidate))
        last = inputs[waves[-1][-1].name].read(Opinion) if waves else []
        accepted = Counter(o.culture for o in last if o.reject is None)
        rows = inputs[seeds.name].read(Seed)
        fewest = min(Counter(s.culture for s in rows if s.split == "train").values())
        every = make_candidates(rows, CandidatesConfig(per_seed=-(-config.candidates // fewest)))
        return to_table(next_wave(every, tried, accepted, config), Candidate)

    return Step(f"candidates.{len(waves) + 1}", config, run, (seeds, *before), Candidate)


def mixed(seeds: Step, config: MixedConfig) -> Step:
    """Questions made of two training questions; `seeds`: those whose answers are trained on."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        return to_table(mix(inputs[seeds.name].read(Seed), config), Mixture)

    return Step("mixed", config, run, (seeds,), Mixture, remarks=emptied)


def leakage(seeds: Step, trained_on: Sequence[Step], config: LeakageConfig) -> Step:
    """Every text that training rows will be made of, with the held-out question that is nearest to it.

    `trained_on`: steps that give opinions, wordings or questions made of two.
    """

    def run(folder: Folder, inputs: Inputs) -> "Dataset | pa.Table":
        def made(row: type[Row]) -> list[Row]:
            return [one for step in trained_on if step.rows is row for one in inputs[step.name].read(row)]

        rows = inputs[seeds.name].read(Seed)
        texts = to_table(texts_to_check(rows, made(Opinion), made(Paraphrase), made(Mixture)), Nearness)
        heldout = {seed.question_id: seed.question for seed in rows if seed.split == "heldout"}
        if not heldout or not texts.num_rows:
            return texts
        return find_nearest(dataset_of(texts), sorted(heldout.items()), config)

    return Step("leakage", config, run, (seeds, *trained_on), Nearness)


def examples(
    seeds: Step,
    config: ExamplesConfig,
    *,
    leakage: Step,
    opinions: Step | None = None,
    wordings: Step | None = None,
    translations: Step | None = None,
    quality: Step | None = None,
    answers: Step | None = None,
    mixed: Sequence[Step] = (),
) -> Step:
    """Chats to train on, without what is near to a held-out question or of poor quality.

    `answers`: the seeds with others' answers, which are trained on in the place of their own. `mixed`: steps that
    give questions made of two, which `leakage` has looked at, too.
    """

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        def rows(step: Step | None, row: type[Row]) -> list[Row]:
            return inputs[step.name].read(row) if step is not None else []

        left_out: list[Nearness | Quality] = [*rows(leakage, Nearness), *rows(quality, Quality)]
        made = make_examples(
            rows(answers or seeds, Seed), rows(opinions, Opinion), config,
            wordings=rows(wordings, Paraphrase), translations=rows(translations, Translation),
            mixtures=[row for step in mixed for row in rows(step, Mixture)],
            left_out=[row.id for row in left_out if row.reject is not None],
        )  # fmt: skip
        return to_table(made, Example)

    def said(folder: Folder, inputs: Inputs) -> list[str]:
        told = []
        if config.pooling:
            told.append(f"{config.pooling:.0%} of each question's answers are the culture's mean on its scale")
        if opinions is None:
            return told
        rows = folder.table(["culture", "kind"]).to_pylist()
        bare = {row["culture"] for row in rows} - {row["culture"] for row in rows if row["kind"] == "opinion"}
        if bare:
            told.append(f"no opinion of {', '.join(sorted(bare))}: answers of the survey alone")
        return told

    given = (seeds, answers, opinions, wordings, translations, *mixed, leakage, quality)
    return Step("examples", config, run, tuple(step for step in given if step is not None), Example, remarks=said)


def export(before: Sequence[Step], options: Options) -> Step:
    """The training rows in the forms that other tools read, in the folder `export`; `seeds`, `examples` are before."""
    source = next(step.config.source for step in before if step.name == "seeds")
    config = ExportConfig(options.chosen, source, options.seed)

    def run(folder: Folder, inputs: Inputs) -> None:
        seeds, rows = inputs["seeds"].read(Seed), inputs["examples"].read(Example)
        write_export(folder / "export", seeds, rows, made_by(inputs, options.root), config)

    def said(folder: Folder, inputs: Inputs) -> list[str]:
        return export_remarks(folder / "export", config)

    return Step("export", config, run, tuple(before), publish=("export",), remarks=said)
