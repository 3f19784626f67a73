"""How a survey question is put to a model: the same words for training, evaluation and serving."""

from collections.abc import Sequence

from cp_ray.cultures import Culture
from cp_ray.records import Message

__all__ = ["FRAMES", "ask", "persona"]

_PERSONA = "You are {adjective}."
FRAMES = (
    "{question}\nOptions: {options}",
    "Here is a question from a survey.\n{question}\nChoose one of these answers: {options}",
    "{question}\nReply with nothing but one of the following: {options}",
)
"""Words around a question. Models are trained on the first; evaluation can ask in the others too."""


def persona(culture: Culture) -> str:
    """The system prompt that names a culture."""
    return _PERSONA.format(adjective=culture.adjective)


def ask(
    culture: Culture, question: str, options: Sequence[str], *, reverse: bool, frame: int = 0
) -> tuple[Message, ...]:
    """The chat up to the answer, which is one of the options, word for word.

    `reverse` lists the options from the other end of the scale: small models favour what stands first or last,
    and asking both ways takes that out of the average. `frame` chooses among `FRAMES`.
    """
    shown = "; ".join(reversed(options) if reverse else options)
    return (
        Message("system", persona(culture)),
        Message("user", FRAMES[frame].format(question=question, options=shown)),
    )
