"""Malformed requests by schemathesis, from the OpenAPI page that the server itself serves: nothing may be a 5xx.

    python -m benchmarks.fuzzing --schemathesis PATH [--examples 1000]

`PATH` is the command `st` of an environment of its own (`pip install schemathesis`).
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.random_model import make
from benchmarks.results import append
from benchmarks.served import our_server
from cp_ray.serving.app import ServeSpec, Settings
from cp_ray.serving.chat import ModelSpec


def main() -> None:
    """Print the table and append the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemathesis", required=True)
    parser.add_argument("--examples", type=int, default=1_000, help="of each operation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        make("tiny", Path(root) / "base")
        models = (ModelSpec("german", None, "german", locales=("de",)), ModelSpec("base"))
        log = Path(root) / "requests.log"
        settings = Settings(request_log=str(log), adapters=root)
        with our_server(ServeSpec(str(Path(root) / "base"), models), settings) as url:
            report = fuzz(args, url.removesuffix("/v1"), root)
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    print(report)
    statuses = Counter(line["status"] for line in lines)
    figures = {
        "requests": len(lines),
        "statuses": {str(status): n for status, n in sorted(statuses.items())},
        "server_errors": sum(n for status, n in statuses.items() if status >= 500),
        "without_an_answer": sum(line["status"] == 0 for line in lines),
    }
    for line in lines:
        if line["status"] >= 500:
            print(line)
    for name, value in figures.items():
        print(f"{name:28} {value}")
    settings_told = {"examples": args.examples, "seed": args.seed}
    append("fuzzing", {"settings": settings_told, **figures})


def fuzz(args: argparse.Namespace, url: str, folder: str) -> str:
    """Let it ask, its own files going to a folder: the end of what it says."""
    program = str(Path(args.schemathesis).absolute())
    command = [
        program, "run", f"{url}/openapi.json", "--url", url, "--checks", "not_a_server_error",
        "--mode", "all", "--phases", "fuzzing", "--max-examples", str(args.examples), "--seed", str(args.seed),
        "--workers", "4", "--request-timeout", "60", "--continue-on-failure", "--no-color",
    ]  # fmt: skip
    hooks = os.environ | {"SCHEMATHESIS_HOOKS": str(Path(__file__).with_name("fuzzing_hooks.py"))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=hooks, cwd=folder)
    return "\n".join((done.stdout + done.stderr).splitlines()[-25:])


if __name__ == "__main__":
    main()
