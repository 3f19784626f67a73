"""Interim."""
from dataclasses import dataclass
from cp_ray.records import Score
@dataclass(frozen=True)
class ReportConfig:
    samples: int = 3
def render(inputs, root):
    sc=[s for s in inputs["evaluate"].read(Score) if s.metric=="emd"]
    return "<html></html>", "\n".join(f"{s.task:16} {s.culture:10} {s.model:10} {s.value:.3f} [{s.low:.3f}, {s.high:.3f}]" for s in sc)
