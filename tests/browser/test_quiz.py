import json

import pytest

from cp_ray.serving.api import build_api
from cp_ray.serving.chat import ModelSpec
from cp_ray.serving.service import Service
from tests.browser.chromium import Chromium
from tests.browser.doing import fits, press, show, submit, text
from tests.conftest import Server
from tests.serving.fake import Fake


@pytest.mark.parametrize("browser", [1000, 360], indirect=True)
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


def answer(page: Chromium) -> None:
    """Choose the first answer and let the real ones be shown."""
    page.wait("document.querySelectorAll('#quiz-question input').length > 1")
    page.run("document.querySelector('#quiz-question input').click()")
    press(page, "quiz-go")
    page.wait("document.querySelectorAll('#quiz-answer meter').length > 1")


def scored(page: Chromium) -> str:
    press(page, "quiz-end")
    page.wait("document.querySelectorAll('#quiz-score meter').length || !document.getElementById('problem').hidden")
    assert page.run("document.getElementById('problem').hidden"), text(page, "problem")
    return text(page, "quiz-score")


def test_of_a_culture_without_survey_answers_it_is_said_that_there_are_no_questions(browser: Chromium) -> None:
    own = ModelSpec("sailors", "a/sailors", "sailors", "English")
    with Server(build_api(Service(Fake(), "smollm2", (own,)))) as running:
        browser.open(running.url.removesuffix("v1"))
        browser.wait("document.querySelectorAll('#ask-models input').length === 1")
        show(browser, "quiz")
        browser.wait("document.getElementById('quiz-question').innerText")
        assert text(browser, "quiz-question").startswith("There are no questions about Sailors")
        assert text(browser, "quiz-progress") == ""
        assert not browser.run("[...document.querySelectorAll('#quiz button')].some((b) => b.checkVisibility())")


def test_a_question_that_is_answered_twice_counts_once(page: Chromium) -> None:
    show(page, "quiz")
    page.wait("document.querySelectorAll('#quiz-question input').length > 1")
    page.run("document.querySelector('#quiz-question input').click()")
    page.run("for (const _ of [1, 2]) document.getElementById('quiz-form').requestSubmit()")  # a double click
    page.wait("document.querySelectorAll('#quiz-answer meter').length > 1")
    submit(page, "quiz-form")  # Enter on an answer
    assert page.run("document.getElementById('quiz-go').disabled")
    assert page.run("document.getElementById('quiz-question').disabled")
    assert "1 times" in scored(page)
    assert text(page, "quiz-progress").startswith("1 of ")
    assert len(json.loads(page.run("localStorage.getItem('cp_ray.quiz.german')"))) == 1


def test_what_was_kept_twice_counts_once_and_another_survey_s_guesses_do_not_count(page: Chromium) -> None:
    before = [{"question": id, "option": option} for id, option in (("Q27", 0), ("Q27", 1), ("S1", 0), ("Q28", 9))]
    page.run(f"localStorage.setItem('cp_ray.quiz.german', {json.dumps(json.dumps(before))})")
    show(page, "quiz")
    answer(page)
    assert text(page, "quiz-progress").startswith("2 of ")
    assert "of 2 times" in scored(page)


def test_a_question_is_answered_once_more_where_it_failed(page: Chromium) -> None:
    show(page, "quiz")
    page.wait("document.querySelectorAll('#quiz-question input').length > 1")
    page.run("document.querySelector('#quiz-question input').click()")
    page.run("window.real = window.fetch; window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    press(page, "quiz-go")
    page.wait("!document.getElementById('problem').hidden")
    page.run("window.fetch = window.real")
    answer(page)
    assert text(page, "quiz-progress").startswith("1 of ")
