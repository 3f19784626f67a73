"""What a chat template does, found out by rendering small chats with it when it is first used.

What a template writes before an answer and after it, which token ends a turn and whether it takes a system prompt all
come from comparing what it makes of one, two and three messages. All that is known beforehand is that models open
their thoughts with <think>.
"""

import functools
import itertools
import logging
import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

from cp_ray.chat_template import ChatTemplate, render
from cp_ray.errors import BaseModelError

__all__ = ["chat_template"]

_log = logging.getLogger(__name__)

_ASKED, _SAID, _SYSTEM = "kumquat", "quince", "medlar"
"""Words that no template writes by itself."""

_DAY = datetime(2024, 7, 26, tzinfo=UTC)
"""What templates are told is today, or the same rows would be other tokens tomorrow. It is Llama 3.1's own default."""

_FIXED_DAY = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('%{c}', '{_DAY.strftime(f'%{c}')}')" for c in "aAbBdHjmMSyY")
    + " }}{% endmacro %}\n"
)

_DIFFERENT = (
    "leaves out an answer or renders a prompt differently once an answer follows, so the answer's tokens cannot be "
    "told apart; use a model whose template does not"
)
_THINKS = (
    "begins a thought at the end of each prompt and leaves it out once an answer follows, so an answer would be learnt "
    "as a thought; use a model that can answer without one"
)
_ENDLESS = (
    "puts no end-of-turn token behind an answer, so a model trained on it would never stop; use a model whose "
    "template does"
)

_NOTHING = "(?!)"
"""A regular expression that finds nothing."""


def chat_template(tokenizer: Any) -> ChatTemplate:
    """The chat template of a transformers tokenizer.

    Raises:
        BaseModelError: it does not take a user's message and an answer.
    """
    return _probe(tokenizer, tokenizer.get_chat_template())


@functools.lru_cache(maxsize=8)
def _probe(tokenizer: Any, source: str) -> ChatTemplate:
    if "strftime_now" in source:
        source = _FIXED_DAY + source
    rendered = functools.partial(render, tokenizer, source)
    asked, said = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}
    prompt = rendered([asked], answer_next=True)
    head, found, closing = rendered([asked, said], answer_next=False).partition(_SAID)
    onward = rendered([asked, said, asked], answer_next=False).partition(_SAID)[2].partition(_ASKED)[0]
    shared = _shared(prompt, head)
    aside, opener = prompt[len(shared) :], head[len(shared) :]

    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    # Not every tokenizer calls the tokens special that its template puts between turns.
    special |= {token.content for token in added if token.content.strip() and token.content in closing + onward}
    ending = _ending(_any_of(special), closing, onward, tokenizer.eos_token)
    return ChatTemplate(
        tokenizer,
        source,
        control=_beginning_of(special),
        folds=_folds(rendered),
        aside=aside,
        # Whitespace before an answer is the model's to write: its first token may begin with it.
        opener=opener if opener.strip() and not aside else "",
        closing=closing,
        ending=ending,
        fault=(_fault(shared, aside, opener) if found else _DIFFERENT) or ("" if ending else _ENDLESS),
    )


def _fault(shared: str, aside: str, opener: str) -> str:
    """Why an answer's tokens cannot be told; empty where they can."""
    if ((shared or aside) and _ASKED not in shared) or (aside and opener.strip()):
        return _DIFFERENT
    return _THINKS if aside.rstrip().endswith("<think>") else ""


def _shared(one: str, other: str) -> str:
    """How two texts begin alike."""
    return "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _any_of(tokens: Collection[str]) -> str:
    """A regular expression for any of them, the longest first."""
    return "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or _NOTHING


def _beginning_of(tokens: Collection[str]) -> re.Pattern[str]:
    """Finds the first character of any of them."""
    # Some tokenizers have thousands: the set of first characters is tried before them, which is faster by far.
    first = re.escape("".join(sorted({token[0] for token in tokens})))
    return re.compile(f"(?=[{first}])(?={_any_of(tokens)}).", re.DOTALL) if tokens else re.compile(_NOTHING)


def _ending(special: str, closing: str, onward: str, eos: str | None) -> str:
    """What an answer ends with: up to the first special token behind it, or to the one for the end of a text.

    Args:
        special: a regular expression for special tokens.
        closing: what follows the last answer of a chat.
        onward: what follows an answer when the user goes on.
        eos: the tokenizer's token for the end of a text.
    """
    if eos and eos in closing:
        whole = closing[: closing.index(eos) + len(eos)]
        if onward.startswith(whole):  # Command R7B ends its answer, and then its turn
            return whole
    last, next = re.search(special, closing), re.search(special, onward)
    # GLM ends no turn but by beginning the next, and some templates begin another answer whether asked to or not: what
    # comes when the user goes on decides, unless a text that ends here ends otherwise (gpt-oss, OLMo 3).
    if last and (next is None or last[0] in (next[0], eos)):
        return closing[: last.end()]
    return onward[: next.end()] if next else ""


def _folds(rendered: Callable[..., str]) -> bool:
    """Whether a template takes no system prompt: it refuses it, or leaves it out, be it only before an answer."""
    asked = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _ASKED}]
    said = {"role": "assistant", "content": _SAID}
    try:
        if _SYSTEM in rendered(asked, answer_next=True) and _SYSTEM in rendered([*asked, said], answer_next=False):
            return False
    except BaseModelError:
        pass
    _log.warning("base model: its chat template takes no system prompt; it is put in front of the user's message")
    return True
