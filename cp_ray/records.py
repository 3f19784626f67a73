"""The rows that flow through the pipeline.

    Seed ─ Candidate ─ Dialogue ─ Opinion ─┐
      ├─── Paraphrase ─ Translation ───────┼─ Example ─ Prediction ─ Score
      └─── Mixture ────────────────────────┘

Each row is a frozen dataclass, from which its Arrow schema is derived (`cp_ray.arrow`). Every row names what it came
from. `reject` is None on a row that counts; otherwise it says why the row was set aside. Rejected rows are kept.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Analysis",
    "Candidate",
    "Dialogue",
    "Example",
    "Item",
    "Message",
    "Mixture",
    "Nearness",
    "Opinion",
    "Paraphrase",
    "Prediction",
    "Quality",
    "QuestionScore",
    "Score",
    "Seed",
    "Split",
    "TextLoss",
    "TrainPoint",
    "Translation",
    "Turn",
]

Split = Literal["train", "heldout"]
Relation = Literal["entail", "contradict", "irrelevant"]


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
    duplicate_of: str | None = None
    """Of one that was set aside because another says the same: the id of that other, the nearest of those kept."""
    margin: float | None = None
    """The probability of its relation less that of the likeliest other, as the teacher judged it last; from -1 to 1."""
    no_margin: str | None = None
    """Why there is none, once it was judged."""


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
class Mixture:
    """A question that begins like one training question of a culture and ends like another."""

    id: str
    """`culture/question_id+other_question_id`."""
    culture: str
    question_id: str
    """It begins like this one."""
    other_question_id: str
    """It ends like this one."""
    cut: float
    """Of the words that the two do not begin with alike: the share that the first one gives."""
    text: str
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
    """By how much its relation to the survey was the likeliest: `Opinion.margin`."""
    no_margin: str | None
    """Why that is not known."""
    perplexity: float | None
    """Of a language model, per token; None where there is no text."""
    language: str
    """The likeliest, in ISO 639; `und` where nothing tells."""
    language_probability: float
    """Its, among the languages that are told apart."""
    reject: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One chat to train on; the loss is taken on the assistant's messages only."""

    id: str
    culture: str
    kind: str
    """`answer`: a survey answer, in proportion to what people answered, pooled or not; `mixed`: one to a question made
    of two; `opinion`: from a dialogue."""
    question_id: str
    messages: tuple[Message, ...]
    parents: tuple[str, ...]
    """Ids of the rows it was made from."""
    split: Split
    options: tuple[str, ...] = ()
    """Of a survey question, one of which is the answer; an opinion has none."""
    other_question_id: str = ""
    """Of a question made of two, that which it ends like."""


@dataclass(frozen=True, slots=True)
class TrainPoint:
    """One optimiser step of an adapter."""

    model: str
    """The adapter's name: a culture's id, or `unified`."""
    step: int
    loss: float
    """Negative log-likelihood of an answer, in nats: the mean over the step's batch."""
    learning_rate: float
    tokens: int
    """Tokens seen so far, prompts included."""
    seconds: float
    """Since the first step."""
    validation: float | None = None
    """The same loss on the questions that are kept to validate with, where it was time for that."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that models are asked in an evaluation: a chat, and the options to choose among."""

    id: str
    culture: str
    """Whose answer it is, or in whose language."""
    task: str
    messages: tuple[Message, ...]
    options: tuple[str, ...]
    """As they stand in the chat, but in the order of the scale or of the task's labels."""
    gold: str = ""
    """The right option; empty where none is right."""
    source: str = ""
    """What it was made from: a question's id, or a file and its line."""
    reject: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model said to one item."""

    id: str
    model: str
    """`base`, the culture whose adapter it is, or an endpoint's name."""
    culture: str
    """Whose answers it is asked for."""
    task: str
    """`survey_heldout`, `survey_train`, `chat`, or another evaluation's."""
    item: str
    output: str
    probabilities: tuple[float, ...] = ()
    """Over the item's options, in the order of the scale; empty for free text."""
    asked: tuple[tuple[float, ...], ...] = ()
    """Those that each way of asking gave, of which the above are the mean: the options from one end of the scale and
    from the other, then the same in each other wording. Empty where there was one way."""
    lost: float = 0.0
    """Share of the answers, drawn or by probability, that name no option; they count nowhere else."""
    way: str = ""
    """How the probabilities were found: `cp_ray.evals.choose.WHOLE`, or one of `cp_ray.evals.answer`."""
    reject: str | None = None


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """One answerer's distances to one culture's answers to one question."""

    model: str
    """An adapter, `base`, an endpoint, one of the answerers that know nothing (`cp_ray.evals.nulls`), or `human`."""
    culture: str
    question_id: str
    topic: str
    split: Split
    emd: float
    jsd: float
    order_gap: float | None = None
    """Earth mover's distance between its answers when the options are listed from either end of the scale."""
    wording_gap: float | None = None
    """The mean of that between its answers to each two wordings."""


@dataclass(frozen=True, slots=True)
class TextLoss:
    """What a model makes of a text that it is given."""

    model: str
    text: str
    """Its number."""
    tokens: int
    nats: float
    """Negative log-likelihood of all of them."""
    agreed: int
    """Tokens before which its likeliest one was the base's likeliest too."""


@dataclass(frozen=True, slots=True)
class Score:
    """One measure of one model."""

    model: str
    culture: str
    task: str
    """`survey_heldout` and the like; `survey_heldout/<topic>` for the questions of a topic."""
    metric: str
    """`emd`, `jsd`: a distance, 0 is a perfect match, 1 the farthest possible. `skill_emd`, `skill_jsd`: 0 is a
    uniform answerer, 1 one half of the people against the other. `order_stability`, `wording_stability`: 1 is the same
    answer however it is asked. `macro_f1`, `unparsable`: of a classification task."""
    value: float
    low: float
    """Lower end of the 95 % interval over the items."""
    high: float
    n: int
    """Items."""
