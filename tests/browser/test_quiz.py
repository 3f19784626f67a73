import json

import pytest

from tests.browser.chromium import Chromium
from tests.browser.doing import fits, press, show, submit, text


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


def test_what_an_earlier_page_kept_twice_counts_once(page: Chromium) -> None:
    twice = [{"question": "Q27", "option": 0}, {"question": "Q27", "option": 1}]
    page.run(f"localStorage.setItem('cp_ray.quiz.german', {json.dumps(json.dumps(twice))})")
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
