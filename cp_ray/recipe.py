"""Recipes: a file in jobs/ with one function that composes steps, whose keyword arguments are the command line."""

import argparse
import difflib
import functools
import importlib.util
import inspect
import keyword
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from cp_ray.cultures import CULTURES, Culture, parse_cultures, read_cultures
from cp_ray.errors import ConfigError, CpRayError
from cp_ray.llm.budget import parse_budget
from cp_ray.llm.limiter import Limits
from cp_ray.llm.prices import price_of, read_prices
from cp_ray.pipeline import Step
from cp_ray.teacher import Terms, check_url, parse_batch, parse_fallbacks

__all__ = [
    "Options",
    "Parser",
    "Recipe",
    "check_choice",
    "check_least",
    "load_recipe",
    "option",
    "parse_recipe",
    "shared_parser",
]

Recipe = Callable[..., list[Step]]
"""`(options: Options, *, <own options with defaults>) -> list[Step]`; a default that is a dataclass is many options."""


_IN_FLIGHT, _BATCH_IN_FLIGHT = 64, 20_000


def option(default: Any, help: str) -> Any:
    """A field of a class of options: its default, and its line in `--help`."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Options:
    """What every recipe takes."""

    root: str = option("runs/demo", "run folder: a path or a pyarrow filesystem URI (s3://bucket/run)")
    cultures: str = option("arabic,german", "culture ids with commas between, or `all`")
    cultures_file: str | None = option(None, "JSON list of cultures that add to the shipped ones or replace them")
    until: str | None = option(None, "stop after this step")
    survey: str | None = option(
        None,
        "survey file: answer counts, WVS-7's respondents, GlobalOpinionQA, or your own; default: WVS-7's counts",
    )
    teacher_url: str | None = option(
        None, "OpenAI-compatible server, up to /v1, its key in OPENAI_API_KEY; default: the embedded model's own server"
    )
    teacher_model: str = option("smollm2", "the teacher's name at that server")
    rpm: int | None = option(None, "the teacher's limit in requests a minute, over all workers")
    tpm: int | None = option(None, "the teacher's limit in tokens a minute, over all workers")
    budget: str | None = option(None, "money for the run's calls, such as 20usd; stops before it is passed")
    prices: str | None = option(None, 'JSON of prices, {"model": {"prompt": USD, "completion": USD}} a million tokens')
    max_failures: float = option(0.5, "share of calls that may come to no answer before the run stops")
    fallbacks: str = option(
        "", "model@url or model@url@KEY_VARIABLE, with commas between: asked where the teacher fails"
    )
    batch: str | None = option(None, "openai or anthropic: the provider's batch interface, at half the price")
    structured: str = option("auto", "yes, no, auto: ask for JSON by a schema; auto: unless the teacher is embedded")
    in_flight: int | None = option(None, "calls under way in each teacher worker; default: 64, in batches 20000")
    teacher_workers: int = option(1, "processes that call the teacher")
    timeout: float = option(120.0, "seconds after which a call is made again")
    base_model: str = option("smollm2", "model to train: smollm2 (embedded), a Hugging Face id, or a folder")
    seed: int = option(0, "of everything that is drawn")

    def __post_init__(self) -> None:
        if self.base_model != "smollm2" and (folder := Path(self.base_model).expanduser()).is_dir():
            # Adapters name their base, and are used from elsewhere.
            object.__setattr__(self, "base_model", str(folder.resolve()))
        _ = self.chosen  # a wrong name or file is told at once
        for name in ("rpm", "tpm", "in_flight", "teacher_workers"):
            value = getattr(self, name)
            if value is not None:
                check_least(name.replace("_", "-"), value, 1)
        if self.teacher_url is not None:
            check_url("teacher-url", self.teacher_url)
        if self.teacher_url is None and self.teacher_model != "smollm2":
            raise ConfigError(
                f"teacher-model: {self.teacher_model!r} needs a server; give --teacher-url, or leave both out"
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed: must be from 0 to {2**32 - 1}, got {self.seed}")
        check_choice("structured", self.structured, "yes", "no", "auto")
        if self.batch is not None and self.teacher_url is None:
            raise ConfigError("batch: the embedded teacher has no batch interface; give --teacher-url as well")
        _ = self.terms

    @property
    def json(self) -> bool:
        """Is the teacher asked for JSON?"""
        return self.structured == "yes" or (self.structured == "auto" and self.teacher_url is not None)

    @functools.cached_property
    def terms(self) -> Terms:
        """How the teacher is asked.

        Raises:
            ConfigError: an option breaks its rule.
        """
        budget = parse_budget(self.budget) if self.budget is not None else None
        price = price_of(self.teacher_model, read_prices(self.prices)) if self.teacher_url else None
        return Terms(
            Limits(self.rpm, self.tpm),
            budget,
            price,
            self.max_failures,
            parse_fallbacks(self.fallbacks, read_prices(self.prices)),
            parse_batch(self.batch),
            self._in_flight,
            self.teacher_workers,
            self.timeout,
        )

    @property
    def _in_flight(self) -> int:
        if self.in_flight is not None:
            return self.in_flight
        return _BATCH_IN_FLIGHT if self.batch else _IN_FLIGHT

    @functools.cached_property
    def known(self) -> dict[str, Culture]:
        """The cultures to choose from, by id.

        Raises:
            ConfigError: the cultures file is wrong.
        """
        return CULTURES | (read_cultures(Path(self.cultures_file)) if self.cultures_file else {})

    @functools.cached_property
    def chosen(self) -> tuple[Culture, ...]:
        """The cultures of the run.

        Raises:
            ConfigError: there is no such culture, or the cultures file is wrong.
        """
        return parse_cultures(self.cultures, self.known)


def check_choice(name: str, value: str, *choices: str) -> None:
    """Make sure that a recipe's option has one of its values.

    Raises:
        ConfigError: it has not; the message names the nearest.
    """
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}: must be {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}{hint}")


def check_least(name: str, value: int, least: int) -> None:
    """Make sure that a recipe's option is large enough.

    Raises:
        ConfigError: it is not.
    """
    if value < least:
        raise ConfigError(f"{name}: must be at least {least}, got {value}")


class Parser(argparse.ArgumentParser):
    """An argparse parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        unknown = re.match(r"unrecognized arguments: (--?[\w-]+)", message)
        if unknown:
            known = [o for action in self._actions for o in action.option_strings]
            near = difflib.get_close_matches(unknown.group(1), known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            message = f"unknown option {unknown.group(1)}; {hint}--help lists all"
        self.exit(2, f"{self.prog}: {message}\n")


def load_recipe(path: str) -> Recipe:
    """The recipe of a file: the function that bears the file's name.

    Raises:
        ConfigError: there is no such file, it cannot be loaded, or has no such function.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"recipe: there is no file {path!r}; give one, such as jobs/demo.py")
    spec = importlib.util.spec_from_file_location(f"jobs.{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"recipe: {path!r} is not a Python file")
    if not file.stem.isidentifier() or keyword.iskeyword(file.stem):
        better = re.sub(r"\W", "_", file.stem if file.stem[:1].isidentifier() else f"_{file.stem}")
        raise ConfigError(
            f"recipe: {path!r} must bear the name of its function, and none in Python can be called {file.stem!r}; "
            f"rename it, such as {better if better != file.stem else f'{better}_'}.py"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except CpRayError:
        raise
    except Exception as error:
        raise ConfigError(f"recipe: {path!r} cannot be loaded: {_where(error, spec.origin)}") from error
    recipe = getattr(module, file.stem, None)
    if not callable(recipe):
        raise ConfigError(f"recipe: {path!r} has no function called {file.stem!r}")
    return recipe  # type: ignore[no-any-return]


def _where(error: Exception, file: str | None) -> str:
    """An error in a recipe's file, and its line where that is known."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    line = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{line}"


def parse_recipe(recipe: Recipe, arguments: Sequence[str], prog: str) -> tuple[Options, list[Step]]:
    """Options and steps from a command line. A wrong one ends the process with one line and status 2."""
    parser = Parser(prog=prog, usage=f"{prog} [options]", description=_summary(recipe), allow_abbrev=False)
    _add_shared(parser, f"runs/{recipe.__name__}")
    own, hints, docs = _own_options(recipe), get_type_hints(recipe), _argument_docs(recipe)
    group = parser.add_argument_group("this recipe's")
    for name, default in own.items():
        if is_dataclass(default):
            _add_fields(parser.add_argument_group(docs.get(name, name)), default)
        else:
            _add(group, name, hints.get(name), default, docs.get(name, ""))
    given = vars(parser.parse_args(arguments))
    options = _taken(Options, given)
    steps = recipe(options, **{n: _taken(type(d), given) if is_dataclass(d) else given[n] for n, d in own.items()})
    if not steps:
        raise ConfigError(f"recipe: {recipe.__name__!r} must return the steps to be done, got {steps!r}")
    return options, steps


def shared_parser(prog: str, description: str) -> Parser:
    """What every recipe takes, for the help of a command that no recipe was named to."""
    parser = Parser(prog=prog, usage=f"{prog} RECIPE [options]", description=description, allow_abbrev=False)
    told = "its file, such as jobs/demo.py; `cp-ray run jobs/demo.py --help` lists its own options as well"
    parser.add_argument("recipe", metavar="RECIPE", help=told)
    _add_shared(parser, "runs/ and the recipe's name")
    return parser


def _add_shared(parser: Parser, root: str) -> None:
    _add_fields(parser.add_argument_group("every recipe's"), Options(root))


def _own_options(recipe: Recipe) -> dict[str, Any]:
    """The defaults of what a recipe takes besides `Options`; one that is a dataclass stands for an option a field."""
    parameters = inspect.signature(recipe).parameters
    return {n: p.default for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _add_fields(group: argparse._ArgumentGroup, defaults: Any) -> None:
    hints = get_type_hints(type(defaults))
    for f in fields(defaults):
        _add(group, f.name, hints[f.name], getattr(defaults, f.name), f.metadata["help"])


def _taken(made: type[Any], given: Mapping[str, Any]) -> Any:
    return made(**{f.name: given[f.name] for f in fields(made)})


def _add(group: argparse._ArgumentGroup, name: str, hint: Any, default: Any, help: str) -> None:
    kind = next((k for k in (int, float, str) if hint in (k, k | None)), None)
    if kind is None:
        told = "no annotation" if hint is None else hint
        raise ConfigError(f"recipe: its option {name!r} must be annotated as int, float or str (or None), got {told}")
    shown = "" if default in (None, "") else f" (default: {default})"
    group.add_argument(
        f"--{name.replace('_', '-')}", type=kind, default=default, metavar=kind.__name__.upper(),
        help=(help + shown).replace("%", "%%"),
    )  # fmt: skip


def _summary(recipe: Recipe) -> str:
    return (inspect.getdoc(recipe) or "").split("\n\n")[0]


def _argument_docs(recipe: Recipe) -> dict[str, str]:
    """The lines of the docstring's section `Args`."""
    _, _, section = (inspect.getdoc(recipe) or "").partition("Args:\n")
    return dict(re.findall(r"^\s+(\w+): (.+)$", section.split("\n\n")[0], flags=re.MULTILINE))
