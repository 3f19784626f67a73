"""Where figures are kept: a line of JSON each, with the machine they were measured on."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["append"]

_FILE = Path(__file__).with_name("results.jsonl")


def append(benchmark: str, figures: dict[str, Any]) -> None:
    """Add a line on a benchmark that has just been run."""
    line = {
        "benchmark": benchmark,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        **figures,
    }
    with _FILE.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    flags = next((line for line in lines if line.startswith("flags")), "")
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    widest = next((f for f in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f in flags.split()), "")
    return f"{name} ({widest})" if widest else name
