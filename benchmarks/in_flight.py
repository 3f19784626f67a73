"""Ten thousand calls in flight at once, and the memory that takes.

    python -m benchmarks.in_flight [--in-flight 10000] [--workers 2]

The provider takes 10 s for each call, so that all are under way together. Memory is the proportional set of the whole
process tree, the driver and Ray's own processes included; the workers' part is shown by itself.
"""

import argparse
import json

from benchmarks.harness import measure, provider
from benchmarks.results import append


def main() -> None:
    """Run, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--in-flight", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with provider(latency_ms=10_000, sigma=0.0) as server:
        found = measure(
            server, "ours", calls=2 * given.in_flight, in_flight=given.in_flight, workers=given.workers, timeout_s=300
        )
    line = {
        "in_flight": found.stats["most_under_way"],
        "answered": found.stats["ok"],
        "repeated": found.stats["repeated"],
        "workers_mb": round(found.workers_mb),
        "tree_mb": round(found.memory_mb),
        "cpu_ms": round(found.cpu_ms, 2),
    }
    print(json.dumps(line, indent=1))
    print("must hold: 10,000 in flight, under 1,536 MB in all workers together")
    if found.status:
        print(found.output)
    append("in_flight", {**vars(given), **line})


if __name__ == "__main__":
    main()
