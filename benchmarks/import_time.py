"""How long `import cp_ray` and the command line take, beside a bare interpreter.

python -m benchmarks.import_time
"""

import subprocess
import sys
import time

from benchmarks.results import append

_CASES = {"bare interpreter": "pass", "import cp_ray": "import cp_ray", "import cp_ray.cli": "import cp_ray.cli"}


def main() -> None:
    """Take the best of ten of each, in turn."""
    best = dict.fromkeys(_CASES, float("inf"))
    for _ in range(10):
        for name, code in _CASES.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            best[name] = min(best[name], time.perf_counter() - began)
    for name, seconds in best.items():
        print(f"{name:<20}{seconds:7.3f} s")
    append("import_time", {name: round(seconds, 4) for name, seconds in best.items()})


if __name__ == "__main__":
    main()
