"""One page on a run, by section: `figures`, `rows` (what the steps left), `page`."""

from cp_ray.evals.report.page import ReportConfig, render

__all__ = ["ReportConfig", "render"]
