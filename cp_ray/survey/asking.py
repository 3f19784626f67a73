"""How a survey question is put to a model: the same words for training, evaluation and serving."""

from collections.abc import Sequence

from cp_ray.cultures import Culture
from cp_ray.records import Message

__all__ = ["ask", "persona"]

_PERSONA = "You are {adjective}."
_QUESTION = "{question}\nOptions: {options}"


def persona(culture: Culture) -> str:
    """The system prompt that names a culture."""
    return _PERSONA.format(adjective=culture.adjective)


def ask(culture: Culture, question: str, options: Sequence[str], *, reverse: bool) -> tuple[Message, ...]:
    """The chat up to the answer, which is one of the options, word for word.

    `reverse` lists the options from the other end of the scale: small models favour what stands first or last,
    and asking both ways takes that out of the average.
    """
    shown = "; ".join(reversed(options) if reverse else options)
    return (
        Message("system", persona(culture)),
        Message("user", _QUESTION.format(question=question, options=shown)),
    )
