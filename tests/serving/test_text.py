from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.serving.text import Writer
from tests.tiny import make_tokenizer

TOKENIZER: Any = make_tokenizer()


def ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER(text, add_special_tokens=False).input_ids
    return found


def pieces(text: str, stops: list[str]) -> tuple[list[str], Writer]:
    """What is told as each token comes, up to a stop string."""
    writer = Writer(TOKENIZER, stops)
    told = []
    for token in ids(text):
        told.append(writer.push(token))
        if writer.stopped:
            return told, writer
    return [*told, writer.end()], writer


@given(st.text())
def test_pieces_make_up_the_text_and_break_no_character(text: str) -> None:
    told, _ = pieces(text, [])
    assert "".join(told) == text
    assert all("\ufffd" not in piece for piece in told) or "\ufffd" in text


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_first_stop_string_however_it_comes(text: str, stops: list[str]) -> None:
    told, writer = pieces(text, stops)
    ends = [at for k in range(len(text) + 1) for stop in stops if (at := text[:k].find(stop)) >= 0]
    assert writer.stopped == bool(ends)
    if ends:
        # The stop string that is complete first ends the text.
        first = next(k for k in range(len(text) + 1) if any(stop in text[:k] for stop in stops))
        assert "".join(told) == text[: min(text[:first].find(s) for s in stops if s in text[:first])]
    else:
        assert "".join(told) == text


def test_what_a_stop_string_may_begin_is_held_back() -> None:
    writer = Writer(TOKENIZER, ["END"])
    assert [writer.push(token) for token in ids("aENx")] == ["a", "", "", "ENx"]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_bytes_of_a_character_that_never_ends_are_told_at_the_end(cut: int) -> None:
    writer = Writer(TOKENIZER, [])
    told = [writer.push(token) for token in ids("a🙂")[: 1 + cut]]
    assert told == ["a", *[""] * cut]
    assert set(writer.end()) == {"\ufffd"}
