"""Drawn answers are read strictly: what names no option is counted, never guessed."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cp_ray.errors import ConfigError, TeacherUnreachable
from cp_ray.evals.answer import (
    DRAWN,
    REVEALED,
    UNPARSABLE,
    AnswerConfig,
    answer,
    came_to_none,
    option_of,
    suited,
)
from cp_ray.evals.choose import WHOLE
from cp_ray.llm.call import Completion, Sampling, Token, Usage, failure
from cp_ray.llm.endpoint import Endpoint
from cp_ray.llm.scripted import Scripted
from cp_ray.records import Item, Message, Prediction

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


LOST = failure("gave up: time-out")


def test_calls_that_came_to_no_answer_are_no_answers() -> None:
    (partly,) = asked(["Yes", LOST, "well", LOST], samples=4, temperature=1.0)
    assert (partly.probabilities, partly.lost, partly.reject) == ((1, 0, 0), 0.5, None)
    (vague,) = asked([LOST, LOST, "well"], samples=3, temperature=1.0)
    assert (vague.reject, vague.output, vague.lost) == (UNPARSABLE, "well", 1.0)
    for way in (DRAWN, REVEALED, WHOLE):
        (nothing,) = asked(lambda messages, sampling: LOST, way=way)
        assert (nothing.reject, nothing.lost) == ("no answer: gave up: time-out", 0.0)
        assert came_to_none(nothing)
    for own in (failure("content_filter"), failure("stop"), "well"):
        (said,) = asked([own])
        assert said.reject is not None
        assert not came_to_none(said), "what a model says to this"


def test_samples_of_one_and_the_same_answer_are_refused() -> None:
    with pytest.raises(ConfigError, match="raise temperature"):
        AnswerConfig("m", "m", samples=2)


def told(text: str, *tokens: Token) -> Completion:
    return Completion(text, "stop", Usage(1, 1), logprobs=tokens)


def forcible(messages: Sequence[Message], sampling: Sampling) -> Completion:
    """Can be told its answer; the options have a half, a quarter and an eighth."""
    said = sampling.answer or "well"
    share = {"yes": 0.5, "no": 0.25, "unsure": 0.125}.get(said, 0.1)
    return told(said, Token(said, math.log(share), (("Blue", math.log(0.6)),)), Token("<|end|>", 0.0))


def showing(messages: Sequence[Message], sampling: Sampling) -> Completion:
    """Shows at most five tokens, and refuses what it does not know."""
    if sampling.answer is not None or (sampling.logprobs or 0) > 5:
        return failure("refused with status 400")
    shown = (("Yes", math.log(0.6)), ("Un", math.log(0.3)), ("I", math.log(0.1)))
    if sampling.logprobs is None:
        return Completion("Yes", "stop", Usage(1, 1))
    return told("Yes", Token("Yes", math.log(0.6), shown))


def test_a_server_is_asked_in_the_best_way_that_it_can_be() -> None:
    def way(answers: Any) -> tuple[str, int]:
        found = asyncio.run(suited(Scripted(answers), AnswerConfig("m", "m-1")))
        return found.way, found.top

    assert way(forcible) == (WHOLE, 20)
    assert way(showing) == (REVEALED, 3)
    assert way(lambda messages, sampling: "Blue.") == (DRAWN, 20)
    without_end = lambda m, s: told(s.answer or "x", Token(s.answer or "x", -1.0, (("B", -0.5),)))  # noqa: E731
    assert way(without_end) == (DRAWN, 20), "a beginning would count for the whole"
    among_allowed = lambda m, s: prompting(m, replace(s, answer=None, prefilled=False) if s.prefilled else s)  # noqa: E731
    assert way(among_allowed) == (DRAWN, 20), "every answer would be certain"


def prompting(messages: Sequence[Message], sampling: Sampling) -> Completion:
    """Tells what stands in a prompt; of an answer that alone may be drawn, that it is certain."""
    if sampling.answer is None:
        return Completion("well", "stop", Usage(1, 1))
    if not sampling.prefilled:
        return told(sampling.answer, Token(sampling.answer, 0.0), Token("<|end|>", 0.0))
    noise = len(sampling.answer) / 7  # as of a server that computes a prompt a little differently each time
    return told(sampling.answer, Token("4", -noise), *(forcible(messages, sampling).logprobs or ()))


def test_a_server_that_is_told_in_the_prompt_has_the_probabilities_of_whole_options() -> None:
    config = asyncio.run(suited(Scripted(prompting), AnswerConfig("m", "m-1")))
    assert (config.way, config.prefilled) == (WHOLE, True)
    (row,) = asked(prompting, way=WHOLE, prefilled=True)
    assert row.probabilities == pytest.approx((4 / 7, 2 / 7, 1 / 7))


def test_a_server_that_is_down_is_not_taken_for_one_that_can_do_little() -> None:
    with pytest.raises(TeacherUnreachable, match="'m-1' does not answer"):
        asyncio.run(
            suited(Scripted(lambda messages, sampling: failure("gave up: status 503")), AnswerConfig("m", "m-1"))
        )


def test_whole_options_have_their_probabilities_among_themselves() -> None:
    (row,) = asked(forcible, way=WHOLE)
    assert row.probabilities == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    assert (row.output, row.way, row.lost) == ("yes", WHOLE, 0.0)
    (lacking,) = asked(lambda m, s: forcible(m, s) if s.answer != "no" else failure("content_filter"), way=WHOLE)
    assert (lacking.reject, lacking.probabilities) == ("no answer: content_filter", ())


def test_answers_show_what_else_could_have_come() -> None:
    model = Scripted(showing)
    item = Item("t/1", "german", "t", (Message("user", "Is it?"),), ("yes", "no", "unsure"), "no")
    (row,) = asyncio.run(answer(item, model, AnswerConfig("m", "m-1", way=REVEALED, top=3, samples=8, temperature=1.0)))
    assert row.probabilities == pytest.approx((2 / 3, 0, 1 / 3))
    assert row.lost == pytest.approx(0.1)
    assert row.way == REVEALED
    assert len(model.calls) == 8, "no answer went on from Un, so that more were drawn"
    (withheld,) = asked([Completion("", "content_filter", Usage(9, 0))], way=REVEALED)
    assert withheld.reject == "no answer: content_filter"


def test_what_a_server_shows_comes_over_http(scripted_server: Any) -> None:
    url = scripted_server(showing).url
    item = Item("t/1", "german", "t", (Message("user", "Is it?"),), ("yes", "no", "unsure"), "no")

    async def through() -> list[Prediction]:
        endpoint = Endpoint(url, "scripted", None)
        try:
            return await answer(item, endpoint, await suited(endpoint, AnswerConfig("m", "scripted")))
        finally:
            await endpoint.close()

    (row,) = asyncio.run(through())
    assert row.way == REVEALED
    assert row.probabilities == pytest.approx((2 / 3, 0, 1 / 3), abs=1e-5)
