import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cp_ray.cultures import CULTURES
from cp_ray.serving.api import build_api
from cp_ray.serving.chat import ChatRequest
from cp_ray.serving.service import Service
from tests.browser.chromium import Chromium, find
from tests.conftest import Server
from tests.serving.fake import MODELS, Fake

PROGRAM = find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
SCREENSHOTS = os.environ.get("CP_RAY_SCREENSHOTS")


class Judge(Fake):
    """The German model minds; the Arabic one minds more."""

    def labels(self, request: ChatRequest) -> tuple[float, ...]:
        if "N/A" in request.messages[-1].content:
            return (0.0, 0.0)
        return (1.0 if request.model == "german" else 3.0, 2.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    cultures = [CULTURES["german"], CULTURES["arabic"]]
    with Server(build_api(Service(Judge(), "smollm2", MODELS, cultures))) as running:
        yield running


@pytest.fixture
def page(server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Chromium]:
    assert PROGRAM is not None
    width = getattr(request, "param", 1000)
    with Chromium(PROGRAM, tmp_path, width=width) as browser:
        browser.open(server.url.removesuffix("v1"))
        browser.wait("document.querySelectorAll('#ask-models input').length === 2")
        yield browser
        if SCREENSHOTS:
            browser.screenshot(Path(SCREENSHOTS) / f"{request.node.originalname}-{width}.png")


def show(page: Chromium, tab: str) -> None:
    page.run(f"document.getElementById('tab-{tab}').click()")


def submit(page: Chromium, form: str, **fields: str) -> None:
    for id, text in fields.items():
        page.run(f"document.getElementById('{id.replace('_', '-')}').value = {text!r}")
    page.run(f"document.getElementById('{form}').requestSubmit()")


def fits(page: Chromium) -> bool:
    wide: bool = page.run("document.documentElement.scrollWidth <= window.innerWidth")
    return wide


@pytest.mark.parametrize("page", [1000, 360], indirect=True)
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


@pytest.mark.parametrize("page", [1000, 360], indirect=True)
def test_moderation_is_compared(page: Chromium) -> None:
    show(page, "moderate")
    submit(page, "moderate-form", moderate_text="You fool")
    page.wait("document.querySelectorAll('#judgement tbody tr').length === 13")
    row: Any = page.run("[...document.querySelector('#judgement tbody tr').children].map(c => c.textContent)")
    assert row == ["harassment", "0.27", "0.73 flagged"]
    assert fits(page)


def test_a_talk_goes_on(page: Chromium) -> None:
    show(page, "learn")
    for text in ("hello", "and you?"):
        submit(page, "learn-form", learn_text=text)
        page.wait(f"document.querySelector('#talk li:last-child .said').textContent === {text.upper()!r}")
    assert page.run("document.querySelectorAll('#talk li').length") == 4


@pytest.mark.parametrize("page", [1000, 360], indirect=True)
def test_a_quiz_shows_how_people_answered_and_keeps_count(page: Chromium) -> None:
    show(page, "quiz")
    for done in (1, 2):
        page.wait("document.querySelectorAll('#quiz-question input').length > 1")
        page.run("document.querySelector('#quiz-question input').click()")
        page.run("document.getElementById('quiz-form').requestSubmit()")
        page.wait("document.querySelectorAll('#quiz-answer meter').length > 1")
        assert page.run("document.getElementById('quiz-progress').textContent").startswith(f"{done} of ")
        if done == 1:
            page.run("document.getElementById('quiz-next').click()")
    page.run("document.getElementById('quiz-end').click()")
    page.wait("document.querySelectorAll('#quiz-score meter').length === 2")
    assert fits(page)


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
