"""dialogue: a main contact and a delegate bound to a survey answer talk (CulturePark, arXiv 2405.15145).

The setting is cross-cultural: the main contact is of another culture. Every utterance follows a moderator's
guidance. A speaker sees the talk as a chat of its own: its utterances are the assistant's, the partner's and
the guidance are the user's; nothing already said is ever reworded, so each call's prompt begins with the last.
"""

from dataclasses import dataclass

from cp_ray.cultures import Culture, Persona, of
from cp_ray.errors import ConfigError
from cp_ray.llm.call import Completion, Generate, Sampling
from cp_ray.records import Dialogue, Message, Seed, Turn
from cp_ray.stages.text import article, trim_to_sentence

__all__ = ["DialogueConfig", "DialoguePrompts", "Guidance", "dialogue", "opening_messages"]


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
    claim: str = 'Asked "{question}", {people} most often answer "{stance}".'
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
    """For each round: the delegate's guidance, then the main contact's."""


@dataclass(frozen=True)
class DialogueConfig:
    """How dialogues are held."""

    teacher: str
    cultures: tuple[Culture, ...]
    """Of the seeds."""
    main_contact: Culture
    """Whose woman the delegates talk with."""
    per_culture: int | None = None
    """Training seeds of each culture to talk about, spread over the topics; None for all."""
    rounds: int = 7
    temperature: float = 0.7
    max_tokens: int = 96
    seed: int = 0
    prompts: DialoguePrompts = DialoguePrompts()

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= len(self.prompts.rounds):
            raise ConfigError(f"rounds: must be between 1 and {len(self.prompts.rounds)}, got {self.rounds}")
        if self.per_culture is not None and self.per_culture < 1:
            raise ConfigError(f"per_culture: must be at least 1, got {self.per_culture}")
        for one in self.cultures:
            # A speaker is known by the name.
            if one.male.name == self.main_contact.female.name:
                raise ConfigError(
                    f"cultures: {one.male.name!r} is the man of {one.id!r} and the woman of the main contact "
                    f"{self.main_contact.id!r}; give one of them another name"
                )


@dataclass(frozen=True, slots=True)
class _Cast:
    """Who talks."""

    delegate: Persona
    contact: Persona
    of_delegate: Culture
    of_contact: Culture


async def dialogue(seed: Seed, generate: Generate, config: DialogueConfig) -> list[Dialogue]:
    """One dialogue about one seed, or a rejected one from the turn at which the teacher gave nothing."""
    cast, prompts = _cast(seed, config), config.prompts
    views = {p.name: [Message("system", text)] for p, text in _systems(seed, cast, prompts).items()}
    turns: list[Turn] = []
    reject = None
    for guidances in prompts.rounds[: config.rounds]:
        for who, partner, guidance in zip(
            (cast.delegate, cast.contact), (cast.contact, cast.delegate), guidances, strict=True
        ):
            view = views[who.name]
            view.append(Message("user", _heard(seed, turns, partner, guidance, prompts)))
            # The draw is the turn's own, so that one dialogue's samples do not repeat from turn to turn.
            sampling = Sampling(config.temperature, config.max_tokens, config.seed * 1000 + len(turns))
            answer = await generate(view, sampling)
            text = trim_to_sentence(answer.text) if answer.finish_reason == "length" else answer.text.strip()
            reject = _reason(answer, text)
            if reject:
                return [_row(seed, cast, config, turns, reject)]
            view.append(Message("assistant", text))
            turns.append(Turn(who.name, guidance.kind, text, answer.usage.completion_tokens))
    return [_row(seed, cast, config, turns, None)]


def opening_messages(seed: Seed, config: DialogueConfig) -> list[Message]:
    """What the delegate is sent before the first utterance."""
    cast, prompts = _cast(seed, config), config.prompts
    system = _systems(seed, cast, prompts)[cast.delegate]
    first = prompts.rounds[0][0]
    return [Message("system", system), Message("user", _heard(seed, [], cast.contact, first, prompts))]


def _cast(seed: Seed, config: DialogueConfig) -> _Cast:
    """The delegate's man talks with the main contact's woman, or with his own culture's if it is the same."""
    of_delegate, of_contact = of(config.cultures, seed.culture), config.main_contact
    return _Cast(of_delegate.male, of_contact.female, of_delegate, of_contact)


def _claim(seed: Seed, cast: _Cast, prompts: DialoguePrompts) -> str:
    return prompts.claim.format(question=seed.question, people=cast.of_delegate.people, stance=seed.stance)


def _systems(seed: Seed, cast: _Cast, prompts: DialoguePrompts) -> dict[Persona, str]:
    delegate, contact = (cast.delegate, cast.of_delegate), (cast.contact, cast.of_contact)
    return {
        cast.delegate: _system(prompts.delegate, *delegate, *contact, claim=_claim(seed, cast, prompts)),
        cast.contact: _system(prompts.contact, *contact, *delegate, question=seed.question),
    }


def _system(template: str, who: Persona, of: Culture, partner: Persona, of_partner: Culture, **more: str) -> str:
    return template.format(
        name=who.name,
        a_culture=article(of.adjective),
        gender=who.gender,
        partner=partner.name,
        a_partner=article(of_partner.adjective),
        partner_gender=partner.gender,
        partner_people=of_partner.people,
        **more,
    )


def _heard(seed: Seed, turns: list[Turn], partner: Persona, guidance: Guidance, prompts: DialoguePrompts) -> str:
    told = guidance.text.format(partner=partner.name)
    if not turns:
        return prompts.question.format(question=seed.question, guidance=told)
    return prompts.reply.format(partner=partner.name, text=turns[-1].text, guidance=told)


def _reason(answer: Completion, text: str) -> str | None:
    if answer.finish_reason not in ("stop", "length"):
        return answer.finish_reason
    return None if text else "empty utterance"


def _row(seed: Seed, cast: _Cast, config: DialogueConfig, turns: list[Turn], reject: str | None) -> Dialogue:
    return Dialogue(
        id=f"{seed.id}/dialogue",
        seed_id=seed.id,
        culture=seed.culture,
        style="guided",
        setting="cross" if cast.of_delegate.id != cast.of_contact.id else "in",
        contact=cast.contact.name,
        delegate=cast.delegate.name,
        claim=_claim(seed, cast, config.prompts),
        topic=seed.topic,
        question=seed.question,
        turns=tuple(turns),
        teacher=config.teacher,
        reject=reject,
    )
