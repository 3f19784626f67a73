import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from cp_ray.serving.chat import BadRequest, ChatRequest, Piece, TokenLogprob
from cp_ray.serving.rows import Row
from cp_ray.serving.text import Writer
from cp_ray.serving.vllm_shapes import asked, asked_given, bodies, drawn_tokens, given_logprob, pieces


def row(**options: Any) -> Row:
    return Row(ChatRequest("german", (), **options), [1, 2], b"", 7, Writer(None, ()))


def fields(**options: Any) -> dict[str, Any]:
    return asked(row(**options), model="adapter/german", ends={9, 8}, context=100, priority=2, salt="s")


def read(responses: list[dict[str, Any]], **options: Any) -> list[Piece]:
    async def told() -> AsyncIterator[dict[str, Any]]:
        for response in responses:
            yield response

    async def run() -> list[Piece]:
        return [p async for p in pieces(told(), row(**options), lambda token: f"<{token}>")]

    return asyncio.run(run())


def choice(text: str, reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    return {"text": text, "finish_reason": reason, "logprobs": logprobs}


def test_a_prompt_goes_as_tokens_and_each_request_is_its_own() -> None:
    one, other = fields(seed=3, stop=("x",), top_p=0.5), fields(seed=3)
    assert (one["prompt"], one["max_tokens"], one["stop"], one["top_p"]) == ([1, 2], 7, ["x"], 0.5)
    assert (one["stop_token_ids"], one["cache_salt"]) == ([8, 9], "s")
    assert one["request_id"] != other["request_id"]
    assert one["seed"] == other["seed"]


def test_seeds_of_any_size_fit_and_the_choices_of_a_request_differ() -> None:
    seeds = [fields(seed=seed, choice=k)["seed"] for seed in (0, -(2**80), 2**80) for k in range(3)]
    assert len(set(seeds)) == 9
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_what_an_answer_may_be() -> None:
    assert fields(schema="{}")["structured_outputs"] == {"json": "{}"}
    several = fields(choices=("Yes", "No"))
    assert (several["structured_outputs"], several["max_tokens"]) == ({"choice": ["Yes", "No"]}, 98)


def test_a_token_that_is_known_may_alone_be_drawn_after_those_before_it() -> None:
    one = asked_given(row(), (), 5, model="base", priority=0, salt="s")
    assert (one["allowed_token_ids"], one["max_tokens"], one["logprobs"], one["temperature"]) == ([5], 1, 0, 0)
    assert (one["prompt"], one["cache_salt"]) == ([1, 2], "s")
    later = asked_given(row(logprobs=3), [7, 6], 5, model="base", priority=0, salt="s")
    assert (later["prompt"], later["allowed_token_ids"], later["logprobs"]) == ([1, 2, 7, 6], [5], 3)


def test_the_log_probability_of_a_known_token_is_the_one_drawn_s() -> None:
    last = {
        "tokens": ["token_id:5"],
        "token_logprobs": [-3.0],
        "top_logprobs": [{"token_id:5": -3, "token_id:9": -0.5}],
    }
    told = {"choices": [choice("", "length", last)]}
    assert given_logprob(told, row(logprobs=1), lambda token: f"<{token}>") == TokenLogprob(
        "<5>", -3.0, (("<9>", -0.5),)
    )
    assert drawn_tokens(told) == [5]


def test_events_are_read_and_errors_sorted_by_whose_they_are() -> None:
    assert list(bodies('data: {"a": 1}\n\ndata: {"a": 2}\n\ndata: [DONE]\n\n')) == [{"a": 1}, {"a": 2}]
    whole = SimpleNamespace(model_dump=lambda: {"error": {"message": "too\nlong", "code": 400}})
    with pytest.raises(BadRequest, match="vLLM cannot answer it; too long"):
        list(bodies(whole))
    with pytest.raises(RuntimeError, match="vLLM failed to answer: dead"):
        list(bodies('data: {"error": {"message": "dead", "code": 500}}\n\n'))


def test_the_last_piece_has_the_usage_that_follows_it() -> None:
    usage = {"completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    told = read([{"choices": [choice("a")]}, {"choices": [choice("b", "length")]}, {"choices": [], "usage": usage}])
    assert told == [Piece("a", "", 2), Piece("b", "length", 2, 2, 1)]


def test_the_likeliest_tokens_are_those_asked_for_and_not_the_drawn_one() -> None:
    logprobs = {
        "tokens": ["token_id:7"],
        "token_logprobs": [-5.0],
        "top_logprobs": [{"token_id:7": -5.0, "token_id:1": -0.1, "token_id:2": -2.0}],
    }
    (piece,) = read([{"choices": [choice("a", "stop", logprobs)], "usage": None}], logprobs=2)
    (token,) = piece.logprobs
    assert (token.text, token.logprob, token.top) == ("<7>", -5.0, (("<1>", -0.1), ("<2>", -2.0)))


@pytest.mark.parametrize("reason", [None, "abort"])
def test_an_answer_that_does_not_end_is_an_error(reason: str | None) -> None:
    with pytest.raises(RuntimeError, match="ended before the answer"):
        read([{"choices": [choice("a", reason)]}])
