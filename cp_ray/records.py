"""The rows that flow through the pipeline, and their Arrow schemas.

    Seed ─ Candidate ─ Dialogue ─ Opinion ─┐
      └─── Paraphrase ─ Translation ───────┴─ Example ─ Prediction ─ Score

Each row is a frozen dataclass. Its Arrow schema is derived from the dataclass, so code and data cannot
drift apart, and a column in which every value is missing keeps its type. Every row names what it came from.
`reject` is None on a row that counts; otherwise it says why the row was set aside. Rejected rows are kept.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Analysis",
    "Candidate",
    "Dialogue",
    "Example",
    "Message",
    "Nearness",
    "Opinion",
    "Paraphrase",
    "Prediction",
    "Quality",
    "Question",
    "Score",
    "Seed",
    "Split",
    "TrainPoint",
    "Translation",
    "Turn",
    "from_table",
    "schema",
    "to_table",
]

Split = Literal["train", "heldout"]
Relation = Literal["entail", "contradict", "irrelevant"]
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat, as OpenAI's API has it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Seed:
    """One survey question with one culture's real answers to it."""

    id: str
    """`culture/question_id`."""
    culture: str
    source: str
    """The survey: `wvs7`, `goqa`, or the name of the user's file."""
    question_id: str
    topic: str
    question: str
    options: tuple[str, ...]
    """In the order of the scale, so that neighbours are the most alike."""
    distribution: tuple[float, ...]
    """Share of each option among the valid answers; sums to 1."""
    respondents: int
    """How many gave a valid answer; 0 where the survey does not tell."""
    stance: str
    """The option most often chosen."""
    split: Split
    """Decided by question: a held-out question is held out in every culture."""
    place: int = 0
    """Its question's, in an order of which every beginning is spread over the topics."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A seed that is to be talked about, for the `sample`-th time."""

    id: str
    """`culture/question_id/sample`."""
    seed: Seed
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance of a dialogue."""

    speaker: str
    prompt_kind: str
    """Which guidance brought it about."""
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A talk between a main contact and a delegate who is bound to a seed's stance."""

    id: str
    seed_id: str
    culture: str
    style: str
    """`guided`: a moderator's guidance before every utterance; `free`: before the first of each speaker only."""
    setting: str
    """`cross`: the main contact is of another culture; `in`: of the same, and bound to the same stance."""
    contact: str
    delegate: str
    claim: str
    """What the survey says, in one sentence: the yardstick for `verify`."""
    topic: str
    question: str
    turns: tuple[Turn, ...]
    teacher: str
    reject: str | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What one utterance of a dialogue is about, and what it does to the talk, as the teacher judged it."""

    id: str
    """`dialogue_id/place`."""
    dialogue_id: str
    seed_id: str
    culture: str
    speaker: str
    text: str
    topic: str | None = None
    """`belief`, `norm`, `custom` or `none`."""
    kind: str | None = None
    """Of the topic: `religious`, `legal`, …"""
    extends: bool | None = None
    """It carries the talk further; None for the first utterance."""
    understands: bool | None = None
    """It shows understanding of the other's culture."""
    reject: str | None = None


@dataclass(frozen=True, slots=True)
class Opinion:
    """One opinion that a speaker bound to the seed's stance voiced, or that was asked for without a dialogue."""

    id: str
    dialogue_id: str
    seed_id: str
    culture: str
    speaker: str
    claim: str
    question: str
    text: str
    relation: Relation | None = None
    """To the claim, as the teacher judged it last."""
    rewritten: bool = False
    """It contradicted the claim and was rewritten to agree with it."""
    reject: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A survey question by itself, which is the same for all cultures."""

    id: str
    topic: str
    question: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Paraphrase:
    """Another wording of a survey question."""

    id: str
    question_id: str
    question: str
    """As the survey has it."""
    options: tuple[str, ...]
    text: str
    way: str
    """How it was made: `template` (another structure), `synonym` (other words), `translation` (there and back), or
    `survey`: it is the survey's own."""
    parents: tuple[str, ...] = ()
    """Ids of the wordings it was made from; none for one that was made from the question itself."""
    similarity: float | None = None
    """Cosine of the two wordings' sentence vectors; None until it is measured."""
    reject: str | None = None


@dataclass(frozen=True, slots=True)
class Translation:
    """All wordings of a question, and its options, in another language."""

    id: str
    """`language/question_id`."""
    language: str
    question_id: str
    wordings: tuple[str, ...]
    """Ids of the paraphrases, in the order of `texts`."""
    texts: tuple[str, ...]
    options: tuple[str, ...]
    reject: str | None = None


@dataclass(frozen=True, slots=True)
class Nearness:
    """A text that training rows are made of, and the held-out question that is nearest to it."""

    id: str
    """Of the row that it comes from, or the question's."""
    text: str
    question_id: str = ""
    similarity: float = 0.0
    """Cosine of the sentence vectors."""
    reject: str | None = None


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a text is to train on, by figures."""

    id: str
    """Of the row whose text it is."""
    culture: str
    seed_id: str
    kind: str
    """`opinion` or `paraphrase`."""
    text: str
    words: int
    similarity: float
    """Cosine to the seed's question."""
    margin: float | None
    """By how much its relation to the survey was the likeliest; None where that is not known."""
    perplexity: float | None
    """Of a language model, per token; None where there is no text."""
    reject: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One chat to train on; the loss is taken on the assistant's messages only."""

    id: str
    culture: str
    kind: str
    """`answer`: a survey answer drawn from the real distribution; `opinion`: from a dialogue."""
    question_id: str
    messages: tuple[Message, ...]
    parents: tuple[str, ...]
    """Ids of the rows it was made from."""
    split: Split


@dataclass(frozen=True, slots=True)
class TrainPoint:
    """One optimiser step of a training run."""

    culture: str
    step: int
    loss: float
    """Negative log-likelihood of an answer, in nats: the mean over the step's batch."""
    learning_rate: float
    tokens: int
    """Tokens seen so far, prompts included."""
    seconds: float
    """Since the first step."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model said to one item."""

    id: str
    model: str
    """`uniform`, `base`, or the culture whose adapter it is."""
    culture: str
    """Whose answers it is asked for."""
    task: str
    """`survey_heldout`, `survey_train` or `chat`."""
    item: str
    output: str
    probabilities: tuple[float, ...] = ()
    """Over the item's options, in the order of the scale; empty for free text."""


@dataclass(frozen=True, slots=True)
class Score:
    """One measure of one model on one culture's answers."""

    model: str
    culture: str
    task: str
    metric: str
    """`emd` or `jsd`: 0 is a perfect match, 1 the farthest possible."""
    value: float
    low: float
    """Lower end of the 95 % bootstrap interval over questions."""
    high: float
    n: int
    """Questions."""


@functools.cache
def schema(row: type) -> pa.Schema:
    """The Arrow schema of a row type."""
    import pyarrow as pa

    return pa.schema(_fields(row))


def to_table(rows: Iterable[Any], row: type) -> pa.Table:
    """An Arrow table with one line per row, in the declared schema even when there are no rows."""
    import pyarrow as pa

    return pa.Table.from_pylist([dataclasses.asdict(r) for r in rows], schema=schema(row))


def from_table(table: pa.Table, row: type[Row]) -> list[Row]:
    """The rows of an Arrow table; the inverse of `to_table`.

    Raises:
        TypeError: a column that the row type needs is missing.
    """
    return [_build(row, line) for line in table.to_pylist()]


@functools.cache
def _hints(row: type) -> dict[str, Any]:
    return typing.get_type_hints(row)


def _fields(row: type) -> list[pa.Field]:
    import pyarrow as pa

    hints = _hints(row)
    return [pa.field(f.name, _arrow(hints[f.name])) for f in dataclasses.fields(row)]


def _arrow(hint: Any) -> pa.DataType:
    import pyarrow as pa

    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if hint in plain:
        return plain[hint]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return pa.struct(_fields(hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return pa.string()
    if origin is tuple:
        return pa.list_(_arrow(arguments[0]))
    if origin in (types.UnionType, typing.Union):
        return _arrow(next(a for a in arguments if a is not type(None)))
    raise TypeError(f"no Arrow type is known for {hint!r}; use str, int, float, bool, tuple or a dataclass")


def _build(hint: Any, value: Any) -> Any:
    """`value`, as Arrow gives it back, in the type that the dataclass declares."""
    if value is None:
        return None
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = _hints(hint)
        return hint(**{name: _build(hints[name], v) for name, v in value.items() if name in hints})
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(_build(inner, v) for v in value)
    return value
