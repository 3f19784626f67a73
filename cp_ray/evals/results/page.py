"""Sections as one self-contained HTML page, and as Markdown."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from cp_ray.evals.results.sections import Section, Table

__all__ = ["html_page", "markdown"]


def html_page(
    title: str,
    sections: Sequence[Section],
    made_by: Mapping[str, Mapping[str, Any]],
    command: str | None = None,
    lead: str = "",
) -> str:
    """The page.

    Args:
        title: of the page.
        sections: what it shows.
        made_by: the configuration of every step.
        command: what made it.
        lead: how it is to be read.
    """
    import jinja2

    template = resources.files("cp_ray.evals.results").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        title=title, sections=sections, made_by=made_by, command=command, lead=lead
    )


def markdown(title: str, sections: Sequence[Section], lead: str = "") -> str:
    """The same without the charts."""
    lines = [f"# {title}", "", *([lead, ""] if lead else [])]
    for section in sections:
        lines += [f"## {section.title}", "", *(f"* {said}" for said in section.said), ""]
        for table in section.tables:
            lines += [*_table(table), ""]
        for table in section.folded:
            lines += [f"<details><summary>{escape(table.title)}</summary>", "", *_cells(table), "", "</details>", ""]
        lines += [*(f"{note}\n" for note in section.notes)]
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    return [f"**{table.title}**", "", *_cells(table)]


def _cells(table: Table) -> list[str]:
    rows = [table.heads, ("---",) * len(table.heads), *table.rows]
    return [f"| {' | '.join(map(_cell, row))} |" for row in rows]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
