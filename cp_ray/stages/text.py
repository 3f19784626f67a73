"""Small things about English text that several stages need."""

import re

__all__ = ["article", "holds", "read_list", "read_word", "trim_to_sentence"]

_SENTENCE_END = re.compile(r"[.!?…][\"'”’)]*(?=\s|$)")
_LIST_LINE = re.compile(r"^\s*(?:\d{1,3}[.):]|[-*•])\s+(\S.*)$")

_TELLING, _UNSPACED = 3, 8
"""Words that make a question, and characters, where a language has no blanks between words."""


def article(adjective: str) -> str:
    """`an Arab`, `a German`."""
    return f"{'an' if adjective[:1].lower() in 'aeiou' else 'a'} {adjective}"


def holds(text: str, question: str) -> bool:
    """Does a text have a question in it? One of two words, such as "Leisure time", anybody might use."""
    words = len(question.split())
    unspaced = words == 1 and not question.isascii() and len(question) >= _UNSPACED
    return (words >= _TELLING or unspaced) and question in text


def trim_to_sentence(text: str) -> str:
    """`text` up to its last whole sentence; all of it where no sentence ends."""
    ends = [m.end() for m in _SENTENCE_END.finditer(text)]
    return (text[: ends[-1]] if ends else text).strip()


def read_list(text: str) -> list[str]:
    """The entries of a numbered or bulleted list; other lines are no entries."""
    return [m.group(1).strip() for line in text.splitlines() if (m := _LIST_LINE.match(line))]


def read_word(text: str, words: tuple[str, ...]) -> str | None:
    """The one of `words` that `text` consists of, apart from case, quotes and punctuation; None if it is another."""
    said = text.strip().strip("\"'“”‘’*.!:`").strip().lower()
    return said if said in words else None
