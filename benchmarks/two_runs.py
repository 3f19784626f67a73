"""Two runs at once on one cluster, with one provider and one key: what each gets, and what is refused.

    python -m benchmarks.two_runs [--rpm 6000] [--calls 3000]

Each run is a driver of its own with a folder of its own; the second has twice the workers and tells twice the limit.
Shares are of the whole seconds in which both are at it, from the fourth on, by what stands in each run's ledger.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.harness import Provider, provider
from benchmarks.results import append
from cp_ray.llm.ledger import entries

SETTLE_S = 4
WORKERS = (1, 2)


def main() -> None:
    """Run both, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rpm", type=int, default=6000)
    parser.add_argument("--calls", type=int, default=3000, help="of each run")
    given = parser.parse_args()
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux too: listen on loopback alone
    import ray

    ray.init(address="local", _node_ip_address="127.0.0.1", num_cpus=2, include_dashboard=False, log_to_driver=False)
    address = ray.get_runtime_context().gcs_address
    with provider(rpm=given.rpm) as server, tempfile.TemporaryDirectory() as folder:
        roots = [Path(folder) / name for name in ("first", "second")]
        drivers = [_start(server, root, address, given.calls, k, given.rpm) for k, root in enumerate(roots)]
        if any(driver.wait() for driver in drivers):
            raise SystemExit("a run failed")
        seconds = [Counter(int(entry.time) for entry in entries(str(root))) for root in roots]
        stats = server.stats()
    ray.shutdown()
    began, ended = max(min(s) for s in seconds) + SETTLE_S, min(max(s) for s in seconds) - 1
    both = range(began, ended)
    rates = [sum(s[k] for k in both) / len(both) / (given.rpm / 60) for s in seconds]
    print(f"{'run':<8}{'workers':>8}{'answers':>9}{'share of the limit':>20}")
    for name, workers, s, rate in zip(("first", "second"), WORKERS, seconds, rates, strict=True):
        print(f"{name:<8}{workers:>8}{s.total():>9}{rate:>20.3f}")
    print(
        f"both {sum(rates):.3f} of the limit over {len(both)} s; {stats['refused']} refused, {stats['repeated']} twice"
    )
    append(
        "two_runs",
        {
            "rpm": given.rpm, "calls": given.calls, "seconds": len(both), "shares": [round(r, 3) for r in rates],
            "refused": stats["refused"], "repeated": stats["repeated"],
        },
    )  # fmt: skip


def _start(server: Provider, root: Path, address: str, calls: int, number: int, rpm: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.clients", "ours", "--url", server.url, "--root", str(root),
         "--calls", str(calls), "--in-flight", str(64 * WORKERS[number]), "--workers", str(WORKERS[number]),
         "--tag", root.name, "--rpm", str(rpm * (number + 1))],
        env={**os.environ, "RAY_ADDRESS": address}, stdout=subprocess.DEVNULL,
    )  # fmt: skip


if __name__ == "__main__":
    main()
