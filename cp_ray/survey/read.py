"""Any survey file into items: its form is told from its columns."""

from pathlib import Path

from cp_ray.errors import SurveyError
from cp_ray.survey import counts, goqa, own, wvs7
from cp_ray.survey.items import Item, Source, Survey
from cp_ray.survey.lines import columns
from cp_ray.survey.questions import QUESTIONS

__all__ = ["FORMS", "WVS7", "read_survey"]

WVS7 = Source(
    "wvs7",
    "wave 7 of the World Values Survey",
    "The survey's data are free for non-profit use with citation: Haerpfer, C., et al. (eds.): World Values Survey: "
    "Round Seven, Country-Pooled Datafile Version 5.0. doi:10.14281/18241.24.",
)
GOQA = Source(
    "goqa",
    "GlobalOpinionQA",
    "GlobalOpinionQA (CC BY-NC-SA 4.0) is cited as: Durmus, E., et al.: Towards Measuring the Representation of "
    "Subjective Global Opinions in Language Models. arXiv:2306.16388.",
)

FORMS = (
    f"answer counts ({', '.join(counts.COLUMNS)})",
    f"WVS-7's respondents ({', '.join(wvs7.COLUMNS)}, Q27 ...)",
    f"GlobalOpinionQA ({', '.join(goqa.COLUMNS)})",
    f"a survey of your own ({', '.join(own.COLUMNS)})",
)
"""The forms that are known, by their columns."""


def read_survey(path: Path | None = None) -> Survey:
    """The survey in a file; None for the counts that come with the package.

    Raises:
        SurveyError: the file cannot be read, has none of the known forms, breaks a rule, or holds no answers.
    """
    if path is None:
        return Survey(WVS7, counts.items(counts.read_counts()))
    source, items = _read(path)
    if not any(item.answers for item in items):
        raise SurveyError(f"survey: {path} holds no answers; give a file with at least one question that was answered")
    return Survey(source, items)


def _read(path: Path) -> tuple[Source, tuple[Item, ...]]:
    own_source = Source(path.stem, f"the survey {path.stem!r}")
    if _is_no_csv(path):
        return GOQA, goqa.read_goqa(path)
    found = columns(path)
    if set(counts.COLUMNS) <= set(found):
        return own_source, counts.items(counts.read_counts(path))
    if set(wvs7.COLUMNS) <= set(found) and not QUESTIONS.keys().isdisjoint(found):
        return WVS7, wvs7.read_wvs7(path)
    if set(goqa.COLUMNS) <= set(found):
        return GOQA, goqa.read_goqa(path)
    if set(own.COLUMNS) <= set(found):
        return own_source, own.read_own(path)
    shown = ", ".join(repr(name[:40]) for name in found[:6]) or "nothing"
    raise SurveyError(f"survey: {path} has none of the known forms: its columns are {shown}; known: {'; '.join(FORMS)}")


def _is_no_csv(path: Path) -> bool:
    """Parquet or JSON Lines, the other ways in which GlobalOpinionQA goes about."""
    try:
        with path.open("rb") as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise SurveyError(f"survey: {path} cannot be read ({error}); known: {'; '.join(FORMS)}") from error
    return start.startswith((b"PAR1", b"{"))
