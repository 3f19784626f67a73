"""dialogue: a main contact and a delegate who is bound to a survey answer talk (CulturePark, arXiv 2405.15145).

Between cultures, the main contact is of another culture and speaks for itself; within a culture, both are bound to its
answer. In a guided talk every utterance follows a moderator's guidance; in a free one only the first of each speaker
does. A speaker sees the talk as a chat of its own: its utterances are the assistant's, the partner's and the guidance
are the user's; nothing already said is ever reworded, so each call's prompt begins with the last.
"""

from dataclasses import dataclass

from cp_ray.cultures import Culture, Persona, of
from cp_ray.errors import ConfigError
from cp_ray.llm.call import Completion, Generate, Sampling
from cp_ray.records import Candidate, Dialogue, Message, Seed, Turn
from cp_ray.stages.prompts import PROMPTS, DialoguePrompts, Guidance
from cp_ray.stages.text import article, trim_to_sentence

__all__ = ["DialogueConfig", "dialogue"]

_CHOICES = {
    "setting": ("cross", "in"),
    "style": ("guided", "free"),
    "delegate_gender": ("man", "woman"),
    "contact_gender": ("man", "woman"),
}


@dataclass(frozen=True)
class DialogueConfig:
    """How dialogues are held."""

    teacher: str
    cultures: tuple[Culture, ...]
    main_contact: Culture
    """Who the delegates talk with, between cultures."""
    setting: str = "cross"
    """`cross`, or `in`: with somebody of their own culture, as the main contact's own culture always does."""
    style: str = "guided"
    """Or `free`."""
    delegate_gender: str = "man"
    """Or `woman`."""
    contact_gender: str = "woman"
    calibrated: bool = True
    """Is the delegate told the survey's answer?"""
    rounds: int = 7
    temperature: float = 0.7
    max_tokens: int = 96
    seed: int = 0
    prompts: DialoguePrompts = PROMPTS

    def __post_init__(self) -> None:
        most = min(len(self.prompts.rounds), len(self.prompts.rounds_within))
        if not 1 <= self.rounds <= most:
            raise ConfigError(f"rounds: must be between 1 and {most}, got {self.rounds}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}: must be {' or '.join(choices)}, got {getattr(self, name)!r}")
        for culture in self.cultures:
            self._check_names(culture)

    def contact_of(self, culture: Culture) -> Culture:
        """Whose culture a delegate's partner is of."""
        return culture if self.setting == "in" else self.main_contact

    def _check_names(self, culture: Culture) -> None:
        """A speaker is known by the name."""
        partner_culture = self.contact_of(culture)
        delegate, contact = persona(culture, self.delegate_gender), persona(partner_culture, self.contact_gender)
        if delegate.name != contact.name:
            return
        if culture.id == partner_culture.id:
            raise ConfigError(
                f"contact_gender: {culture.id!r} talks within itself and has one {delegate.gender}; "
                "let a man talk with a woman, or choose another --main-contact"
            )
        raise ConfigError(
            f"cultures: {delegate.name!r} is the {delegate.gender} of {culture.id!r} and the {contact.gender} of the "
            f"main contact {partner_culture.id!r}; give one of them another name"
        )


@dataclass(frozen=True, slots=True)
class _Cast:
    """Who talks."""

    delegate: Persona
    contact: Persona
    of_delegate: Culture
    of_contact: Culture

    @property
    def within(self) -> bool:
        """Are both of one culture?"""
        return self.of_delegate.id == self.of_contact.id


async def dialogue(candidate: Candidate, generate: Generate, config: DialogueConfig) -> list[Dialogue]:
    """One dialogue about one seed, or a rejected one from the turn at which the teacher gave nothing."""
    seed, prompts, cast = candidate.seed, config.prompts, _cast(candidate.seed, config)
    views = {p.name: [Message("system", text)] for p, text in _systems(seed, cast, config).items()}
    turns: list[Turn] = []
    for guidances in (prompts.rounds_within if cast.within else prompts.rounds)[: config.rounds]:
        for who, partner, guidance in zip(
            (cast.delegate, cast.contact), (cast.contact, cast.delegate), guidances, strict=True
        ):
            guided = config.style == "guided" or len(turns) < 2
            view = views[who.name]
            view.append(Message("user", _heard(seed, turns, partner, guidance if guided else None, prompts)))
            answer = await generate(view, _sampling(config, candidate, len(turns)))
            text = trim_to_sentence(answer.text) if answer.finish_reason == "length" else answer.text.strip()
            reject = _reason(answer, text)
            if reject:
                return [_row(candidate, cast, config, turns, reject)]
            view.append(Message("assistant", text))
            turns.append(Turn(who.name, guidance.kind if guided else "free", text, answer.usage.completion_tokens))
    return [_row(candidate, cast, config, turns, None)]


def persona(culture: Culture, gender: str) -> Persona:
    """Who speaks for a culture."""
    return culture.male if gender == "man" else culture.female


def _sampling(config: DialogueConfig, candidate: Candidate, turn: int) -> Sampling:
    """The draw is the turn's own, so that samples repeat neither within a dialogue nor between two of one seed."""
    draw = (config.seed * 1000 + candidate.sample) * 100 + turn
    return Sampling(config.temperature, config.max_tokens, draw)


def _cast(seed: Seed, config: DialogueConfig) -> _Cast:
    of_delegate = of(config.cultures, seed.culture)
    of_contact = config.contact_of(of_delegate)
    delegate, contact = persona(of_delegate, config.delegate_gender), persona(of_contact, config.contact_gender)
    return _Cast(delegate, contact, of_delegate, of_contact)


def _claim(seed: Seed, cast: _Cast, prompts: DialoguePrompts) -> str:
    return prompts.claim.format(question=seed.question, people=cast.of_delegate.people, stance=seed.stance)


def _systems(seed: Seed, cast: _Cast, config: DialogueConfig) -> dict[Persona, str]:
    prompts = config.prompts
    claim, question = _claim(seed, cast, prompts), seed.question
    bound = prompts.delegate if config.calibrated else prompts.uncalibrated
    other = bound if cast.within else prompts.contact
    delegate, contact = (cast.delegate, cast.of_delegate), (cast.contact, cast.of_contact)
    return {
        cast.delegate: _system(bound, *delegate, *contact, claim=claim, question=question),
        cast.contact: _system(other, *contact, *delegate, claim=claim, question=question),
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


def _heard(seed: Seed, turns: list[Turn], partner: Persona, guidance: Guidance | None, prompts: DialoguePrompts) -> str:
    if guidance is None:
        return prompts.free.format(partner=partner.name, text=turns[-1].text)
    told = guidance.text.format(partner=partner.name)
    if not turns:
        return prompts.question.format(question=seed.question, guidance=told)
    return prompts.reply.format(partner=partner.name, text=turns[-1].text, guidance=told)


def _reason(answer: Completion, text: str) -> str | None:
    if answer.finish_reason not in ("stop", "length"):
        return answer.finish_reason
    return None if text else "empty utterance"


def _row(candidate: Candidate, cast: _Cast, config: DialogueConfig, turns: list[Turn], reject: str | None) -> Dialogue:
    seed = candidate.seed
    return Dialogue(
        id=f"{seed.id}/dialogue/{candidate.sample}",
        seed_id=seed.id,
        culture=seed.culture,
        style=config.style,
        setting="in" if cast.within else "cross",
        contact=cast.contact.name,
        delegate=cast.delegate.name,
        claim=_claim(seed, cast, config.prompts),
        topic=seed.topic,
        question=seed.question,
        turns=tuple(turns),
        teacher=config.teacher,
        reject=reject,
    )
