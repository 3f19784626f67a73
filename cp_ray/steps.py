"""The pipeline's steps: each function gives one `Step`, to be composed by a recipe in jobs/.

Here, and only here, stages meet the run folder, Ray and the teacher.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from cp_ray.cultures import Culture
from cp_ray.evals import ask as asking
from cp_ray.evals import report as reports
from cp_ray.evals import survey as surveys
from cp_ray.exports.config import ExportConfig
from cp_ray.exports.export import made_by, write_export
from cp_ray.exports.export import remarks as export_remarks
from cp_ray.llm.ledger import join_parts
from cp_ray.pipeline import Folder, Step
from cp_ray.progress import watched
from cp_ray.quality import Measured, QualityConfig, measure, texts_of
from cp_ray.recipe import Options
from cp_ray.records import (
    Analysis,
    Candidate,
    Dialogue,
    Example,
    Nearness,
    Opinion,
    Paraphrase,
    Prediction,
    Quality,
    Score,
    Seed,
    Translation,
    from_table,
    to_table,
)
from cp_ray.rollout import Stage, rollout
from cp_ray.stages.analyse import AnalyseConfig, SampleConfig
from cp_ray.stages.analyse import analyse as analyse_dialogue
from cp_ray.stages.analyse import sample as sample_dialogues
from cp_ray.stages.dedup import DedupConfig
from cp_ray.stages.dedup import dedup as keep_medoids
from cp_ray.stages.dialogue import DialogueConfig
from cp_ray.stages.dialogue import dialogue as hold_dialogue
from cp_ray.stages.direct import DirectConfig
from cp_ray.stages.direct import direct as ask_directly
from cp_ray.stages.examples import ExamplesConfig, make_examples
from cp_ray.stages.extract import ExtractConfig
from cp_ray.stages.extract import extract as extract_opinions
from cp_ray.stages.near import NearConfig
from cp_ray.stages.near import near as reject_near
from cp_ray.stages.quota import QuotaConfig, next_wave, take
from cp_ray.stages.seeds import CandidatesConfig, SeedsConfig, make_seeds
from cp_ray.stages.seeds import candidates as make_candidates
from cp_ray.stages.verify import VerifyConfig
from cp_ray.stages.verify import verify as verify_opinion
from cp_ray.stages.voice import GrammarConfig, VoiceConfig, voice_by_grammar
from cp_ray.stages.voice import voice as voice_opinion
from cp_ray.survey.read import read_survey
from cp_ray.teacher import Teacher
from cp_ray.training.config import Placement, TrainConfig

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = [
    "analyse", "answers", "candidates", "dedup", "dialogue", "direct", "evaluate", "examples", "export", "extract",
    "near", "predict", "quality", "quota", "report", "sample", "seeds", "teacher", "train", "verify", "voice", "wave",
]  # fmt: skip

Inputs = Mapping[str, Folder]
Row = TypeVar("Row")


def teacher(options: Options) -> Teacher:
    """The model that generates; the same object for all generating steps of a run."""
    return Teacher(options.teacher_url, options.teacher_model, options.terms, options.root)


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


def dialogue(candidates: Step, by: Teacher, config: DialogueConfig) -> Step:
    """Talks between a main contact and a delegate who holds the survey's view."""
    return generating(f"dialogue{_part(candidates)}", candidates, hold_dialogue, config, by, Dialogue)


def sample(dialogues: Sequence[Step], config: SampleConfig) -> Step:
    """Some whole dialogues of each culture."""
    dialogues = tuple(dialogues)

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        every = [row for step in dialogues for row in inputs[step.name].read(Dialogue)]
        return to_table(sample_dialogues(every, config), Dialogue)

    return Step("sample", config, run, dialogues, Dialogue)


def analyse(sampled: Step, by: Teacher, config: AnalyseConfig) -> Step:
    """What the utterances are about, and whether they carry the talk further and understand the other."""
    return generating("analyse", sampled, analyse_dialogue, config, by, Analysis)


def direct(candidates: Step, by: Teacher, config: DirectConfig) -> Step:
    """Opinions asked for without a dialogue."""
    return generating(f"direct{_part(candidates)}", candidates, ask_directly, config, by, Opinion)


def extract(dialogue: Step, by: Teacher, config: ExtractConfig) -> Step:
    """The opinions in the utterances of those who hold the survey's view."""
    return generating(f"extract{_part(dialogue)}", dialogue, extract_opinions, config, by, Opinion)


def verify(opinions: Step, by: Teacher, config: VerifyConfig) -> Step:
    """The opinions that agree with the survey, some of them rewritten."""
    return generating(f"verify{_part(opinions)}", opinions, verify_opinion, config, by, Opinion)


def voice(opinions: Step, by: Teacher, config: VoiceConfig | GrammarConfig) -> Step:
    """The opinions in the first person, by the teacher or by grammar."""
    if isinstance(config, VoiceConfig):
        return generating(f"voice{_part(opinions)}", opinions, voice_opinion, config, by, Opinion)
    rules = config

    def batch(table: pa.Table) -> pa.Table:
        return to_table(voice_by_grammar(from_table(table, Opinion), rules), Opinion)

    def run(folder: Folder, inputs: Inputs) -> "Dataset | pa.Table":
        given = counting(inputs[opinions.name].table())
        if not given.num_rows:
            return given
        made: Dataset = dataset_of(given, blocks=by.terms.workers).map_batches(batch, batch_format="pyarrow")
        return made

    return Step(f"voice{_part(opinions)}", config, run, (opinions,), Opinion)


def dedup(verified: Sequence[Step], config: DedupConfig, before: Step | None = None) -> Step:
    """The opinions of all `verified` steps without those that say the same.

    `before`: the same of all but the last of them, which holds still where the last has none.
    """

    def run(folder: Folder, inputs: Inputs) -> "Dataset | pa.Table":
        tables = [counting(inputs[step.name].table()) for step in verified]
        if before is not None and not tables[-1].num_rows:
            return inputs[before.name].table()
        found = pa.concat_tables(tables)
        return keep_medoids(dataset_of(found), config) if found.num_rows else found

    inputs = (*verified, *([before] if before else []))
    return Step(f"dedup{_part(verified[-1])}", config, run, inputs, Opinion, remarks=emptied)


def near(deduped: Step, config: NearConfig) -> Step:
    """The opinions that are not nearly the same as another, of whatever seed."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        return reject_near(inputs[deduped.name].table(), config)

    return Step(f"near{_part(deduped)}", config, run, (deduped,), Opinion, remarks=emptied)


def quota(deduped: Step, config: QuotaConfig) -> Step:
    """Exactly so many opinions of each culture, if there are so many."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        return to_table(take(inputs[deduped.name].read(Opinion), config), Opinion)

    def said(folder: Folder, inputs: Inputs) -> list[str]:
        rows = folder.table(["culture", "reject"])
        kept = Counter(counting(rows)["culture"].to_pylist())
        every = sorted(set(rows["culture"].to_pylist()))
        return [f"{kept[c]} of {config.accepted} opinions of {c}" for c in every if kept[c] < config.accepted]

    return Step("quota", config, run, (deduped,), Opinion, remarks=said)


def quality(opinions: Step, config: QualityConfig, *, workers: int) -> Step:
    """Length, similarity to the question and perplexity of the opinions that count."""

    def run(folder: Folder, inputs: Inputs) -> "Dataset | pa.Table":
        texts = to_table(texts_of(inputs[opinions.name].read(Opinion)), Measured)
        if not texts.num_rows:
            return to_table([], Quality)
        return measure(dataset_of(texts, blocks=workers), config, workers=workers)

    return Step("quality", config, run, (opinions,), Quality)


def examples(
    seeds: Step,
    config: ExamplesConfig,
    *,
    leakage: Step,
    opinions: Step | None = None,
    wordings: Step | None = None,
    translations: Step | None = None,
    quality: Step | None = None,
) -> Step:
    """Chats to train on, without what is near to a held-out question or of poor quality."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        def rows(step: Step | None, row: type[Row]) -> list[Row]:
            return inputs[step.name].read(row) if step is not None else []

        left_out: list[Nearness | Quality] = [*rows(leakage, Nearness), *rows(quality, Quality)]
        made = make_examples(
            rows(seeds, Seed), rows(opinions, Opinion), config,
            wordings=rows(wordings, Paraphrase), translations=rows(translations, Translation),
            left_out=[row.id for row in left_out if row.reject is not None],
        )  # fmt: skip
        return to_table(made, Example)

    def said(folder: Folder, inputs: Inputs) -> list[str]:
        rows = folder.table(["culture", "kind"]).to_pylist()
        if opinions is None:
            return []
        bare = {row["culture"] for row in rows} - {row["culture"] for row in rows if row["kind"] == "opinion"}
        return [f"no opinion of {', '.join(sorted(bare))}: answers of the survey alone"] if bare else []

    given = [step for step in (seeds, opinions, wordings, translations, leakage, quality) if step is not None]
    return Step("examples", config, run, tuple(given), Example, remarks=said)


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


def train(examples: Step, config: TrainConfig, placement: Placement) -> Step:
    """One culture's adapter: the folder `adapter` (PEFT) and the rows of `log` (TrainPoint)."""

    def run(folder: Folder, inputs: Inputs) -> None:
        from cp_ray.training.fit import fit

        own = [e for e in inputs["examples"].read(Example) if e.culture == config.culture.id]
        with watched(f"train {config.culture.id}", unit="steps") as progress:
            fit(config, placement, own, folder, progress=progress)

    return Step(f"train.{config.culture.id}", config, run, (examples,))


def predict(seeds: Step, trained: Sequence[Step], base_model: str, *, workers: int) -> Step:
    """What the untrained base and every adapter answer to every culture's questions."""
    config = surveys.PredictConfig(base_model, tuple(step.config.culture.id for step in trained), seeds.config.cultures)

    def run(folder: Folder, inputs: Inputs) -> "Dataset":
        rows = inputs["seeds"].read(Seed)
        adapters = {culture.id: folder for culture, folder in _adapters(trained, inputs).items()}
        with watched("predict", total=len(rows) * (1 + len(adapters)), unit="answers") as progress:
            made: Dataset = surveys.predict(rows, config, adapters, workers=workers, progress=progress).materialize()
            return made

    return Step("predict", config, run, (seeds, *trained), Prediction)


def evaluate(seeds: Step, predict: Step, config: surveys.ScoreConfig) -> Step:
    """Distances between the models' answers and the people's."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        scores = surveys.score(inputs["predict"].read(Prediction), inputs["seeds"].read(Seed), config)
        return to_table(scores, Score)

    return Step("evaluate", config, run, (seeds, predict), Score)


def answers(seeds: Step, trained: Sequence[Step], config: asking.AskConfig) -> Step:
    """Every culture model's answer to the same question, asked as an application would ask it."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        rows = asking.ask_served_models(inputs["seeds"].read(Seed), config, _adapters(trained, inputs))
        return to_table(rows, Prediction)

    return Step("serve", config, run, (seeds, *trained), Prediction)


def report(steps: Sequence[Step], options: Options) -> Step:
    """One page on a run: `report.html`, and its figures in short in `summary.txt`. `seeds` is one of the steps."""
    source = next(step.config.source for step in steps if step.name == "seeds")
    config = reports.ReportConfig(options.chosen, source)

    def run(folder: Folder, inputs: Inputs) -> None:
        page, summary = reports.render(inputs, options.root, config)
        folder.write_text("report.html", page)
        folder.write_text("summary.txt", summary)

    return Step("report", config, run, tuple(steps), publish=("report.html",))


def generating(name: str, rows: Step, stage: Stage[Any, Any, Any], config: Any, by: Teacher, row_out: type) -> Step:
    """A step that rolls a stage out over the rows of another that count."""
    row_in = rows.rows
    if row_in is None:
        raise TypeError(f"{rows.name} makes files, not rows")

    def run(folder: Folder, inputs: Inputs) -> "Dataset | pa.Table":
        given = counting(inputs[rows.name].table())
        if not given.num_rows:
            return to_table([], row_out)
        door = by.door(name)
        with watched(name, total=given.num_rows, unit="rows") as progress:
            made: Dataset = rollout(
                dataset_of(given, blocks=by.terms.workers), stage, config, door,
                rows_in=row_in, rows_out=row_out, workers=by.terms.workers, progress=progress,
            ).materialize()  # fmt: skip
        join_parts(door.ledger)
        by.check_outcome()
        return made

    return Step(name, config, run, (rows,), row_out, within=by, stage=stage, remarks=emptied)


def _part(step: Step) -> str:
    """`.2` of `dialogue.2`: which wave a step is of."""
    return "".join(step.name.partition(".")[1:])


def dataset_of(rows: pa.Table, blocks: int = 1) -> "Dataset":
    """A dataset of so many blocks, so that there is one for each worker."""
    import ray.data

    size = -(-rows.num_rows // blocks)
    return ray.data.from_arrow([rows.slice(k, size) for k in range(0, rows.num_rows, size)])


def counting(rows: pa.Table) -> pa.Table:
    """The rows that were not set aside."""
    import pyarrow.compute as pc

    if "reject" not in rows.column_names:
        return rows
    return rows.filter(pc.is_null(rows["reject"]))


def emptied(folder: Folder, inputs: Inputs) -> list[str]:
    """Which cultures, or which questions, have rows and none that counts."""
    rows = folder.table()
    if not rows.num_rows:
        return ["no row came in"]
    by = "culture" if "culture" in rows.column_names else "question_id"
    lost = set(rows[by].to_pylist()) - set(counting(rows)[by].to_pylist())
    return [f"nothing is left of {', '.join(sorted(lost))}"] if lost else []


def _adapters(trained: Sequence[Step], inputs: Inputs) -> dict[Culture, Folder]:
    return {step.config.culture: inputs[step.name] / "adapter" for step in trained}
