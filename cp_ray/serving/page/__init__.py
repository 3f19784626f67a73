"""The web page at `/`: plain HTML, CSS and JavaScript, served as they are."""

from pathlib import Path

from fastapi import FastAPI, Response

__all__ = ["add_page"]

_FOLDER = Path(__file__).parent
_TYPES = {"index.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
_HEADERS = {
    # Nothing is loaded from elsewhere, and no text of a model is ever read as a script.
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def add_page(api: FastAPI) -> None:
    """Add the routes."""
    texts = {name: (_FOLDER / name).read_bytes() for name in _TYPES}

    def answer(name: str) -> Response:
        return Response(texts[name], media_type=_TYPES[name], headers=_HEADERS)

    @api.get("/", include_in_schema=False)
    async def index() -> Response:
        return answer("index.html")

    @api.get("/page/page.js", include_in_schema=False)
    async def script() -> Response:
        return answer("page.js")

    @api.get("/page/page.css", include_in_schema=False)
    async def style() -> Response:
        return answer("page.css")
