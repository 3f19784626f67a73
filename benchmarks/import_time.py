"""How long `import cp_ray` and the command line take, beside a bare interpreter; and the libraries, on huge pages.

    python -m benchmarks.import_time [--rounds 10]
    python -m benchmarks.import_time --libraries --rounds 5    # as Ray's workers import them, with and without

All take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from benchmarks.results import append
from cp_ray.cluster import TUNABLES

_CASES = {"bare interpreter": "pass", "import cp_ray": "import cp_ray", "import cp_ray.cli": "import cp_ray.cli"}
_LIBRARY = "import sentence_transformers"
"""Imports torch and transformers, too."""
_WAYS = {"small pages": "", "huge pages": TUNABLES}

_USED = """
import json, resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_minflt]))
"""


def main() -> None:
    """Take them in turn, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--libraries", action="store_true", help="how long these take, with and without huge pages")
    given = parser.parse_args()
    if given.libraries:
        _compare_pages(given.rounds)
    else:
        _compare_imports(given.rounds)


def _compare_imports(rounds: int) -> None:
    best = dict.fromkeys(_CASES, float("inf"))
    for _ in range(rounds):
        for name, code in _CASES.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            best[name] = min(best[name], time.perf_counter() - began)
    for name, seconds in best.items():
        print(f"{name:<20}{seconds:7.3f} s")
    append("import_time", {name: round(seconds, 4) for name, seconds in best.items()})


def _compare_pages(rounds: int) -> None:
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in _WAYS}
    for _ in range(rounds):
        for name, tunables in _WAYS.items():
            found[name].append(_measured(_LIBRARY, tunables))
    seconds = {name: [round(cpu, 1) for cpu, _ in rows] for name, rows in found.items()}
    faults = {name: round(statistics.median(row[1] for row in rows)) for name, rows in found.items()}
    for name, own in seconds.items():
        print(f"{name:<20}{statistics.median(own):7.1f} s of CPU (median)  {own}  {faults[name]:,} page faults")
    small, huge = seconds.values()
    share = round(statistics.median(b / a for a, b in zip(small, huge, strict=True)), 3)
    print(f"{_LIBRARY}: on huge pages {share} of the time (median of the turns)")
    append("import_time", {"import": _LIBRARY, "cpu_s": seconds, "page_faults": faults, "share": share})


def _measured(code: str, tunables: str) -> tuple[float, int]:
    """Of a process that does this: seconds of CPU, page faults."""
    env = {**os.environ, "GLIBC_TUNABLES": tunables}
    command = [sys.executable, "-c", code + _USED]
    out = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    cpu, faults = json.loads(out.stdout.splitlines()[-1])
    return cpu, faults


if __name__ == "__main__":
    main()
