"""What a reader does with the page, and sees of it."""

import json
from typing import Any

from tests.browser.chromium import Chromium

__all__ = ["answered_with", "fits", "press", "seen", "show", "submit", "text"]


def show(page: Chromium, tab: str) -> None:
    """Go to a tab."""
    press(page, f"tab-{tab}")


def press(page: Chromium, id: str) -> None:
    """Press a button."""
    page.run(f"document.getElementById('{id}').click()")


def submit(page: Chromium, form: str, **fields: str) -> None:
    """Fill in a form and send it, as the key Enter does."""
    for id, value in fields.items():
        page.run(f"document.getElementById('{id.replace('_', '-')}').value = {value!r}")
    page.run(f"document.getElementById('{form}').requestSubmit()")


def text(page: Chromium, id: str) -> str:
    """What an element says, if it is seen."""
    found: str = page.run(f"document.getElementById('{id}').innerText")
    return found


def seen(page: Chromium, id: str) -> bool:
    """Whether an element is in sight, and nothing lies over it."""
    found: bool = page.run(f"""(() => {{
        const one = document.getElementById('{id}'), box = one.getBoundingClientRect();
        const over = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight && one.contains(over);
    }})()""")
    return found


def fits(page: Chromium) -> bool:
    """Whether nothing is cut off at the sides."""
    wide: bool = page.run("document.documentElement.scrollWidth <= window.innerWidth")
    return wide


def answered_with(page: Chromium, path: str, *pieces: str) -> None:
    """From now on the page gets these bytes for what it asks under a path; nothing: the server is gone."""
    told: Any = json.dumps(pieces)
    page.run(f"""(() => {{
        const real = window.fetch, pieces = {told}.map((piece) => new TextEncoder().encode(piece));
        const start = (to) => {{ pieces.forEach((piece) => to.enqueue(piece)); to.close(); }};
        window.fetch = (url, options) => {{
            if (!String(url).includes({path!r})) return real(url, options);
            if (!pieces.length) return Promise.reject(new TypeError('Failed to fetch'));
            return Promise.resolve(new Response(new ReadableStream({{ start }})));
        }};
    }})()""")
