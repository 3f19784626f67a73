"""The report's charts, as SVG text without any script; colours come from the page's style sheet."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from cp_ray.records import Score, TrainPoint

__all__ = ["distance_chart", "loss_chart", "matrix_chart", "option_bars", "radar_chart", "value_chart"]

_WIDTH = 480

_CELL = 78
"""Of a matrix: the width at least, for an interval to be read."""


def distance_chart(scores: Sequence[Score], title: str) -> str:
    """A dot with its interval for every model, on a scale from 0."""
    top = max((s.high for s in scores), default=1.0) * 1.05
    left, line = min(230, max(110, 8 * max((len(s.model) for s in scores), default=0) + 10)), 26

    def x(value: float) -> float:
        return left + value / top * (_WIDTH - left - 60)

    parts = []
    for k, score in enumerate(scores):
        y = 18 + k * line
        kind = "own" if score.model == score.culture else "other"
        parts.append(
            f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(score.model)}</text>'
            f'<line class="{kind}" x1="{x(score.low):.1f}" x2="{x(score.high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="{kind}" cx="{x(score.value):.1f}" cy="{y}" r="5"/>'
            f'<text x="{x(score.high) + 8:.1f}" y="{y + 4}">{score.value:.3f}</text>'
        )
    return _svg(title, _WIDTH, 20 + len(scores) * line, parts)


def matrix_chart(scores: Sequence[Score], rows: Sequence[str], columns: Sequence[str], title: str) -> str:
    """Rows of models by columns of cultures, the nearer the darker; a culture's own model is framed."""
    by = {(s.model, s.culture): s for s in scores if s.model in rows and s.culture in columns}
    values = [s.value for s in by.values()]
    least, most = min(values, default=0.0), max(values, default=1.0)
    left, line = 110, 34
    across = max(_WIDTH, left + _CELL * len(columns))
    width = (across - left) / max(1, len(columns))
    parts = [
        f'<text x="{left + (c + 0.5) * width:.1f}" y="14" text-anchor="middle">{escape(name)}</text>'
        for c, name in enumerate(columns)
    ]
    for r, model in enumerate(rows):
        y = 22 + r * line
        parts.append(f'<text x="{left - 10}" y="{y + 20}" text-anchor="end">{escape(model)}</text>')
        for c, culture in enumerate(columns):
            score = by.get((model, culture))
            if score is None:
                continue
            x, shade = left + c * width, 0.55 * (most - score.value) / (most - least) if most > least else 0.0
            own = ' stroke="var(--own)" stroke-width="2"' if model == culture else ""
            parts.append(
                f'<rect x="{x + 2:.1f}" y="{y}" width="{width - 4:.1f}" height="{line - 4}" '
                f'style="fill: rgba(var(--near), {shade:.2f})"{own}/>'
                f'<text x="{x + width / 2:.1f}" y="{y + 14}" text-anchor="middle">{score.value:.3f}</text>'
                f'<text style="font-size: 10px" x="{x + width / 2:.1f}" y="{y + 26}" text-anchor="middle">'
                f"{score.low:.3f} to {score.high:.3f}</text>"
            )
    return _svg(title, across, 26 + len(rows) * line, parts)


def loss_chart(curves: Mapping[str, Sequence[TrainPoint]], kept: Mapping[str, int], title: str) -> str:
    """Loss over steps, a line per culture, each point the mean of the five steps up to it; dots: on what validates.

    `kept`: the step whose weights a culture's adapter has; its dot is a ring.
    """
    height, left, bottom = 240, 44, 26
    smooth = {name: _smoothed([p.loss for p in points]) for name, points in curves.items()}
    validated = {name: {p.step: p.validation for p in own if p.validation is not None} for name, own in curves.items()}
    steps = max((p.step for points in curves.values() for p in points), default=1)
    top = max((v for one in (*smooth.values(), *(d.values() for d in validated.values())) for v in one), default=1.0)

    def place(step: int, value: float) -> tuple[float, float]:
        x = left + (step - 1) / max(1, steps - 1) * (_WIDTH - left - 90)
        return x, (height - bottom) * (1 - value / top) + 6

    parts = [
        f'<line class="axis" x1="{left}" x2="{_WIDTH - 90}" y1="{height - bottom + 6}" y2="{height - bottom + 6}"/>',
        f'<line class="axis" x1="{left}" x2="{left}" y1="6" y2="{height - bottom + 6}"/>',
        f'<text x="{left - 6}" y="14" text-anchor="end">{top:.1f}</text>',
        f'<text x="{left - 6}" y="{height - bottom + 8}" text-anchor="end">0</text>',
        f'<text x="{_WIDTH - 90}" y="{height - 2}" text-anchor="end">step {steps}</text>',
    ]
    ends = [place(points[-1].step, smooth[name][-1]) for name, points in curves.items()]
    heights = _apart([y for _, y in ends], 13, height - 4)
    for k, (name, points) in enumerate(curves.items()):
        spots = [place(p.step, value) for p, value in zip(points, smooth[name], strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(
            f'<polyline class="line c{k % 6}" points="{path}"/>'
            f'<text class="t{k % 6}" x="{ends[k][0] + 8:.1f}" y="{heights[k] + 4:.1f}">{escape(name)}</text>'
        )
        for step, value in validated[name].items():
            x, y = place(step, value)
            kind, size = (f"line c{k % 6}", 5) if step == kept.get(name) else (f"t{k % 6}", 2.5)
            parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>')
    return _svg(title, _WIDTH, max(height, round(max(heights, default=0)) + 8), parts)


def option_bars(options: Sequence[str], shares: Sequence[tuple[str, Sequence[float]]], title: str) -> str:
    """For each option a bar per answerer (people, base, own adapter), in per cent."""
    left, bar, gap = 190, 9, 8
    block = bar * len(shares) + gap
    parts = []
    for o, option in enumerate(options):
        parts.append(
            f'<text x="{left - 8}" y="{o * block + block / 2 + 2:.0f}" text-anchor="end">{escape(option)}</text>'
        )
        for k, (_, values) in enumerate(shares):
            y, width = o * block + k * bar, values[o] * (_WIDTH - left - 50)
            parts.append(
                f'<rect class="b{k}" x="{left}" y="{y}" width="{max(width, 1):.1f}" height="{bar - 1}"/>'
                f'<text class="small" x="{left + width + 5:.1f}" y="{y + 8}">{values[o]:.0%}</text>'
            )
    return _svg(title, _WIDTH, len(options) * block, parts)


def value_chart(
    values: Sequence[str],
    points: Sequence[float | None],
    title: str,
    whiskers: Sequence[tuple[float, float] | None],
) -> str:
    """A measure at each value of an option, evenly spaced, on a scale from 0; None leaves a gap.

    `whiskers`: each point's interval, or None.
    """
    height, left, bottom = 200, 44, 26
    there = [p for p in points if p is not None] + [ends[1] for ends in whiskers if ends is not None]
    top = max(there, default=1.0) * 1.2 or 1.0
    parts = [
        f'<line class="axis" x1="{left}" x2="{_WIDTH - 20}" y1="{height - bottom}" y2="{height - bottom}"/>',
        f'<text x="{left - 6}" y="{height - bottom + 4}" text-anchor="end">0</text>',
    ]
    spots = []
    for k, (value, point, ends) in enumerate(zip(values, points, whiskers, strict=True)):
        x = left + 20 + k / max(1, len(values) - 1) * (_WIDTH - left - 70)
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{escape(value)}</text>')
        if point is not None:
            y = (height - bottom) * (1 - point / top)
            spots.append(f"{x:.1f},{y:.1f}")
            shown = f"{point:,.0f}" if abs(point) >= 100 else f"{point:.3g}"
            # Beside a whisker, or it would strike the figure through.
            place = f'x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle"'
            if ends is not None:
                low, high = ((height - bottom) * (1 - end / top) for end in ends)
                parts.append(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
                place = f'x="{x + 8:.1f}" y="{y - 6:.1f}"'
            parts.append(
                f'<circle class="own" cx="{x:.1f}" cy="{y:.1f}" r="4"/><text class="small" {place}>{shown}</text>'
            )
    parts.append(f'<polyline class="line c0" points="{" ".join(spots)}"/>')
    return _svg(title, _WIDTH, height, parts)


def radar_chart(axes: Sequence[str], lines: Mapping[str, Sequence[float]], title: str) -> str:
    """A closed line for each name over axes around a middle, on one scale from the least value to the greatest."""
    middle, radius = (_WIDTH / 2, 140), 105
    every = [value for values in lines.values() for value in values]
    least, most = min(0.0, *every), max(100.0, *every)

    def point(k: int, share: float) -> tuple[float, float]:
        angle = 2 * math.pi * k / len(axes) - math.pi / 2
        return middle[0] + math.cos(angle) * radius * share, middle[1] + math.sin(angle) * radius * share

    parts = []
    for k, axis in enumerate(axes):
        (x, y), (label_x, label_y) = point(k, 1.0), point(k, 1.14)
        parts.append(
            f'<line class="axis" x1="{middle[0]}" y1="{middle[1]}" x2="{x:.1f}" y2="{y:.1f}"/>'
            f'<text x="{label_x:.1f}" y="{label_y + 4:.1f}" text-anchor="middle">{escape(axis)}</text>'
        )
    for number, (name, values) in enumerate(lines.items()):
        spots = [point(k, (value - least) / (most - least)) for k, value in enumerate(values)]
        shown = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*spots, spots[0]])
        parts.append(
            f'<polyline class="line c{number}" points="{shown}"/>'
            f'<text class="t{number}" x="8" y="{18 + 18 * number}">{escape(name)}</text>'
        )
    return _svg(title, _WIDTH, 280, parts)


def _apart(wanted: Sequence[float], gap: float, most: float) -> list[float]:
    """Heights near those that are wanted, `gap` apart, and up to `most` where there is room for all above it."""
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    found = [0.0] * len(wanted)
    for n, k in enumerate(order):
        found[k] = wanted[k] if n == 0 else max(wanted[k], found[order[n - 1]] + gap)
    for n, k in enumerate(reversed(order)):
        room = max(gap * (len(order) - n - 1), most - gap * n)
        found[k] = min(found[k], room)
    return found


def _smoothed(values: Sequence[float]) -> list[float]:
    return [sum(values[max(0, k - 4) : k + 1]) / len(values[max(0, k - 4) : k + 1]) for k in range(len(values))]


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width} {height}" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
