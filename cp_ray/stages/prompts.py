"""What the speakers of a dialogue are told, in our own words.

The kinds of guidance are CulturePark's (arXiv 2405.15145).
"""

from dataclasses import dataclass

from cp_ray.llm.structured import schema_text

__all__ = ["CLAIM", "OPINIONS", "PROMPTS", "DialoguePrompts", "Guidance"]

CLAIM = 'Asked "{question}", {people} most often answer "{stance}".'
"""What the survey says, in one sentence."""

OPINIONS = schema_text(
    {
        "type": "object",
        "properties": {"opinions": {"type": "array", "items": {"type": "string"}}},
        "required": ["opinions"],
        "additionalProperties": False,
    }
)
"""JSON Schema of a list of opinions."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the moderator tells a speaker before an utterance."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class DialoguePrompts:
    """All that is said to the speakers."""

    delegate: str = (
        "You are {name}, {a_culture} {gender}. You are having a friendly talk with {partner}, {a_partner} "
        "{partner_gender}. {claim} That is your view, too. Speak as {name}, in two or three plain sentences."
    )
    contact: str = (
        "You are {name}, {a_culture} {gender}. You are having a friendly talk with {partner}, {a_partner} "
        '{partner_gender}, about this: "{question}" You want to understand how {partner_people} see it. Speak as '
        "{name}, for yourself and for life in your own country, in two or three plain sentences."
    )
    uncalibrated: str = (
        "You are {name}, {a_culture} {gender}. You are having a friendly talk with {partner}, {a_partner} "
        '{partner_gender}, about this: "{question}" Speak as {name}, for yourself and for life in your own country, '
        "in two or three plain sentences."
    )
    """For the delegate, where it is not told the survey's answer."""
    claim: str = CLAIM
    question: str = "{question}\n{guidance}"
    reply: str = '{partner}: "{text}"\n{guidance}'
    rounds: tuple[tuple[Guidance, Guidance], ...] = (
        (
            Guidance("opinion", "Tell {partner} what you think about this, and why."),
            Guidance("respond", "Answer {partner}: say what you think yourself, and why."),
        ),
        (
            Guidance("agree", "Do you agree with {partner}? Give one more reason for your own view."),
            Guidance("respond", "Say what you find convincing in this and what you do not."),
        ),
        (
            Guidance("culture", "Tell {partner} how people in your country think about this."),
            Guidance("compare", "Tell {partner} what is different where you live."),
        ),
        (
            Guidance("custom", "Name a custom or a habit of your country that has to do with this."),
            Guidance("respond", "Say what you make of it."),
        ),
        (
            Guidance("example", "Tell {partner} of a situation in daily life that shows your view."),
            Guidance("example", "Tell {partner} of a situation in your own daily life."),
        ),
        (
            Guidance("introduce", "Tell {partner} something about your culture that helps to understand your view."),
            Guidance("introduce", "Tell {partner} something about your culture that matters here."),
        ),
        (
            Guidance("learnt", "Say what new thoughts this talk gave you, and what you still hold."),
            Guidance("learnt", "Say what new thoughts this talk gave you."),
        ),
    )
    """For each round between cultures: the delegate's guidance, then the main contact's."""
    rounds_within: tuple[tuple[Guidance, Guidance], ...] = (
        (
            Guidance("opinion", "Tell {partner} what you think about this, and why."),
            Guidance("respond", "Answer {partner}: say what you think yourself, and why. You may well differ."),
        ),
        (
            Guidance("culture", "Give {partner} one more reason for your view that comes from how people live here."),
            Guidance("culture", "Say what you think of it, and add a reason that comes from how people live here."),
        ),
        (
            Guidance("more", "Has {partner} overlooked something? Tell of it."),
            Guidance("more", "Has {partner} overlooked something? Tell of it."),
        ),
        (
            Guidance("custom", "Name a custom or a habit of our country that has to do with this."),
            Guidance("respond", "Say what you make of it."),
        ),
        (
            Guidance("respond", "Say what you find convincing in this and what you do not."),
            Guidance("custom", "Name another custom or habit of our country that has to do with this."),
        ),
        (
            Guidance("example", "Tell {partner} of a situation in daily life that shows your view."),
            Guidance("example", "Tell {partner} of a situation in your own daily life."),
        ),
        (
            Guidance("learnt", "Say what new thoughts this talk gave you, and what you still hold."),
            Guidance("learnt", "Say what new thoughts this talk gave you."),
        ),
    )
    """The same for two of one culture."""
    free: str = "{text}"
    """What a speaker hears in a free talk, from the second utterance of the first round on."""


PROMPTS = DialoguePrompts()
