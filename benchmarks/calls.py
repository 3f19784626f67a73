"""Calls a second and CPU a call, beside a bare aiohttp client: 3,000 calls of 300 ms, 256 at once.

python -m benchmarks.calls                       single calls
python -m benchmarks.calls --turns 10 --calls 2000 --in-flight 128      dialogues of 10 dependent turns
"""

import argparse
import dataclasses

from benchmarks.harness import Measured, measure, provider
from benchmarks.results import append


def main() -> None:
    """Run the clients in turn, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", default="bare,openai,ray_data,ours,bare,ours")
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    print(f"{'client':<10}{'calls/s':>9}{'of bare':>9}{'CPU ms':>8}{'MB':>7}{'answered':>10}  repeated")
    floor, lines = 0.0, []
    with provider() as server:
        for client in given.clients.split(","):
            server.set()
            options = {"workers": given.workers} if client in ("ours", "ray_data") else {}
            found = measure(server, client, calls=given.calls, in_flight=given.in_flight, turns=given.turns, **options)
            floor = found.calls_per_s if client == "bare" else floor
            _print(client, found, floor)
            lines.append({"client": client, **_short(found)})
    append("calls", {**vars(given), "rows": lines})


def _print(client: str, found: Measured, floor: float) -> None:
    share = f"{found.calls_per_s / floor:9.3f}" if floor else " " * 9
    print(
        f"{client:<10}{found.calls_per_s:9.1f}{share}{found.cpu_ms:8.2f}{found.memory_mb:7.0f}"
        f"{found.stats['ok']:10d}  {found.stats['repeated']}",
        flush=True,
    )
    if found.status:
        print(found.output)


def _short(found: Measured) -> dict[str, float]:
    kept = {k: v for k, v in dataclasses.asdict(found).items() if k in ("calls_per_s", "cpu_ms", "memory_mb")}
    return {name: round(value, 3) for name, value in kept.items()}


if __name__ == "__main__":
    main()
