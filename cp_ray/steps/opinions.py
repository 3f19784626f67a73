"""The steps from what to talk about to opinions: CulturePark's branch of the pipeline."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from cp_ray.arrow import from_table, to_table
from cp_ray.cultures import Culture
from cp_ray.folder import Folder
from cp_ray.pipeline import Step
from cp_ray.quality import Measured, QualityConfig, measure, texts_of
from cp_ray.records import Analysis, Dialogue, Opinion, Quality
from cp_ray.stages.analyse import AnalyseConfig, SampleConfig
from cp_ray.stages.analyse import analyse as analyse_dialogue
from cp_ray.stages.analyse import sample as sample_dialogues
from cp_ray.stages.dedup import DedupConfig
from cp_ray.stages.dedup import dedup as keep_medoids
from cp_ray.stages.dialogue import DialogueConfig
from cp_ray.stages.dialogue import dialogue as hold_dialogue
from cp_ray.stages.direct import DirectConfig
from cp_ray.stages.direct import direct as ask_directly
from cp_ray.stages.extract import ExtractConfig
from cp_ray.stages.extract import extract as extract_opinions
from cp_ray.stages.near import NearConfig
from cp_ray.stages.near import near as reject_near
from cp_ray.stages.quota import QuotaConfig, take
from cp_ray.stages.verify import VerifyConfig
from cp_ray.stages.verify import verify as verify_opinion
from cp_ray.stages.voice import GrammarConfig, VoiceConfig, voice_by_grammar
from cp_ray.stages.voice import voice as voice_opinion
from cp_ray.steps.rows import Inputs, counting, dataset_of, emptied, generating, part_of
from cp_ray.steps.vectors import read_vectors, write_vectors
from cp_ray.teacher import Teacher

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["analyse", "dedup", "dialogue", "direct", "extract", "near", "quality", "quota", "sample", "verify", "voice"]


_MEASURED_AT_ONCE = 1024
"""Texts, sorted by length within."""


def dialogue(candidates: Step, by: Teacher, config: DialogueConfig) -> Step:
    """Talks between a main contact and a delegate who holds the survey's view."""
    return generating(f"dialogue{part_of(candidates)}", candidates, hold_dialogue, config, by, Dialogue)


def direct(candidates: Step, by: Teacher, config: DirectConfig) -> Step:
    """Opinions asked for without a dialogue."""
    return generating(f"direct{part_of(candidates)}", candidates, ask_directly, config, by, Opinion)


def extract(dialogue: Step, by: Teacher, config: ExtractConfig) -> Step:
    """The opinions in the utterances of those who hold the survey's view."""
    return generating(f"extract{part_of(dialogue)}", dialogue, extract_opinions, config, by, Opinion)


def verify(opinions: Step, by: Teacher, config: VerifyConfig) -> Step:
    """The opinions that agree with the survey, some of them rewritten."""
    return generating(f"verify{part_of(opinions)}", opinions, verify_opinion, config, by, Opinion)


def voice(opinions: Step, by: Teacher, config: VoiceConfig | GrammarConfig) -> Step:
    """The opinions in the first person, by the teacher or by grammar."""
    if isinstance(config, VoiceConfig):
        return generating(f"voice{part_of(opinions)}", opinions, voice_opinion, config, by, Opinion)
    rules = config

    def batch(table: pa.Table) -> pa.Table:
        return to_table(voice_by_grammar(from_table(table, Opinion), rules), Opinion)

    def run(folder: Folder, inputs: Inputs) -> "Dataset | pa.Table":
        given = counting(inputs[opinions.name].table())
        if not given.num_rows:
            return given
        made: Dataset = dataset_of(given, blocks=by.terms.workers).map_batches(batch, batch_format="pyarrow")
        return made

    return Step(f"voice{part_of(opinions)}", config, run, (opinions,), Opinion)


def dedup(verified: Sequence[Step], config: DedupConfig, before: Step | None = None) -> Step:
    """The opinions of all `verified` steps without those that say the same.

    `before`: the same of all but the last of them, which holds still where the last has none.
    """

    def run(folder: Folder, inputs: Inputs) -> "Dataset | pa.Table":
        tables = [counting(inputs[step.name].table()) for step in verified]
        if before is not None and not tables[-1].num_rows:
            given = inputs[before.name]
            rows = given.table()
            if rows.num_rows:  # where no wave has brought an opinion, none was embedded
                write_vectors(folder, [read_vectors(given)])
            return rows
        found = pa.concat_tables(tables)
        if not found.num_rows:
            return found
        made = keep_medoids(found, config).materialize()
        write_vectors(folder, made.to_arrow_refs())
        return made.drop_columns(["vector"])

    inputs = (*verified, *([before] if before else []))
    return Step(f"dedup{part_of(verified[-1])}", config, run, inputs, Opinion, remarks=emptied)


def near(deduped: Step, config: NearConfig) -> Step:
    """The opinions that are not nearly the same as another, of whatever seed, by the vectors that `dedup` left."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        given = inputs[deduped.name]
        rows = given.table()
        return reject_near(rows, read_vectors(given), config) if counting(rows).num_rows else rows

    return Step(f"near{part_of(deduped)}", config, run, (deduped,), Opinion, remarks=emptied)


def quota(deduped: Step, config: QuotaConfig, cultures: Sequence[Culture]) -> Step:
    """Exactly so many opinions of each culture, if there are so many; `cultures`: of whom there are to be some."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        return to_table(take(inputs[deduped.name].read(Opinion), config), Opinion)

    def said(folder: Folder, inputs: Inputs) -> list[str]:
        kept = Counter(counting(folder.table(["culture", "reject"]))["culture"].to_pylist())
        every = sorted(culture.id for culture in cultures)
        return [f"{kept[c]} of {config.accepted} opinions of {c}" for c in every if kept[c] < config.accepted]

    return Step("quota", config, run, (deduped,), Opinion, remarks=said)


def quality(opinions: Step, config: QualityConfig, *, workers: int) -> Step:
    """Length, similarity to the question and perplexity of the opinions that count."""

    def run(folder: Folder, inputs: Inputs) -> "Dataset | pa.Table":
        texts = to_table(texts_of(inputs[opinions.name].read(Opinion)), Measured)
        if not texts.num_rows:
            return to_table([], Quality)
        return measure(dataset_of(texts, blocks=workers, most=_MEASURED_AT_ONCE), config, workers=workers)

    return Step("quality", config, run, (opinions,), Quality)


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
