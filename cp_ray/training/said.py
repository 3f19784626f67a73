"""What a finished training says of itself."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = ["remarks"]


def remarks(folder: "Folder") -> list[str]:
    """How it was computed, and what was left out or stopped early; a line of text each, from the run's `run.json`."""
    found = json.loads(folder.read_text("run.json") or "{}")
    zero, rate = found["zero"], found["tokens"] / max(found["seconds"], 1e-9)
    offload = "" if zero["offload"] == "none" else f" with {zero['offload']} offloaded"
    lines = [
        f"ZeRO-{zero['stage']}{offload} ({zero['why']}), {rate:,.0f} tokens/s, {found['peak_bytes'] / 2**30:.1f} GiB"
    ]
    if found["too_long"]:
        lines.append(
            f"{found['too_long']} examples were left out: the answer, or all options of a distribution, is longer with "
            "its prompt than max_tokens"
        )
    lines += [f"{name} stopped early; its best step, {step}, was kept" for name, step in found["stopped"].items()]
    return lines
