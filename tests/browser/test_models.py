from collections.abc import Iterator

import pytest

from cp_ray.cultures import CULTURES
from cp_ray.serving.api import build_api
from cp_ray.serving.keys import Key, Keys, new_key
from cp_ray.serving.service import Service
from tests.browser.chromium import Chromium
from tests.browser.doing import seen, show, submit, text
from tests.conftest import Server
from tests.serving.fake import MODELS, Fake

KEY, SHA256 = new_key()


@pytest.fixture
def bare(browser: Chromium) -> Iterator[Chromium]:
    """The page of a server with the base alone, as `serve/local.yaml` has it."""
    with Server(build_api(Service(Fake(), "smollm2", MODELS[-1:]))) as running:
        browser.open(running.url.removesuffix("v1"))
        browser.wait("document.querySelectorAll('#ask-models input').length === 1")
        yield browser


@pytest.fixture
def locked(browser: Chromium) -> Iterator[Chromium]:
    """The page of a server that needs a key."""
    keys, cultures = Keys((Key("school", SHA256),)), [CULTURES["german"], CULTURES["arabic"]]
    with Server(build_api(Service(Fake(), "smollm2", MODELS, cultures, keys))) as running:
        browser.open(running.url.removesuffix("v1"))
        browser.wait("!document.getElementById('problem').hidden")
        yield browser


@pytest.mark.parametrize("browser", [360], indirect=True)
@pytest.mark.parametrize("tab", ["moderate", "quiz"])
def test_a_server_without_culture_models_says_so_and_what_to_do(bare: Chromium, tab: str) -> None:
    show(bare, tab)
    bare.wait(f"!document.getElementById('{tab}-none').hidden")
    assert seen(bare, f"{tab}-none")
    told = text(bare, f"{tab}-none")
    assert "no culture models" in told
    assert "cp-ray serve" in told
    buttons = f"[...document.querySelectorAll('#{tab} button')].filter((b) => b.checkVisibility()).length"
    assert bare.run(buttons) == 0
    assert bare.run("document.getElementById('problem').hidden")


def test_the_base_alone_answers(bare: Chromium) -> None:
    submit(bare, "ask-form", ask_text="hello")
    bare.wait("document.querySelector('#answers .said')?.textContent === 'HELLO'")


@pytest.mark.parametrize(("tab", "legend"), [("ask", "Who answers"), ("moderate", "From whose point of view")])
def test_where_nobody_is_ticked_it_is_said_what_to_do(page: Chromium, tab: str, legend: str) -> None:
    show(page, tab)
    page.run(f"document.querySelectorAll('#{tab}-models input').forEach((box) => box.click())")
    submit(page, f"{tab}-form", **{f"{tab}_text": "hello"})
    page.wait("!document.getElementById('problem').hidden")
    assert text(page, "problem-text") == f"Nobody is ticked under “{legend}”: tick at least one."


@pytest.mark.parametrize("tab", ["ask", "moderate", "learn", "quiz"])
def test_no_tab_breaks_while_a_key_is_missing(locked: Chromium, tab: str) -> None:
    show(locked, tab)
    submit(locked, f"{tab}-form", **({} if tab == "quiz" else {f"{tab}_text": "hello"}))
    locked.wait("!document.getElementById('problem').hidden")
    assert "a valid key is needed" in text(locked, "problem-text")
    locked.run(f"document.getElementById('key').value = '{KEY}'")
    locked.run("document.getElementById('key').dispatchEvent(new Event('change'))")
    locked.wait("document.querySelectorAll('#ask-models input').length === 2")
    assert locked.run("document.getElementById('problem').hidden")
