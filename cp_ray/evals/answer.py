"""The door to models behind an endpoint: the same items and chats as local models get.

How the options' probabilities are found hangs on what the server can do, and stands with every answer:

* told the answer, it gives the log-probability of each option as a whole, under the model that was told nothing: what
  local models are asked (`choose`)
* with the likeliest tokens at each place, answers that are drawn show the probabilities of all options (`reveal`)
* otherwise answers are drawn and read strictly

A drawn answer counts if it is one of the options and says so in its own words' beginning; anything else is no answer,
and is counted as such. Nothing is guessed: the originals look for `not` anywhere in the text, so that "Spam - notice
the link" comes out as no spam.
"""

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cp_ray.errors import ConfigError, TeacherUnreachable
from cp_ray.evals.choose import WHOLE, predicted, softmax
from cp_ray.evals.reveal import LEADS, WRAPPING, Tree, plain, reveal, revealed
from cp_ray.llm.call import ANSWERED, GAVE_UP, Completion, Generate, Sampling, came_to_nothing
from cp_ray.records import Item, Message, Prediction

__all__ = [
    "DRAWN",
    "REVEALED",
    "UNPARSABLE",
    "AnswerConfig",
    "answer",
    "came_to_none",
    "option_of",
    "suited",
    "unanswered",
]

UNPARSABLE = "names no option"

REVEALED = "log-probabilities of drawn answers' tokens"
DRAWN = "drawn answers"

_NO_ANSWER = "no answer: "

_MOST_DRAWS = 8
_UNSURE = 0.02
"""With less probability than this on ways that no answer has gone, no further answer is drawn."""


@dataclass(frozen=True)
class AnswerConfig:
    """How answers are asked for."""

    name: str
    """Of the model in all figures."""
    model: str
    """At its server."""
    samples: int = 1
    """Answers to each item, where answers are drawn; their shares are its probabilities."""
    temperature: float = 0.0
    """0 takes the likeliest answer, which is right for one sample; 1 draws from the model's own distribution."""
    max_tokens: int = 24
    seed: int = 0
    way: str = DRAWN
    """What the server can do: `choose.WHOLE`, REVEALED or DRAWN."""
    prefilled: bool = False
    """Whole options are told to it in the prompt."""
    top: int = 20
    """Likeliest tokens that it tells at each place."""
    url: str = ""
    """Of its server; what goes by the same name at another one may be another model."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples: must be at least 1, got {self.samples}")
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError(f"samples: {self.samples} answers at temperature 0 are all the same; raise temperature")


def unanswered(*said: Completion) -> str | None:
    """Why there is no answer, where one of these calls came to none; a withheld one is an answer."""
    lost = next((one.finish_reason for one in said if came_to_nothing(one.finish_reason)), None)
    return None if lost is None else f"{_NO_ANSWER}{lost}"


def came_to_none(row: Prediction) -> bool:
    """Did all calls for an item come to no answer? It says nothing of the model, and is to count nowhere."""
    reason = row.reject or ""
    return reason.startswith(_NO_ANSWER) and came_to_nothing(reason.removeprefix(_NO_ANSWER))


async def suited(generate: Generate, config: AnswerConfig) -> AnswerConfig:
    """Ask a server, in at most four calls, what it can do, and go about it so.

    Raises:
        TeacherUnreachable: it answers nothing at all, which says nothing of what it can do.
    """
    messages = (Message("user", "Name a colour."),)
    told = "Neither of the two"
    forced = await generate(messages, Sampling(0.0, config.max_tokens, logprobs=1, answer=told))
    if _logprob(forced, told) is not None and _unlikely(forced):
        return replace(config, way=WHOLE)
    if _logprob(await generate(messages, Sampling(0.0, 1, answer=told, prefilled=True)), told) is not None:
        return replace(config, way=WHOLE, prefilled=True)
    for top in (20, 5):  # OpenAI's most, and that of some others
        free = await generate(messages, Sampling(0.0, 4, logprobs=top))
        if free.logprobs and len(free.logprobs[0].top) > 1:
            return replace(config, way=REVEALED, top=len(free.logprobs[0].top))
    if forced.finish_reason.startswith(GAVE_UP) and free.finish_reason.startswith(GAVE_UP):
        raise TeacherUnreachable(
            f"models: {config.model!r} does not answer ({free.finish_reason}); run again when it does"
        )
    return replace(config, way=DRAWN)


async def answer(item: Item, generate: Generate, config: AnswerConfig) -> list[Prediction]:
    """What an endpoint's model answers to an item: one row, with the share of its answers that name no option."""
    ways = {WHOLE: _scored, REVEALED: _revealed, DRAWN: _drawn}
    return [replace(await ways[config.way](item, generate, config), way=config.way)]


async def _scored(item: Item, generate: Generate, config: AnswerConfig) -> Prediction:
    """By the log-probability of each option and the end of the turn after it."""
    told = await asyncio.gather(*(generate(item.messages, _told(one, config)) for one in item.options))
    logs = [
        _logprob(one, option)
        for one, option in zip(_apart(told) if config.prefilled else told, item.options, strict=True)
    ]
    found = [value for value in logs if value is not None]
    if len(found) == len(logs):
        return predicted(item, config.name, softmax(found))
    lacking = next(one for one, value in zip(told, logs, strict=True) if value is None)
    return _nothing(item, config, [lacking])


def _told(option: str, config: AnswerConfig) -> Sampling:
    if config.prefilled:
        return Sampling(0.0, 1, config.seed, answer=option, prefilled=True)
    # A token has at least a byte.
    return Sampling(0.0, len(option.encode()) + 8, config.seed, logprobs=0, answer=option)


def _apart(told: Sequence[Completion]) -> list[Completion]:
    """Without the tokens that all prompts begin with: they say nothing, but a server's arithmetic differs in them."""
    beginnings = zip(*([token.text for token in one.logprobs or ()] for one in told), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda tokens: len(set(tokens)) == 1, beginnings))
    return [replace(one, logprobs=(one.logprobs or ())[shared:]) for one in told]


async def _revealed(item: Item, generate: Generate, config: AnswerConfig) -> Prediction:
    """By what drawn answers show of all options; as many as it takes."""
    tree: Tree = {}
    drawn: list[Completion] = []
    while len(drawn) < _MOST_DRAWS:
        sampling = Sampling(1.0, config.max_tokens, config.seed + len(drawn), logprobs=config.top)
        drawn.append(await generate(item.messages, sampling))
        reveal(tree, drawn[-1].logprobs or ())
        found = revealed(tree, item.options)
        # A server that withholds an answer withholds the next one as well.
        if drawn[-1].logprobs is None or found.unsure < _UNSURE:
            break
    total = sum(found.shares)
    if not tree or not total:
        return _nothing(item, config, drawn)
    return predicted(item, config.name, tuple(share / total for share in found.shares), lost=max(0.0, 1 - total))


async def _drawn(item: Item, generate: Generate, config: AnswerConfig) -> Prediction:
    """By the shares of answers that are drawn."""
    drawn = await asyncio.gather(
        *(
            generate(item.messages, Sampling(config.temperature, config.max_tokens, config.seed + k))
            for k in range(config.samples)
        )
    )
    said = [one for one in drawn if unanswered(one) is None]
    named = Counter(option for one in said if (option := option_of(one.text, item.options)) is not None)
    total = named.total()
    if not total:
        return _nothing(item, config, drawn)
    shares = tuple(named[option] / total for option in item.options)
    return predicted(item, config.name, shares, lost=1 - total / len(said))


def _nothing(item: Item, config: AnswerConfig, drawn: Sequence[Completion]) -> Prediction:
    """No option, for the commonest reason: the provider's where there is no text, otherwise what the text lacks.

    Calls that came to no answer are the reason where all did.
    """
    said = [one for one in drawn if unanswered(one) is None]
    reasons = Counter(UNPARSABLE if one.text.strip() else f"{_NO_ANSWER}{one.finish_reason}" for one in said)
    row = predicted(item, config.name, (), lost=float(bool(said)))
    if not said:
        return replace(row, reject=unanswered(*drawn))
    return replace(row, output=said[0].text.strip()[:200], reject=reasons.most_common(1)[0][0])


def _logprob(told: Completion, answer: str) -> float | None:
    """Of an answer that the server was told, the end of the turn included; None where it said something else."""
    if told.finish_reason not in ANSWERED or told.text != answer or not told.logprobs:
        return None
    if "".join(token.text for token in told.logprobs) == answer:
        return None  # the end of the turn is not told, so that an answer's beginning would count for the whole of it
    return sum(token.logprob for token in told.logprobs)


def _unlikely(told: Completion) -> bool:
    """Was another token likelier anywhere than the one the server was told?

    vLLM tells log-probabilities among what it lets through, by which every answer that it is told is nearly certain.
    """
    return any(token.top and token.top[0][1] > token.logprob for token in told.logprobs or ())


def option_of(text: str, options: Sequence[str]) -> str | None:
    """The option that an answer names, or None.

    The answer's first line is the option, whatever its case and the punctuation around it, or begins with it and names
    no other one. Of options that begin alike the longest counts.
    """
    lines = [line for line in plain(text).split("\n") if line.strip(WRAPPING)]
    if not lines:
        return None
    said = re.sub(rf"^(?:{'|'.join(LEADS)})\s*[:=]\s*", "", lines[0].strip(WRAPPING)).strip(WRAPPING)
    known = {option: plain(option).strip(WRAPPING) for option in options}
    for option, words in known.items():
        if said == words:
            return option
    begun = [option for option, words in known.items() if re.match(rf"{re.escape(words)}(?!\w)", said)]
    if not begun:
        return None
    first = max(begun, key=lambda option: len(known[option]))
    rest = "\n".join([said[len(known[first]) :], *lines[1:]])
    others = [words for option, words in known.items() if option != first]
    if any(re.search(rf"(?<!\w){re.escape(words)}(?!\w)", rest) for words in others):
        return None
    return first
