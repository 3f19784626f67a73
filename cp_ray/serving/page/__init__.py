"""The web page at `/`: plain HTML, CSS and JavaScript, served as they are."""

from functools import partial
from pathlib import Path

from fastapi import FastAPI, Response

__all__ = ["FILES", "add_page"]

_FOLDER = Path(__file__).parent
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
FILES = {
    "/" if path.suffix == ".html" else f"/page/{path.name}": path
    for path in sorted(_FOLDER.iterdir())
    if path.suffix in _TYPES
}
"""By where they are served."""
_HEADERS = {
    # Nothing is loaded from elsewhere, and no text of a model is ever read as a script.
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def add_page(api: FastAPI) -> None:
    """Add the routes."""

    async def answer(text: bytes, kind: str) -> Response:
        return Response(text, media_type=kind, headers=_HEADERS)

    for where, path in FILES.items():
        whole = partial(answer, path.read_bytes(), _TYPES[path.suffix])
        api.add_api_route(where, whole, include_in_schema=False)
