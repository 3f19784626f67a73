from typing import Any

import pytest

from tests.browser.chromium import Chromium
from tests.browser.doing import answered_with, fits, press, seen, show, submit, text


@pytest.mark.parametrize("browser", [1000, 360], indirect=True)
def test_cultures_answer_side_by_side_and_each_text_runs_its_own_way(page: Chromium) -> None:
    submit(page, "ask-form", ask_text="ما هو الأهم؟")
    page.wait(
        "[...document.querySelectorAll('#answers .said')].filter(p => p.textContent === 'ما هو الأهم؟').length === 2"
    )
    directions: Any = page.run(
        "[...document.querySelectorAll('#answers .said')].map(p => getComputedStyle(p).direction)"
    )
    assert directions == ["rtl", "rtl"]
    assert fits(page)


def test_what_a_model_says_is_never_markup(page: Chromium) -> None:
    submit(page, "ask-form", ask_text="<img src=x onerror='document.title=1'>")
    page.wait(
        "document.querySelectorAll('#answers .said').length === 2 && document.querySelector('#ask-stop').disabled"
    )
    assert page.run("document.querySelectorAll('#answers img').length") == 0
    assert "<IMG" in page.run("document.querySelector('#answers .said').textContent")


@pytest.mark.parametrize("browser", [1000, 360], indirect=True)
def test_moderation_is_compared(page: Chromium) -> None:
    show(page, "moderate")
    submit(page, "moderate-form", moderate_text="You fool")
    page.wait("document.querySelectorAll('#judgement tbody tr').length === 13")
    row: Any = page.run("[...document.querySelector('#judgement tbody tr').children].map(c => c.textContent)")
    assert row == ["harassment", "0.27", "0.73 flagged"]
    table = "document.getElementById('judgement')"
    assert page.run(f"{table}.scrollWidth <= {table}.clientWidth")
    assert fits(page)


def test_a_talk_goes_on(page: Chromium) -> None:
    show(page, "learn")
    for words in ("hello", "and you?"):
        submit(page, "learn-form", learn_text=words)
        page.wait(f"document.querySelector('#talk li:last-child .said').textContent === {words.upper()!r}")
    assert page.run("document.querySelectorAll('#talk li').length") == 4


def test_tabs_are_walked_by_keyboard(page: Chromium) -> None:
    page.run("document.getElementById('tab-ask').focus()")
    page.press("ArrowRight", 39)
    assert page.run("document.activeElement.id") == "tab-moderate"
    assert not page.run("document.getElementById('moderate').hidden")
    page.press("Tab", 9)
    assert page.run("document.activeElement.id") == "moderate-text"
    page.run("document.getElementById('tab-ask').focus()")
    page.press("ArrowLeft", 37)
    assert page.run("document.activeElement.id") == "tab-quiz"


@pytest.mark.parametrize("browser", [360], indirect=True)
@pytest.mark.parametrize(("tab", "last"), [("learn", "learn-new"), ("quiz", "quiz-reset"), ("moderate", "judgement")])
def test_an_error_is_told_where_the_reader_is(page: Chromium, tab: str, last: str) -> None:
    answered_with(page, "chat/completions")
    answered_with(page, "moderations")
    show(page, tab)
    if tab == "quiz":
        page.wait("document.querySelectorAll('#quiz-question input').length > 1")
        page.run("document.querySelector('#quiz-question input').click()")
        answered_with(page, "education")
    page.run(f"document.getElementById('{tab}').style.paddingTop = '40rem'")  # there may be much above
    page.run(f"document.getElementById('{last}').scrollIntoView()")
    submit(page, f"{tab}-form", **({} if tab == "quiz" else {f"{tab}_text": "hello"}))
    page.wait("!document.getElementById('problem').hidden")
    assert text(page, "problem-text") == "The server is not reached. Does it still run?"
    assert seen(page, "problem")
    assert page.run("scrollY") > 100
    tree: Any = page.call("Accessibility.getFullAXTree")["nodes"]
    (alert,) = (node for node in tree if node.get("role", {}).get("value") == "alert")
    live = {one["name"]: one["value"]["value"] for one in alert["properties"]}
    assert live["live"] == "assertive"
    press(page, "problem-close")
    assert not seen(page, "problem")
