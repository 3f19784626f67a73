"""A server that never says 429: it works on 32 calls at once, and whatever is more waits inside it.

    python -m benchmarks.queueing

256 calls may be under way. Beside the share of the server's capacity stands how many calls were at the server on
average, and so how long each of them took: what queues there gains nothing.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Provider, measure, provider
from benchmarks.results import append

SLOTS, LATENCY_S, SIGMA = 32, 0.3, 0.4


def main() -> None:
    """Run the clients in turn, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=4000)
    given = parser.parse_args()
    capacity = SLOTS / (LATENCY_S * math.exp(SIGMA**2 / 2))
    print(f"{'client':<8}{'of capacity':>12}{'at the server':>15}{'s a call':>10}")
    lines = []
    with provider(slots=SLOTS) as server:
        for client in ("openai", "ours"):
            server.set()
            seen: list[int] = []
            found = measure(server, client, calls=given.calls, in_flight=256, during=_sampling(server, seen))
            late = seen[len(seen) // 2 :]
            there = sum(late) / max(1, len(late))
            line = {"of_capacity": found.calls_per_s / capacity, "at_server": there, "s": there / found.calls_per_s}
            lines.append({"client": client, **{k: round(v, 3) for k, v in line.items()}})
            print(f"{client:<8}{line['of_capacity']:12.3f}{line['at_server']:15.1f}{line['s']:10.2f}", flush=True)
    append("queueing", {"slots": SLOTS, "rows": lines})


def _sampling(server: Provider, seen: list[int]) -> Callable[[Any], None]:
    def sample(process: Any) -> None:
        while process.poll() is None:
            stats = server.stats()
            if stats["ok"]:
                seen.append(stats["under_way"])
            time.sleep(0.25)

    return sample


if __name__ == "__main__":
    main()
