import json
import re
from typing import Any

import pytest

from tests.browser.chromium import Chromium
from tests.browser.doing import answered_with, press, show, submit

SLOWLY = "slowly " + "." * 100
QUESTION = {"id": "Q1", "topic": "", "question": "ما أهمية الأسرة في حياتك؟", "options": ["مهمة جدا", "Not at all"]}
QUIZ = {"survey": {"name": "a survey", "terms": ""}, "questions": [QUESTION]}
MARKED = {"options": QUESTION["options"], "distribution": [0.9, 0.1], "commonest": 0, "right": False}


def directions(page: Chromium, where: str) -> Any:
    return page.run(f"[...document.querySelectorAll('{where}')].map((e) => getComputedStyle(e).direction)")


@pytest.mark.parametrize(("tab", "live"), [("ask", "answers"), ("learn", "talk")])
def test_an_answer_is_read_out_when_it_is_whole(page: Chromium, tab: str, live: str) -> None:
    show(page, tab)
    submit(page, f"{tab}-form", **{f"{tab}_text": SLOWLY})
    page.wait(f"[...document.querySelectorAll('#{live} .said')].at(-1)?.textContent.length > 0")
    assert page.run(f"document.getElementById('{live}').ariaBusy") == "true"
    press(page, f"{tab}-stop")
    page.wait(f"document.getElementById('{live}').ariaBusy === 'false'")
    assert page.run(f"document.getElementById('{live}').ariaLive") == "polite"


def test_an_answer_tells_its_language(page: Chromium) -> None:
    submit(page, "ask-form", ask_text="hello")
    page.wait("document.querySelectorAll('#answers .said').length === 2")
    assert page.run("[...document.querySelectorAll('#answers .said')].map((p) => p.lang)") == ["de", "ar"]
    show(page, "learn")
    page.run("document.getElementById('learn-model').value = 'base'")
    submit(page, "learn-form", learn_text="hello")
    page.wait("document.querySelectorAll('#talk .said').length === 2")
    # Of the base nobody knows which language it will answer in; it is not said to be the page's own.
    assert page.run("document.querySelector('#talk li:last-child .said').getAttribute('lang')") == ""


def test_questions_and_options_run_their_own_way(page: Chromium) -> None:
    answered_with(page, "education/quiz", json.dumps(QUIZ))
    show(page, "quiz")
    page.wait("document.querySelectorAll('#quiz-question input').length === 2")
    assert directions(page, "#quiz-question legend, #quiz-question bdi") == ["rtl", "rtl", "ltr"]
    answered_with(page, "education/quiz", json.dumps(MARKED))
    page.run("document.querySelectorAll('#quiz-question input')[1].click()")
    press(page, "quiz-go")
    page.wait("document.querySelectorAll('#quiz-answer meter').length === 2")
    assert directions(page, "#quiz-answer bdi") == ["rtl", "rtl", "ltr"]


def luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (c / 255 for c in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_where_to_type_and_press_stands_out(page: Chromium, scheme: str) -> None:
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    script = """(() => {
        const edges = [...document.querySelectorAll('textarea, select, button:not([role=tab]), input[type=password]')];
        const behind = getComputedStyle(document.getElementById('problem')).backgroundColor;
        return [behind, ...edges.map((e) => getComputedStyle(e).borderTopColor)];
    })()"""
    behind, *edges = ([float(part) for part in re.findall(r"[\d.]+", colour)] for colour in page.run(script))
    assert len(edges) > 10
    for *colour, alpha in (edge if len(edge) == 4 else [*edge, 1.0] for edge in edges):
        drawn = [c * alpha + b * (1 - alpha) for c, b in zip(colour, behind, strict=True)]
        low, high = sorted((luminance(drawn), luminance(behind)))
        assert (high + 0.05) / (low + 0.05) >= 3
