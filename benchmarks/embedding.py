"""Texts a second of `embed` on Ray Data, beside the bare sentence-transformers loop on the same cores.

    python -m benchmarks.embedding [--texts 12000] [--rounds 3]

Both are warm: the bare loop has its model loaded, `embed` has its workers up while the first blocks are measured off.
A round is ours, then theirs; the best of each counts. Start-up of Ray's workers is told apart, by a run of few texts.
"""

import argparse
import os
import random
import time
from collections.abc import Callable

from benchmarks.results import append

WORDS = [
    "people", "here", "think", "that", "work", "family", "religion", "and", "trust", "matter", "more", "than",
    "money", "or", "power", "because", "duty", "to", "society", "comes", "before", "leisure", "while", "friends",
    "neighbours", "children", "and", "the", "old", "should", "be", "helped", "whenever", "they", "need", "it",
]  # fmt: skip


def opinions(n: int) -> list[str]:
    """Texts of 8 to 40 words."""
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(8, 40))) for _ in range(n)]


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--texts", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    import pyarrow as pa
    import ray.data
    from sentence_transformers import SentenceTransformer

    from cp_ray.cluster import quiet
    from cp_ray.embedding import embed
    from cp_ray.llm.embedded import minilm

    cores = os.cpu_count() or 1
    ray.init(address="local", _node_ip_address="127.0.0.1", num_cpus=cores, include_dashboard=False,
             log_to_driver=False)  # fmt: skip
    quiet()
    texts, model = opinions(given.texts), SentenceTransformer(str(minilm()), device="cpu")

    def ours(some: list[str]) -> None:
        blocks = [pa.table({"text": some[k : k + 1024]}) for k in range(0, len(some), 1024)]
        made = embed(ray.data.from_arrow(blocks), "text", workers=cores).materialize()
        assert made.count() == len(some)

    def bare(some: list[str]) -> None:
        model.encode(some, normalize_embeddings=True, show_progress_bar=False)

    bare(texts[:64])
    start = _seconds(lambda: ours(texts[: 2 * cores]))
    times = [(_seconds(lambda: ours(texts)), _seconds(lambda: bare(texts))) for _ in range(given.rounds)]
    whole, loop = (min(column) for column in zip(*times, strict=True))
    figures = {
        "ours": round(len(texts) / (whole - start), 1), "with_start": round(len(texts) / whole, 1),
        "bare": round(len(texts) / loop, 1), "start_s": round(start, 1),
        "share": round(loop / (whole - start), 3), "share_with_start": round(loop / whole, 3),
    }  # fmt: skip
    print(f"embed on Ray Data      {figures['ours']:>8,.1f} texts/s, {figures['with_start']:,.1f} with start-up")
    print(f"sentence-transformers  {figures['bare']:>8,.1f} texts/s")
    print(
        f"share                  {figures['share']:>8.3f}   at least 0.9; {figures['share_with_start']} with start-up"
    )
    append("embedding", {"texts": len(texts), **figures})


def _seconds(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
