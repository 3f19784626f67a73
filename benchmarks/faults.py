"""A provider at its worst: 5 % of answers are status 500, 2 % dropped, 1 % never come, 3 % are broken JSON.

    python -m benchmarks.faults

Every row has to end as a result or as a reject with its reason, and nothing may hang. The calls ask for JSON by a
schema, so that a broken answer is seen, and mended by asking again.
"""

import argparse
import re

from benchmarks.harness import measure, provider
from benchmarks.results import append


def main() -> None:
    """Run, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=2000)
    given = parser.parse_args()
    with provider(p500=0.05, p_drop=0.02, p_hang=0.01, p_broken=0.03) as server:
        found = measure(server, "ours", calls=given.calls, in_flight=128, timeout_s=5, form="json")
    told = re.search(r"rows (\d+) distinct (\d+) rejects (\d+) (.*)", found.output)
    line = {
        "rows": int(told.group(1)) if told else 0,
        "distinct": int(told.group(2)) if told else 0,
        "rejects": int(told.group(3)) if told else -1,
        "reasons": told.group(4) if told else found.output[-500:],
        "requests": found.stats["received"],
        "faults": found.stats["faults"],
        "calls_per_s": round(found.calls_per_s, 1),
    }
    for name, value in line.items():
        print(f"{name:<12} {value}")
    append("faults", {**vars(given), **line})


if __name__ == "__main__":
    main()
