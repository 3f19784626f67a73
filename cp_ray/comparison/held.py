"""Differences as a section, in the form that all evaluations share."""

from collections.abc import Mapping, Sequence

from cp_ray.ablation import difference_table
from cp_ray.evals.differences import Difference
from cp_ray.evals.results.sections import Section

__all__ = ["OVER_ITEMS", "left_out", "not_compared", "section"]

OVER_ITEMS = "p is of a paired permutation test over the items, corrected for the number of comparisons (Holm)."


def section(title: str, tables: Mapping[str, Sequence[Difference]], notes: Sequence[str] = (OVER_ITEMS,)) -> Section:
    """What is told apart in sentences, and tables of all of it.

    Args:
        title: of the section.
        tables: differences, by their table's title; an empty one is left out.
        notes: how they are to be read.
    """
    there = {name: found for name, found in tables.items() if found}
    if not there:
        return not_compared(title, "they have no model in common that was asked the same")
    said = [
        f"{', '.join(filter(None, (one.model, one.culture, one.what)))}: {one.told} "
        f"({one.second:.3f} against {one.first:.3f})."
        for found in there.values()
        for one in found
        if one.p <= 0.05
    ]
    made = [difference_table(name, [(one.model, one) for one in found], "second") for name, found in there.items()]
    return Section(title, tuple(said) or ("Nothing is told apart.",), tuple(made), notes=tuple(notes))


def left_out(first: int, second: int) -> tuple[str, ...]:
    """How many of each run's calls brought no answer, in a line; none where all did."""
    if not first + second:
        return ()
    return (f"Calls that came to no answer count nowhere: {first} of the first run, {second} of the second.",)


def not_compared(title: str, why: str) -> Section:
    """A section of one line."""
    return Section(title, (f"Not compared: {why}.",))
