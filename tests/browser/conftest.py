import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cp_ray.cultures import CULTURES
from cp_ray.serving.api import build_api
from cp_ray.serving.chat import ChatRequest, Piece
from cp_ray.serving.service import Service
from tests.browser.chromium import Chromium, find
from tests.conftest import Server
from tests.serving.fake import MODELS, Fake

SCREENSHOTS = os.environ.get("CP_RAY_SCREENSHOTS")


class Voices(Fake):
    """The German model minds; the Arabic one minds more. Some texts take their time."""

    def labels(self, request: ChatRequest) -> tuple[float, ...]:
        if "N/A" in request.messages[-1].content:
            return (0.0, 0.0)
        return (1.0 if request.model.startswith("german@") else 3.0, 2.0)

    async def stream(self, request: ChatRequest) -> AsyncIterator[Piece]:
        async for piece in super().stream(request):
            yield piece
            if request.messages and request.messages[-1].content.startswith("slowly"):
                await asyncio.sleep(1)


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    cultures = [CULTURES["german"], CULTURES["arabic"]]
    with Server(build_api(Service(Voices(), "smollm2", MODELS, cultures))) as running:
        yield running


@pytest.fixture
def browser(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Chromium]:
    """A browser as wide as the parameter; the narrow one is a phone's."""
    program = find()
    if program is None:
        pytest.skip("no Chromium is installed")
    width = getattr(request, "param", 1000)
    with Chromium(program, tmp_path, width=width, height=900 if width > 400 else 640) as browser:
        yield browser
        if SCREENSHOTS:
            browser.screenshot(Path(SCREENSHOTS) / f"{request.node.originalname}-{width}.png")


@pytest.fixture
def page(server: Server, browser: Chromium) -> Chromium:
    """The page of a server with two cultures' models."""
    browser.open(server.url.removesuffix("v1"))
    browser.wait("document.querySelectorAll('#ask-models input').length === 2")
    return browser
