"""The command line.

    cp-ray run jobs/demo.py --cultures arabic,german     do a recipe's steps; what is done is skipped
    cp-ray show jobs/demo.py                              its steps, what is done, the funnel
    cp-ray sweep jobs/culturellm.py --over tau=0.5,0.8    a recipe at several values of an option, with a plot
    cp-ray evaluate --root runs/demo                      a run's models on every evaluation, beside others
    cp-ray compare runs/a runs/b                          two runs' evaluations, paired
    cp-ray calls runs/demo                                what the teacher was asked, what it cost, what failed
    cp-ray peek dialogue -n 2 --root runs/demo            rows of a step as text
    cp-ray export runs/demo --to FOLDER                   its training rows for other tools
    cp-ray merge ADAPTER --to FOLDER                      an adapter put into its base: safetensors or GGUF
    cp-ray hosted runs/demo                               its jobs of hosted fine-tuning, how each stands
    cp-ray serve runs/demo --port 8000                    serve a run's culture models
    cp-ray key school                                     a new API key for them

Whatever a user can get wrong ends with one line on stderr and status 2.
"""

import os
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from cp_ray.cluster import check_room, connected
from cp_ray.errors import ConfigError, CpRayError
from cp_ray.folder import Folder, Manifest
from cp_ray.pipeline import Run, Step, execute, pending, select
from cp_ray.recipe import Options, Parser, Recipe, load_recipe, parse_recipe

__all__ = ["guarded", "main", "run_recipe", "step_by_step"]

_USAGE = """\
usage: cp-ray run RECIPE [options]     do a recipe's steps; what is done is skipped
       cp-ray show RECIPE [options]    its steps, what is done, the funnel; --cost: what is to come
       cp-ray sweep RECIPE --over NAME=V1,V2 [options]   the recipe at each value, with a plot of what it brings
       cp-ray evaluate --root RUN [options]   its models on every evaluation, beside others
       cp-ray compare RUN RUN [--to FILE]     their evaluations, paired
       cp-ray calls RUN [--last N]     what the teachers were asked, what it cost, what failed
       cp-ray peek STEP [-n N]         rows of a step as text
       cp-ray export RUN [--to FOLDER] its training rows: Hugging Face dataset, OpenAI, ShareGPT
       cp-ray merge ADAPTER --to FOLDER [--format gguf]  an adapter put into its base
       cp-ray hosted RUN [--cancel JOB] its jobs of hosted fine-tuning, how each stands
       cp-ray serve RUN [--port P]     serve a run's culture models; --keys FILE
       cp-ray key NAME                 a new API key, and the line for the file of keys
Each has --help."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the process ends with its status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(guarded(_command, arguments))


def run_recipe(recipe: Recipe) -> None:
    """Run one recipe with the process's arguments: the last lines of a file in jobs/."""
    sys.exit(guarded(lambda arguments: _run(recipe, arguments, f"{recipe.__name__}.py"), sys.argv[1:]))


def guarded(command: Any, arguments: list[str]) -> int:
    """The status to end with: 2 after an error that is the user's to mend, told in one line."""
    from cp_ray.rollout import cause_of

    try:
        command(arguments)
    except KeyboardInterrupt:
        print("cp-ray: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    except CpRayError as error:
        return _told(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # Ray wraps what a worker raised; ours stays ours.
        cause = cause_of(error)
        if cause is None:
            raise
        return _told(cause)
    return 0


def _told(error: CpRayError) -> int:
    print(f"cp-ray: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _command(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return
    command, rest = arguments[0], arguments[1:]
    if command in ("run", "show", "sweep"):
        if not rest or rest[0].startswith("-"):
            raise ConfigError(f"recipe: {command} needs a file first, such as jobs/demo.py")
        recipe = load_recipe(rest[0])
        {"run": _run, "show": _show, "sweep": _sweep}[command](recipe, rest[1:], f"cp-ray {command} {rest[0]}")
    elif command == "evaluate":
        from cp_ray.steps.evaluate import evaluate

        _run(evaluate, rest, "cp-ray evaluate")
    elif command == "compare":
        from cp_ray.comparison.command import compare_command

        compare_command(rest)
    elif command == "peek":
        _peek(rest)
    elif command == "calls":
        _calls(rest)
    elif command == "export":
        from cp_ray.exports.command import export_command

        export_command(rest)
    elif command == "merge":
        from cp_ray.training.merge import merge_command

        merge_command(rest)
    elif command == "hosted":
        from cp_ray.training.hosted.command import hosted_command

        hosted_command(rest)
    elif command == "serve":
        from cp_ray.serve import serve_command

        serve_command(rest)
    elif command == "key":
        from cp_ray.serve import key_command

        key_command(rest)
    else:
        raise ConfigError(
            f"command: there is no {command!r}; "
            "there are run, show, sweep, evaluate, compare, calls, peek, export, merge, hosted, serve and key"
        )


def _run(recipe: Recipe, arguments: Sequence[str], prog: str) -> None:
    options, steps = parse_recipe(recipe, arguments, prog)
    chosen = select(steps, options.until)
    run = Run(options.root)
    console = _Console(len(chosen))
    todo = pending(run, chosen)
    run.begin()  # before Ray starts: a folder that cannot be written to is found at once
    with connected() if todo else nullcontext():
        _check_rooms(todo)
        execute(run, chosen, on_start=console.start, on_done=console.done)
    summary = run.folder(chosen[-1]).read_text("summary.txt")
    if summary:
        print(f"\n{summary}")
    for name in chosen[-1].publish:
        print(f"{options.root}/{name}")


def _sweep(recipe: Recipe, arguments: Sequence[str], prog: str) -> None:
    from cp_ray.sweep import parse_over, plan, sweep, table

    parser = Parser(prog=prog, description="A recipe at several values of one of its options.", allow_abbrev=False)
    parser.add_argument("--over", required=True, metavar="NAME=V1,V2", help="such as tau=0.5,0.65,0.8,0.95")
    given, rest = parser.parse_known_args(arguments)
    name, values = parse_over(given.over)

    run, planned = plan(recipe, name, values, rest)
    with connected():
        points = sweep(name, values, run, planned, step_by_step)
    print("\n" + "\n".join(table(name, points)))
    print(f"{run.root.uri}/sweep-{name}.html")


def step_by_step(run: Run, steps: Sequence[Step]) -> None:
    """Do the steps and say what happens."""
    console = _Console(len(steps))
    run.begin()
    _check_rooms([step for step in steps if run.manifest(step) is None])
    execute(run, steps, on_start=console.start, on_done=console.done)


def _check_rooms(steps: Sequence[Step]) -> None:
    """Tell before anything is done which step could never be placed."""
    for step in steps:
        check_room(step.name, step.needs)


class _Console:
    """Says what happens, a line a step."""

    def __init__(self, steps: int) -> None:
        self.steps, self.number, self.began = steps, 0, time.monotonic()

    def start(self, step: Step) -> None:
        print(f"[{self.number + 1}/{self.steps}] {step.name} …", file=sys.stderr, flush=True)

    def done(self, step: Step, manifest: Manifest, *, skipped: bool) -> None:
        self.number += 1
        how = "done before" if skipped else f"{manifest.seconds:.1f} s"
        total = "" if skipped else f", {time.monotonic() - self.began:.0f} s in all"
        print(f"[{self.number}/{self.steps}] {_line(step, manifest)}  {how}{total}", file=sys.stderr, flush=True)


def _line(step: Step, manifest: Manifest) -> str:
    parts = [f"{manifest.rows:>7} rows"] if step.rows is not None else []
    if manifest.rejects:
        parts.append("set aside: " + ", ".join(f"{n} {reason}" for reason, n in manifest.rejects.items()))
    return f"{step.name:<16} {'; '.join([*parts, *manifest.remarks])}"


def _show(recipe: Recipe, arguments: Sequence[str], prog: str) -> None:
    from cp_ray.llm.ledger import LedgerTotals, summary

    asked, to_come = [a for a in arguments if a != "--cost"], "--cost" in arguments
    options, steps = parse_recipe(recipe, asked, prog)
    run = Run(options.root)
    if to_come:
        _show_cost(options, run, select(steps, options.until))
        return
    paid: dict[str, list[LedgerTotals]] = {}
    for totals in summary(options.root):
        paid.setdefault(totals.step, []).append(totals)
    for step in select(steps, options.until):
        manifest = run.manifest(step)
        if manifest is None:
            print(f"todo  {step.name}")
            continue
        calls = sum(t.calls for t in paid.get(step.name, ()))
        tokens = sum(t.prompt_tokens + t.completion_tokens for t in paid.get(step.name, ()))
        cost = f"; {calls} calls, {tokens} tokens paid" if calls else ""
        print(f"done  {_line(step, manifest)}  {manifest.seconds:.1f} s{cost}")


def _show_cost(options: Options, run: Run, steps: Sequence[Step]) -> None:
    from cp_ray.estimate import estimate

    found, price = estimate(run, steps), options.terms.price
    if price is not None and options.terms.batch is not None:
        price = price.half()
    print(f"{'step':<16}{'calls':>12}{'prompt tokens':>16}{'answer tokens':>16}{'USD':>10}")
    for line in found:
        usd = f"{line.usd(price):10.2f}" if price else f"{'?':>10}"
        print(f"{line.step:<16}{line.calls:>12,}{line.prompt_tokens:>16,}{line.completion_tokens:>16,}{usd}")
    calls, tokens = sum(e.calls for e in found), sum(e.prompt_tokens + e.completion_tokens for e in found)
    usd = f"{sum(e.usd(price) for e in found):10.2f}" if price else f"{'?':>10}"
    print(f"{'to do':<16}{calls:>12,}{tokens:>32,}{usd}")
    limits = options.terms.limits
    minutes = max(calls / limits.rpm if limits.rpm else 0.0, tokens / limits.tpm if limits.tpm else 0.0)
    if minutes:
        print(f"at least {minutes:,.0f} min under the limits that were told")
    if price is None and options.teacher_url is not None:
        print(f"no price is known for {options.teacher_model!r}; give one with --prices")
    print("Assumed: answers of four fifths of their limit; a fourth of the opinions contradict and are rewritten.")


def _peek(arguments: Sequence[str]) -> None:
    parser = Parser(prog="cp-ray peek", description="Rows of a step as text.", allow_abbrev=False)
    parser.add_argument("step", help="its name, such as dialogue")
    parser.add_argument("-n", type=int, default=3, help="rows (default: 3)")
    parser.add_argument("--root", default=Options.root, help=f"run folder (default: {Options.root})")
    given = parser.parse_args(arguments)
    if given.n < 1:
        raise ConfigError(f"n: must be at least 1, got {given.n}")
    folder = _latest(Run(given.root), given.step)
    if given.step in ("report", "export"):
        raise ConfigError(f"step: {given.step!r} has no rows; open its files in {folder.uri}")
    table = (folder / "log" if given.step.split(".")[0] == "train" else folder).table()
    for number, row in enumerate(table.slice(0, given.n).to_pylist()):
        print(f"{'─' * 8} {number + 1} of {table.num_rows}")
        _print_fields(row, 0)


def _calls(arguments: Sequence[str]) -> None:
    from cp_ray.calls import last_calls, totals

    parser = Parser(prog="cp-ray calls", description="What the teachers were asked.", allow_abbrev=False)
    parser.add_argument("run", help="run folder, such as runs/demo")
    parser.add_argument("--last", type=int, metavar="N", help="the last N calls as text, instead of the table")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, instead of the table")
    given = parser.parse_args(arguments)
    if given.last is not None and given.last < 1:
        raise ConfigError(f"last: must be at least 1, got {given.last}")
    lines = totals(given.run, as_json=given.json) if given.last is None else last_calls(given.run, given.last)
    for line in lines:
        print(line)


def _latest(run: Run, name: str) -> Folder:
    """The folder of the last command's step of this name, or else of the one that was finished last."""
    done = {}
    for folder in run.done():
        manifest = folder.manifest()
        if manifest is not None:
            done[manifest.name] = folder
    if name not in done:
        raise ConfigError(f"step: {name!r} is not done in this run; done: {', '.join(done) or 'nothing'}")
    return done[name]


def _print_fields(row: dict[str, Any], depth: int) -> None:
    pad = "  " * depth
    for key, value in row.items():
        if isinstance(value, dict):
            print(f"{pad}{key}:")
            _print_fields(value, depth + 1)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for k, item in enumerate(value):
                print(f"{pad}{key}[{k}]:")
                _print_fields(item, depth + 1)
        elif value is not None:
            shown = ", ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in value) \
                if isinstance(value, list) else str(value)  # fmt: skip
            print(textwrap.fill(shown, 110, initial_indent=f"{pad}{key}: ", subsequent_indent=f"{pad}    "))


if __name__ == "__main__":
    main()
