"""The report: one self-contained HTML page on a whole run, and its figures in short for a terminal."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from cp_ray.cultures import Culture, of
from cp_ray.evals.report import figures
from cp_ray.evals.report import rows as left
from cp_ray.records import Dialogue, Example, Prediction, Score, Seed
from cp_ray.survey.items import Source

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = ["ReportConfig", "render"]


@dataclass(frozen=True)
class ReportConfig:
    """What is shown."""

    cultures: tuple[Culture, ...]
    """Of the seeds."""
    survey: Source
    """That the models are held against."""
    opinions: int = 6
    """Accepted ones shown, and as many that were set aside."""
    page: int = 4
    """Edition of the page."""


def render(inputs: "Mapping[str, Folder]", root: str, config: ReportConfig) -> tuple[str, str]:
    """The page and the summary.

    Args:
        inputs: the folders of the steps by name; a page can be made of whichever there are.
        root: the run folder, for what was paid.
        config: what is shown.
    """
    import jinja2

    scores = inputs["evaluate"].read(Score) if "evaluate" in inputs else []
    seeds = inputs["seeds"].read(Seed) if "seeds" in inputs else []
    verdicts = figures.verdicts(scores, config.cultures)
    template = resources.files("cp_ray.evals.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(template).render(
        cultures=[of(config.cultures, c) for c in dict.fromkeys(s.culture for s in seeds)],
        survey=config.survey,
        verdicts=verdicts,
        matrices=[(title, figures.matrix(scores, *figure)) for title, *figure in figures.MATRICES],
        distances=[figures.distances(scores, v) for v in verdicts],
        answers=figures.answers(seeds, left.rows(inputs, "predict", Prediction)),
        funnel=left.funnel(inputs),
        data=left.data(seeds, left.rows(inputs, "examples", Example), config.cultures),
        near=left.near(inputs),
        wordings=left.wordings(inputs, config.opinions),
        dialogue=left.sample_dialogue(left.rows(inputs, "dialogue", Dialogue)),
        talks=left.talks(inputs),
        opinions=left.sample_opinions(left.opinions(inputs), None, config.opinions),
        rejected=left.rejected(inputs, config.opinions),
        curves=left.curves(inputs),
        served=left.rows(inputs, "serve", Prediction),
        asked=left.asked(seeds, left.rows(inputs, "serve", Prediction)),
        paid=left.paid(root),
        manifests={name: m.config for name, folder in inputs.items() if (m := folder.manifest())},
        teacher=left.teacher(inputs),
        heldout=list(dict.fromkeys((s.question_id, s.topic, s.question) for s in seeds if s.split == "heldout")),
    )
    return page, figures.summary(scores, verdicts)
