"""The peer of `near_duplicates`: data-juicer's fuzzy deduplicator, run by a Python that has it.

PYTHON benchmarks/near_duplicates_peer.py ROWS
"""

import json
import random
import resource
import sys
import time

PLANTED = 0.05


def main() -> None:
    """Texts of 30 words, 5 % of them another's with its last word changed; one line of JSON."""
    from data_juicer.core.data import NestedDataset
    from data_juicer.ops.deduplicator import DocumentMinhashDeduplicator

    n, draw = int(sys.argv[1]), random.Random(0)
    base = n - round(PLANTED * n)
    texts = [" ".join(f"w{draw.randrange(5000)}" for _ in range(30)) for _ in range(base)]
    source = draw.sample(range(base), n - base)
    texts += [f"{texts[k].rpartition(' ')[0]} changed{k}" for k in source]
    group = [*range(base), *source]
    dataset = NestedDataset.from_dict({"text": texts, "row": list(range(n))})
    began, cpu = time.monotonic(), time.process_time()
    operator = DocumentMinhashDeduplicator(tokenization="space")
    kept, _ = operator.process(dataset.map(operator.compute_hash, num_proc=2))
    took, used = time.monotonic() - began, time.process_time() - cpu
    left = {group[row] for row in kept["row"]}
    removed = n - len(kept)
    lost = base - len(left)  # a group of which nothing is left
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({
        "how": "data-juicer", "n": n, "kind": "texts", "s": round(took, 2), "cpu_s": round(used, 2),
        "peak_gib": round(peak / 2**20, 2), "recall": round((removed - lost) / (n - base), 5),
        "precision": round((removed - lost) / max(1, removed), 5),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
