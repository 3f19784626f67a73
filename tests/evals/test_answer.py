"""Drawn answers are read strictly: what names no option is counted, never guessed."""

import asyncio
from typing import Any

import pytest

from cp_ray.errors import ConfigError
from cp_ray.evals.answer import UNPARSABLE, AnswerConfig, answer, option_of
from cp_ray.llm.call import Completion, Usage
from cp_ray.llm.scripted import Scripted
from cp_ray.records import Item, Message

SPAM = ("spam", "not spam")
HATE = ("hateful", "not hateful")


@pytest.mark.parametrize(
    ("text", "options", "option"),
    [
        ("Spam", SPAM, "spam"),
        (" **Not spam.**\n", SPAM, "not spam"),
        ("Answer: not spam", SPAM, "not spam"),
        # The originals look for `not` and `no` anywhere, first match wins: this is Ham to them.
        ("Spam - notice the link, do not click", SPAM, "spam"),
        ("Not hateful, it is a joke", HATE, "not hateful"),
        ("hateful speech is bad", HATE, "hateful"),
        ("I cannot say whether this is spam", SPAM, None),
        ("spam or not spam", SPAM, None),
        ("spammy", SPAM, None),
        ("", SPAM, None),
        ("...", SPAM, None),
        ("Strongly agree", ("Agree", "Strongly agree"), "Strongly agree"),
        ("同意。", ("同意", "不同意"), "同意"),
    ],
)
def test_an_answer_is_an_option_or_none(text: str, options: tuple[str, ...], option: str | None) -> None:
    assert option_of(text, options) == option


def asked(answers: Any, **more: Any) -> Any:
    item = Item("t/1", "german", "t", (Message("user", "Is it?"),), ("yes", "no", "unsure"), "no")
    return asyncio.run(answer(item, Scripted(answers), AnswerConfig("m", "m-1", **more)))


def test_shares_of_drawn_answers_and_the_share_that_was_lost() -> None:
    (row,) = asked(["Yes", "no.", "No", "well"], samples=4, temperature=1.0)
    assert row.probabilities == pytest.approx((1 / 3, 2 / 3, 0))
    assert (row.id, row.model, row.item, row.output, row.lost, row.reject) == ("m/t/1", "m", "t/1", "no", 0.25, None)


def test_what_brings_no_option_says_why() -> None:
    (garbage,) = asked(["as a language model …"])
    assert (garbage.reject, garbage.output, garbage.lost) == (UNPARSABLE, "as a language model …", 1.0)
    (refused,) = asked([Completion("", "content_filter", Usage(9, 0))])
    assert refused.reject == "no answer: content_filter"


def test_samples_of_one_and_the_same_answer_are_refused() -> None:
    with pytest.raises(ConfigError, match="raise temperature"):
        AnswerConfig("m", "m", samples=2)
