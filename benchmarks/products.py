"""A model's products in float32 and in bfloat16: which is faster on this CPU, by how many tokens come at once.

    python -m benchmarks.products [--threads 2] [--tokens 1,16,64,256]

The weights are those of an MLP of SmolLM2-135M, in as many layers, so that they come from memory as a model's do. Both
take turns, and the median counts. Prints a table and appends a line to benchmarks/results.jsonl.
"""

import argparse
import statistics
import time

import torch

from benchmarks.results import append
from cp_ray.llm.embedded import compute_dtype

_LAYERS, _HIDDEN, _INNER = 30, 576, 1536
_ROUNDS = 7


def main() -> None:
    """Print the table and append the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", default="1,16,64,256")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    drawn, read = (compute_dtype("cpu", draws=draws) for draws in (True, False))
    print(f"chosen here: {drawn} for drawing, {read} else")
    print(f"{'tokens':>7}{'float32 ms':>12}{'bfloat16 ms':>13}{'bfloat16 is':>13}")
    rows = []
    for tokens in map(int, given.tokens.split(",")):
        took = measure(tokens)
        ratio = took["float32"] / took["bfloat16"]
        print(f"{tokens:7}{took['float32']:12.1f}{took['bfloat16']:13.1f}{ratio:12.2f}x", flush=True)
        rows.append({"tokens": tokens, "ms": took, "ratio": round(ratio, 3)})
    append("products", {"settings": vars(given), "chosen": {"draws": str(drawn), "else": str(read)}, "rows": rows})


@torch.inference_mode()
def measure(tokens: int) -> dict[str, float]:
    """Milliseconds of a pass over all layers, by type."""
    took: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    weights = {
        name: [torch.randn(_INNER, _HIDDEN, dtype=getattr(torch, name)) for _ in range(_LAYERS)] for name in took
    }
    for _ in range(_ROUNDS + 1):  # the first one is thrown away: oneDNN makes its kernels
        for name, own in weights.items():
            x = torch.randn(tokens, _HIDDEN, dtype=getattr(torch, name))
            began = time.perf_counter()
            for weight in own:
                torch.nn.functional.linear(x, weight)
            took[name].append((time.perf_counter() - began) * 1e3)
    return {name: round(statistics.median(times[1:]), 3) for name, times in took.items()}


if __name__ == "__main__":
    main()
