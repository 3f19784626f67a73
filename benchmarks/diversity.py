"""Diversity gain of 500 new rows over 5,000, beside one distance at a time.

python -m benchmarks.diversity
"""

import time

import numpy as np

from benchmarks.results import append
from cp_ray.diversity import diversity_gain

ORIGINAL, NEW, SIZE = 5000, 500, 384


def main() -> None:
    """Best of five of ours; pair by pair once, on a tenth of the new rows."""
    rng = np.random.default_rng(0)
    original = rng.standard_normal((ORIGINAL, SIZE), dtype=np.float32)
    new = rng.standard_normal((NEW, SIZE), dtype=np.float32)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        diversity_gain(new, original)
        seconds.append(time.perf_counter() - began)
    some = new[: NEW // 10]
    began = time.perf_counter()
    by_pair = float(np.mean([min(float(np.linalg.norm(row - there)) for there in original) for row in some]))
    pairwise = (time.perf_counter() - began) * NEW / len(some)
    assert abs(by_pair - diversity_gain(some, original)) < 1e-3
    print(f"{'ours':<28}{min(seconds):9.4f} s   under 10")
    print(f"{'pair by pair (of a tenth)':<28}{pairwise:9.4f} s")
    append("diversity", {
        "original": ORIGINAL, "new": NEW, "size": SIZE,
        "ours_s": round(min(seconds), 4), "by_pair_s": round(pairwise, 2),
    })  # fmt: skip


if __name__ == "__main__":
    main()
