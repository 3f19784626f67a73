import json
from typing import Any

import pytest

from tests.browser.chromium import Chromium
from tests.browser.doing import answered_with, press, show, submit

SLOWLY = "slowly " + "." * 100
END = "data: [DONE]\n\n"


def event(content: str, finish: str | None = None) -> str:
    return f"data: {json.dumps({'choices': [{'delta': {'content': content}, 'finish_reason': finish}]})}\n\n"


def disabled(page: Chromium, form: str) -> tuple[bool, bool]:
    go: bool = page.run(f"document.querySelector('#{form}-form [type=submit]').disabled")
    stop: bool = page.run(f"document.getElementById('{form}-stop').disabled")
    return go, stop


def said(page: Chromium, where: str) -> Any:
    return page.run(f"[...document.querySelectorAll('{where} .said')].map((p) => p.textContent)")


def test_while_answers_come_no_more_is_asked_and_all_of_them_can_be_stopped(page: Chromium) -> None:
    page.run("document.querySelector('#ask-form [type=submit]').focus()")
    submit(page, "ask-form", ask_text=SLOWLY)
    page.wait("[...document.querySelectorAll('#answers .said')].filter((p) => p.textContent).length === 2")
    assert page.run("document.activeElement.id") == "ask-stop"
    submit(page, "ask-form", ask_text="another")
    assert disabled(page, "ask") == (True, False)
    assert len(said(page, "#answers")) == 2
    press(page, "ask-stop")
    page.wait("document.getElementById('ask-stop').disabled")
    assert page.run("[...document.querySelectorAll('#answers .note')].map((p) => p.textContent)") == ["Stopped."] * 2
    assert all(SLOWLY.upper().startswith(part) and len(part) < 100 for part in said(page, "#answers"))
    assert page.run("document.activeElement.textContent") == "Ask"
    submit(page, "ask-form", ask_text="another")
    page.wait("document.querySelector('#answers article:last-child .said')?.textContent === 'ANOTHER'")


def test_a_talk_goes_on_from_what_was_said_before_it_was_stopped(page: Chromium) -> None:
    show(page, "learn")
    submit(page, "learn-form", learn_text=SLOWLY)
    page.wait("document.querySelector('#talk li:last-child .said')?.textContent")
    submit(page, "learn-form", learn_text="another")
    assert disabled(page, "learn") == (True, False)
    press(page, "learn-stop")
    page.wait("document.getElementById('learn-stop').disabled")
    submit(page, "learn-form", learn_text="and now?")
    page.wait("document.querySelector('#talk li:last-child .said').textContent === 'AND NOW?'")
    first, part, *rest = said(page, "#talk")
    assert (first, rest) == (SLOWLY, ["and now?", "AND NOW?"])
    assert part
    assert SLOWLY.upper().startswith(part)


def test_a_talk_that_begins_anew_hears_nothing_of_the_old_one(page: Chromium) -> None:
    show(page, "learn")
    submit(page, "learn-form", learn_text=SLOWLY)
    page.wait("document.querySelector('#talk li:last-child .said')?.textContent")
    press(page, "learn-new")
    page.wait("document.getElementById('learn-stop').disabled")
    submit(page, "learn-form", learn_text="hello")
    page.wait("document.querySelector('#talk li:last-child .said')?.textContent === 'HELLO'")
    assert said(page, "#talk") == ["hello", "HELLO"]
    assert page.run("document.getElementById('problem').hidden")


@pytest.mark.parametrize(("words", "read"), [("gone", []), ("snap", ["snap", "SN"])])
def test_after_an_error_the_words_are_back_where_they_were_typed(page: Chromium, words: str, read: list[str]) -> None:
    show(page, "learn")
    submit(page, "learn-form", learn_text=words)
    page.wait("!document.getElementById('problem').hidden")
    assert page.run("document.getElementById('learn-text').value") == words
    assert said(page, "#talk") == read  # what came of an answer can still be read
    submit(page, "learn-form", learn_text="hello")
    page.wait("document.querySelector('#talk li:last-child .said')?.textContent === 'HELLO'")
    assert said(page, "#talk") == ["hello", "HELLO"]


@pytest.mark.parametrize(
    ("pieces", "answer", "told"),
    [
        (["\ufeff: hi\r\n\r\n" + event("a").replace("\n", "\r\n")[:-1], "\n: ping\n\n", event("b")[:20],
          event("b")[20:], "event: x\rdata: [DO", "NE]\r\r"], "ab", ""),
        ([event("a"), event("b", "length"), END], "ab", "Cut here: this page asks for 200 tokens at most."),
        ([event("a")], "a", "The server ended the answer before its end; ask again."),
        ([END], "", "No answer came; ask in other words."),
        ([], "", "The server is not reached. Does it still run?"),
    ],
    ids=["comments", "length", "no end", "empty", "no server"],
)  # fmt: skip
def test_an_answer_says_how_it_ended(page: Chromium, pieces: list[str], answer: str, told: str) -> None:
    answered_with(page, "v1/chat/completions", *pieces)
    submit(page, "ask-form", ask_text="hello")
    page.wait("document.querySelectorAll('#answers .said').length && document.getElementById('ask-stop').disabled")
    assert said(page, "#answers")[0] == answer
    card = page.run("document.querySelector('#answers article').innerText").split("\n")
    assert [line for line in card[1:] if line not in ("", answer)] == ([told] if told else [])
