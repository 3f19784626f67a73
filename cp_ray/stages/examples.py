"""examples: survey answers in proportion to what people answered, and opinions, as chats to train on.

A question's answers are spread evenly over its wordings, so that more wordings make a training set more varied and not
larger.
"""

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cp_ray.cultures import Culture, of
from cp_ray.errors import ConfigError
from cp_ray.records import Example, Message, Mixture, Opinion, Paraphrase, Seed, Translation
from cp_ray.stages.text import holds
from cp_ray.survey.asking import ask, persona
from cp_ray.survey.mixed import mixed
from cp_ray.survey.pooled import pooled

__all__ = ["ExamplesConfig", "check_split", "make_examples"]


@dataclass(frozen=True)
class ExamplesConfig:
    """What to train on."""

    cultures: tuple[Culture, ...]
    """Of the seeds."""
    answers: int = 32
    """Of each seed; one half sees the options in reverse order."""
    draw: str = "sampled"
    """`sampled`: as many respondents are drawn; `apportioned`: each option gets its share of the answers, to the
    nearest whole one, so that no luck is in them."""
    pooling: float = 0.0
    """Share of a question's answers that comes from the culture's mean over all training questions with the same
    options (partial pooling). What a culture's answers have in common holds for other questions too, so with few
    questions more of it makes a model that knows more about those it has not seen, and less about those it has.
    Questions that training keeps to validate with are pooled like the rest."""
    seed: int = 0
    opinion_user: str = "What do {people} think about this? {question}"

    def __post_init__(self) -> None:
        if self.answers < 2:
            raise ConfigError(f"answers: must be at least 2, one for each order of the options, got {self.answers}")
        if self.draw not in ("sampled", "apportioned"):
            raise ConfigError(f"draw: must be sampled or apportioned, got {self.draw!r}")
        if not 0 <= self.pooling <= 1:
            raise ConfigError(f"pooling: must be a share from 0 to 1, got {self.pooling}")


def make_examples(
    seeds: Sequence[Seed],
    opinions: Sequence[Opinion],
    config: ExamplesConfig,
    *,
    wordings: Sequence[Paraphrase] = (),
    translations: Sequence[Translation] = (),
    mixtures: Sequence[Mixture] = (),
    left_out: Iterable[str] = (),
) -> list[Example]:
    """Training chats from the training seeds and the opinions that count.

    Args:
        seeds: of all cultures.
        opinions: rejected ones are left out.
        config: how much of what.
        wordings: other wordings of the questions; rejected ones are left out.
        translations: with any, a culture whose language is not English is asked in its language alone.
        mixtures: questions made of two, which are asked like the others and answered with the mean of the two;
            rejected ones are left out.
        left_out: ids of opinions, wordings and questions, made of two or not, that are not to be trained on.

    Raises:
        ConfigError: a question has more wordings than answers, or a held-out one would get into a training row.
    """
    unwanted = frozenset(left_out)
    training = pooled([s for s in seeds if s.split == "train" and s.question_id not in unwanted], config.pooling)
    by_id = {seed.id: seed for seed in seeds if seed.split == "train"}
    asked = _Asked(
        _by_question(w for w in wordings if w.reject is None and w.id not in unwanted and w.way != "survey"),
        {row.id: row for row in translations if row.reject is None} if translations else None,
    )
    examples = [example for seed in training for example in _answers(seed, asked.of(seed, config), config)]
    trained = {seed.id: seed for seed in training}
    for mixture in mixtures:
        if mixture.reject is None and mixture.id not in unwanted:
            examples += _mixed(mixture, trained, asked, config)
    for opinion in opinions:
        if opinion.reject is None and opinion.id not in unwanted:
            if opinion.seed_id not in by_id:
                raise ValueError(f"{opinion.id} comes from {opinion.seed_id}, which is not a training seed")
            if by_id[opinion.seed_id].question_id not in unwanted:
                examples.append(_opinion(opinion, by_id[opinion.seed_id], config))
    check_split(examples, seeds)
    return examples


def check_split(examples: Sequence[Example], seeds: Sequence[Seed]) -> int:
    """Make sure that no training row holds a held-out question, by its id or by its words; how many pairs were checked.

    Raises:
        ConfigError: one does.
    """
    heldout = {seed.question_id: seed.question for seed in seeds if seed.split == "heldout"}
    for example in examples:
        text = "\n".join(message.content for message in example.messages)
        for id, question in heldout.items():
            if id in (example.question_id, example.other_question_id) or holds(text, question):
                raise ConfigError(
                    f"survey: the training row {example.id} holds the held-out question {id}; take one of the two "
                    "questions out of the survey"
                )
    return len(examples) * len(heldout)


@dataclass(frozen=True)
class _Wording:
    id: str
    question: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class _Asked:
    """In which words a culture is asked."""

    wordings: Mapping[str, Sequence[Paraphrase]]
    """Besides the survey's own, by question."""
    translations: Mapping[str, Translation] | None
    """By language and question; None: everybody is asked in English."""

    def of(self, seed: Seed, config: ExamplesConfig) -> list[_Wording]:
        """All wordings of a seed; none where a translation is missing."""
        culture = of(config.cultures, seed.culture)
        more = self.wordings.get(seed.question_id, ())
        found = [_Wording("", seed.question, seed.options), *(_Wording(w.id, w.text, seed.options) for w in more)]
        if self.translations is None or culture.language == "English":
            return found
        translation = self.translations.get(f"{culture.language}/{seed.question_id}")
        if translation is None:
            return []
        own = dict(zip(translation.wordings, translation.texts, strict=True))
        survey = f"{seed.question_id}/survey"
        return [_Wording(w.id, own[w.id or survey], translation.options) for w in found if (w.id or survey) in own]


def _by_question(wordings: Iterable[Paraphrase]) -> dict[str, list[Paraphrase]]:
    found: dict[str, list[Paraphrase]] = {}
    for wording in sorted(wordings, key=lambda w: w.id):
        found.setdefault(wording.question_id, []).append(wording)
    return found


def _mixed(mixture: Mixture, trained: Mapping[str, Seed], asked: _Asked, config: ExamplesConfig) -> list[Example]:
    """Answers to a question that begins like one and ends like the other, from the mean of theirs.

    None if one of the two is not trained on, or if in the culture's language it comes out as one of them.
    """
    one = trained.get(f"{mixture.culture}/{mixture.question_id}")
    other = trained.get(f"{mixture.culture}/{mixture.other_question_id}")
    if one is None or other is None:
        return []
    first, second = (asked.of(seed, config)[:1] for seed in (one, other))
    if not first or not second:
        return []
    question = mixed(first[0].question, second[0].question, mixture.cut)
    if first[0].question in question or second[0].question in question:
        return []
    between = tuple((a + b) / 2 for a, b in zip(one.distribution, other.distribution, strict=True))
    seed = replace(one, id=mixture.id, distribution=between)
    return [
        replace(example, kind="mixed", parents=(one.id, other.id), other_question_id=other.question_id)
        for example in _answers(seed, [replace(first[0], id="", question=question)], config)
    ]


def _answers(seed: Seed, wordings: Sequence[_Wording], config: ExamplesConfig) -> list[Example]:
    # Seeded by the seed's id, so that a culture's rows are the same whichever others are in the run.
    rng = random.Random(hashlib.sha256(f"{config.seed}/{seed.id}".encode()).digest())
    culture = of(config.cultures, seed.culture)
    if len(wordings) > config.answers:
        raise ConfigError(
            f"answers: must be at least as many as a question's wordings, which are {len(wordings)} for "
            f"{seed.question_id}, got {config.answers}"
        )
    asked_in = [(wordings[k % len(wordings)], k // len(wordings) % 2 == 1) for k in range(config.answers) if wordings]
    if config.draw == "sampled":
        options = rng.choices(range(len(seed.options)), seed.distribution, k=len(asked_in))
    else:
        # Wording by wording and order by order: in every stretch of them each option has its share.
        order = sorted(range(len(asked_in)), key=lambda k: (k % len(wordings), asked_in[k][1]))
        given = dict(zip(order, _apportioned(seed.distribution, len(order)), strict=True))
        options = [given[k] for k in range(len(order))]
    return [
        _answer(seed, culture, wording, k, option, reverse=reverse)
        for k, ((wording, reverse), option) in enumerate(zip(asked_in, options, strict=True))
    ]


def _apportioned(shares: Sequence[float], n: int) -> list[int]:
    """So many options, each time the one that is furthest behind its share."""
    counts = [0] * len(shares)
    found = []
    for k in range(1, n + 1):
        option = max(range(len(shares)), key=lambda i: shares[i] * k - counts[i])
        counts[option] += 1
        found.append(option)
    return found


def _answer(seed: Seed, culture: Culture, wording: _Wording, k: int, option: int, *, reverse: bool) -> Example:
    return Example(
        id=f"{seed.id}/answer/{k:04d}",
        culture=seed.culture,
        kind="answer",
        question_id=seed.question_id,
        messages=(
            *ask(culture, wording.question, wording.options, reverse=reverse),
            Message("assistant", wording.options[option]),
        ),
        parents=(seed.id, wording.id) if wording.id else (seed.id,),
        split="train",
        options=wording.options,
    )


def _opinion(opinion: Opinion, seed: Seed, config: ExamplesConfig) -> Example:
    culture = of(config.cultures, seed.culture)
    user = config.opinion_user.format(people=culture.people, question=seed.question)
    return Example(
        id=opinion.id,
        culture=seed.culture,
        kind="opinion",
        question_id=seed.question_id,
        messages=(
            Message("system", persona(culture)),
            Message("user", user),
            Message("assistant", opinion.text),
        ),
        parents=(opinion.id, opinion.dialogue_id, seed.id),
        split="train",
    )
