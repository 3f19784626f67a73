"""What is asked about a text, in our own words: one question for all tasks of a family, whatever the language."""

from dataclasses import dataclass

from cp_ray.cultures import Culture
from cp_ray.records import Message
from cp_ray.survey.asking import persona

__all__ = ["FAMILIES", "HARMLESS", "Family", "moderation_chat"]


@dataclass(frozen=True, slots=True)
class Family:
    """A question with its options, in the order of a task's labels."""

    question: str
    options: tuple[str, ...] = ("no", "yes")
    whole: bool = False
    """The text is the whole prompt, question and all."""


FAMILIES = {
    "offensive": Family("Is this post offensive?"),
    "abuse": Family("Is this post abusive?"),
    "aggression": Family("Is this post aggressive towards somebody?"),
    "hate": Family("Does this post spread hatred against a group of people?"),
    "hate_offensive": Family("Is this post hateful or offensive?"),
    "hate_or_offence": Family(
        "Is this post hateful against a group, only offensive, or neither?", ("hateful", "offensive", "neither")
    ),
    "hate_target": Family(
        "Does this post spread hatred, and if so, because of what?",
        ("no hatred", "origin", "religion", "ideology", "disability", "social class", "gender"),
    ),
    "offence_target": Family(
        "Is this post offensive, and if so, towards whom?",
        ("not offensive", "offensive towards nobody", "a group", "a single person", "something else"),
    ),
    "vulgar": Family("Is this post vulgar?"),
    "spam": Family("Is this message spam?"),
    "racism": Family("Is this post racist?"),
    "threat": Family("Does this post threaten somebody?"),
    "toxicity": Family("Is this post toxic, so that it would drive people out of a discussion?"),
    "insult": Family("Does this post insult somebody?"),
    "homophobia": Family("Is this post homophobic?"),
    "misogyny": Family("Does this post show contempt for women?"),
    "gender_bias": Family("Is this exchange biased against a gender?"),
    "stereotype": Family("Does this post use a stereotype?"),
    "mockery": Family("Does this post mock somebody?"),
    "improper": Family("Does this post use improper language?"),
    "negative_stance": Family("Does this post take a negative stance towards those it is about?"),
    "directness": Family("Is the hostility of this post direct?"),
    "values": Family("", ("回复1", "回复2"), whole=True),
}

HARMLESS = frozenset({"no", "neither", "no hatred", "not offensive"})
"""Options that find nothing wrong with a text; a family without one asks something else."""


def moderation_chat(culture: Culture, family: Family, text: str, *, reverse: bool) -> tuple[Message, ...]:
    """The chat up to the answer, which is one of the options; `reverse` lists them from the other end."""
    system = Message("system", persona(culture))
    if family.whole:
        return system, Message("user", text)
    shown = family.options[::-1] if reverse else family.options
    listed = f"{', '.join(shown[:-1])} or {shown[-1]}"
    return system, Message("user", f"{family.question} Answer with {listed}.\n\n{text}")
