"""The door to models behind an endpoint: drawn answers to items, read strictly.

The chats are those that local models get. An answer counts if it is one of the options and says so in its own words'
beginning; anything else is no answer, and is counted as such. Nothing is guessed: the originals look for `not` anywhere
in the text, so that "Spam - notice the link" comes out as no spam.
"""

import asyncio
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cp_ray.errors import ConfigError
from cp_ray.evals.choose import predicted
from cp_ray.llm.call import Generate, Sampling
from cp_ray.records import Item, Prediction

__all__ = ["UNPARSABLE", "AnswerConfig", "answer", "option_of"]

UNPARSABLE = "names no option"

_WRAPPING = " \t\r\n\"'`*_.,:;!?()[]{}<>«»“”‘’„「」。、！？：؟،।"


@dataclass(frozen=True)
class AnswerConfig:
    """How answers are drawn."""

    name: str
    """Of the model in all figures."""
    model: str
    """At its server."""
    samples: int = 1
    """Answers to each item; their shares are its probabilities."""
    temperature: float = 0.0
    """0 takes the likeliest answer, which is right for one sample; 1 draws from the model's own distribution."""
    max_tokens: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples: must be at least 1, got {self.samples}")
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError(f"samples: {self.samples} answers at temperature 0 are all the same; raise temperature")


async def answer(item: Item, generate: Generate, config: AnswerConfig) -> list[Prediction]:
    """What an endpoint's model answers to an item: one row, with the share of its answers that name no option."""
    drawn = await asyncio.gather(
        *(
            generate(item.messages, Sampling(config.temperature, config.max_tokens, config.seed + k))
            for k in range(config.samples)
        )
    )
    named = Counter(option for one in drawn if (option := option_of(one.text, item.options)) is not None)
    total = named.total()
    shares = tuple(named[option] / total for option in item.options) if total else ()
    row = predicted(item, config.name, shares, lost=1 - total / len(drawn))
    if total:
        return [row]
    # The commonest reason: the provider's where there is no text, otherwise what the text lacks.
    reasons = Counter(UNPARSABLE if one.text.strip() else f"no answer: {one.finish_reason}" for one in drawn)
    return [replace(row, output=drawn[0].text.strip()[:200], reject=reasons.most_common(1)[0][0])]


def option_of(text: str, options: Sequence[str]) -> str | None:
    """The option that an answer names, or None.

    The answer's first line is the option, whatever its case and the punctuation around it, or begins with it and names
    no other one. Of options that begin alike the longest counts.
    """
    lines = [line for line in _plain(text).split("\n") if line.strip(_WRAPPING)]
    if not lines:
        return None
    said = re.sub(r"^(answer|label|option)\s*[:=]\s*", "", lines[0].strip(_WRAPPING)).strip(_WRAPPING)
    plain = {option: _plain(option).strip(_WRAPPING) for option in options}
    for option, words in plain.items():
        if said == words:
            return option
    begun = [option for option, words in plain.items() if re.match(rf"{re.escape(words)}(?!\w)", said)]
    if not begun:
        return None
    first = max(begun, key=lambda option: len(plain[option]))
    rest = "\n".join([said[len(plain[first]) :], *lines[1:]])
    others = [words for option, words in plain.items() if option != first]
    if any(re.search(rf"(?<!\w){re.escape(words)}(?!\w)", rest) for words in others):
        return None
    return first


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
