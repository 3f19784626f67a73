"""How much of a provider's limit is used, and how often it refuses: 3,000 calls under 6,000 requests a minute.

    python -m benchmarks.limits [--only told-2,tokens]

The provider's bucket holds one second of the limit. Shares are of the steady state: whole seconds from the third after
the first answer to the last but one.
"""

import argparse
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import Provider, measure, provider
from benchmarks.results import append

RPM = 6000
TOKENS_A_CALL = 155
"""What the provider charges for one of these calls, about."""


@dataclass(frozen=True)
class Scenario:
    """What the provider allows and shows, and what the client is told."""

    client: str = "ours"
    server: dict[str, Any] = field(default_factory=lambda: {"rpm": RPM, "tpm": 10 * RPM * TOKENS_A_CALL})
    told: dict[str, Any] = field(default_factory=lambda: {"rpm": RPM})
    later: dict[str, Any] = field(default_factory=dict)
    """Settings of the provider that come into force after `after_s`."""
    after_s: float = 12.0
    settle_s: float = 3.0
    peer: str = ""
    """The best of the peers, as measured in November 2026."""


SILENT = {"rpm": RPM, "headers": False}
BY_TOKENS = {"rpm": 0, "tpm": 50 * 60 * TOKENS_A_CALL}
SCENARIOS = {
    "paced": Scenario("openai", peer="openai SDK, fixed pacing, one process: 0.977, no refusal"),
    "told-1": Scenario(peer="Data Designer: 0.950, 321 refusals"),
    "told-2": Scenario(told={"rpm": RPM, "workers": 2}, peer="Data Designer: 0.92, 282 refusals"),
    "told-4": Scenario(told={"rpm": RPM, "workers": 4}, peer="async-batch-llm (2): 0.91, 1,863 refusals"),
    "shown": Scenario(told={"workers": 2}, peer="curator, told the limit: 0.78, 35 refusals"),
    "halved-told": Scenario(told={"rpm": RPM, "workers": 2}, later={"rpm": RPM // 2}),
    "halved-silent": Scenario(server=SILENT, told={"rpm": RPM, "workers": 2}, later={"rpm": RPM // 2}),
    "unknown": Scenario(server=SILENT, told={"workers": 2}, settle_s=5.0, peer="curator, not told: 0.12"),
    "no-hint": Scenario(server={**SILENT, "retry_after": False}, told={"workers": 2}, settle_s=5.0),
    "told-tenfold": Scenario(server=SILENT, told={"rpm": 10 * RPM, "workers": 2}, settle_s=5.0),
    "tokens": Scenario(server=BY_TOKENS, told={"tpm": BY_TOKENS["tpm"], "workers": 2},
                       peer="async-batch-llm: 0.93, 110 refusals"),
}  # fmt: skip


def main() -> None:
    """Run the scenarios in turn, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default=",".join(SCENARIOS))
    parser.add_argument("--calls", type=int, default=3000)
    given = parser.parse_args()
    print(f"{'scenario':<15}{'share':>7}{'refused':>9}{'of them later':>15}{'answered':>10}  best peer")
    lines = []
    with provider() as server:
        for name in given.only.split(","):
            line = _run(server, SCENARIOS[name], given.calls)
            lines.append({"scenario": name, **line})
            print(
                f"{name:<15}{line['share']:7.3f}{line['refused']:9d}{line['refused_later']:15d}"
                f"{line['answered']:10d}  {SCENARIOS[name].peer}",
                flush=True,
            )
    append("limits", {"calls": given.calls, "rows": lines})


def _run(server: Provider, scenario: Scenario, calls: int) -> dict[str, Any]:
    blank = {"rpm": 0, "tpm": 0, "headers": True, "retry_after": True}
    server.set(**{**blank, **scenario.server})
    before: list[dict[str, Any]] = []
    found = measure(
        server, scenario.client, calls=calls, in_flight=256, during=_change(server, scenario, before), **scenario.told
    )
    if found.status:
        raise SystemExit(f"{scenario.client} ended with status {found.status}: {found.output}")
    stats = found.stats
    rate = _calls_per_s({**scenario.server, **scenario.later}, stats)
    # After a change in mid-run the new limit has to be kept 20 s later.
    settle = 20.0 if scenario.later else scenario.settle_s
    seconds = {int(second): n for second, n in stats["ok_by_second"].items()}
    steady = range(int(stats["first"] + settle) + 1, int(stats["last"]) - 1)
    later = sum(n for second, n in stats["refused_by_second"].items() if int(second) >= steady.start)
    return {
        "share": round(sum(seconds.get(s, 0) for s in steady) / max(1, len(steady)) / rate, 3),
        "refused": stats["refused"] + sum(b["refused"] for b in before),
        "refused_later": later,
        "answered": stats["ok"] + sum(b["ok"] for b in before),
    }


def _calls_per_s(server: dict[str, Any], stats: dict[str, Any]) -> float:
    by_requests = server["rpm"] / 60 if server.get("rpm") else float("inf")
    charged = stats["tokens"] / max(1, stats["ok"])
    by_tokens = server["tpm"] / 60 / charged if server.get("tpm") else float("inf")
    return float(min(by_requests, by_tokens))


def _change(server: Provider, scenario: Scenario, before: list[dict[str, Any]]) -> Callable[[Any], None] | None:
    if not scenario.later:
        return None

    def change(process: Any) -> None:
        while not server.stats()["received"] and process.poll() is None:
            time.sleep(0.1)
        threading.Event().wait(scenario.after_s)
        before.append(server.stats())
        server.set(**scenario.later)

    return change


if __name__ == "__main__":
    main()
