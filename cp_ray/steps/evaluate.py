"""The recipe of `cp-ray evaluate` and jobs/evaluate.py: models in, one report on all of them out."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cp_ray.cultures import parse_cultures
from cp_ray.errors import ConfigError
from cp_ray.evals.benchmarks.scores import Solved
from cp_ray.evals.hofstede.items import HofstedeConfig, read_items
from cp_ray.evals.hofstede.scores import OWN, Truth
from cp_ray.evals.moderation.scores import BASELINES
from cp_ray.evals.moderation.state import SetState
from cp_ray.evals.nulls import BASE, HUMAN, NULLS
from cp_ray.evals.results.benchmarks import benchmarks_section
from cp_ray.evals.results.moderation import moderation_section
from cp_ray.evals.results.others import forgetting_section, hofstede_section, learning_section, open_section
from cp_ray.evals.results.page import html_page, markdown
from cp_ray.evals.results.sections import Section, Way
from cp_ray.evals.results.survey import survey_section
from cp_ray.evals.trained import Trained, trained_models
from cp_ray.folder import Folder
from cp_ray.llm.prices import price_of, read_prices
from cp_ray.pipeline import Step
from cp_ray.recipe import Options, check_choice, check_least
from cp_ray.records import QuestionScore, Score, Seed
from cp_ray.steps import suite
from cp_ray.steps.data import seeds
from cp_ray.steps.evaluation import part_name
from cp_ray.steps.rows import Inputs
from cp_ray.steps.spoken import learning, open_ended
from cp_ray.survey.asking import FRAMES
from cp_ray.teacher import Teacher, check_url

__all__ = ["evaluate"]

_TASKS = ("survey", "moderation", "hofstede", "forgetting", "benchmarks", "open", "learning")
_LEAD = (
    "base is the model before training; a model with a culture's name is what that culture's training made of it: an "
    "adapter on it, or all its weights. Every model is "
    "asked the same in the same words. Where a sentence says that one is better, chance alone would bring about such a "
    "difference in one case of twenty at most; where it says that they are not told apart, the data do not tell which "
    "is better."
)
_NEEDS = {
    "moderation": "moderation", "hofstede": "hofstede", "benchmarks": "benchmarks", "open": "judges",
    "learning": "learner",
}  # fmt: skip
"""Without which option a task cannot be done."""
_ANSWERERS = dict.fromkeys((BASE, HUMAN, OWN, *NULLS, *BASELINES), "something else in the figures")
"""Names that no endpoint may have."""


def evaluate(
    options: Options,
    *,
    run: str | None = None,
    models: str = "all",
    tasks: str = "all",
    moderation: str | None = None,
    rows: int | None = None,
    characters: int = 600,
    hofstede: str | None = None,
    hofstede_items: str | None = None,
    respondents: int = 30,
    benchmarks: str | None = None,
    also: str | None = None,
    wordings: int = 3,
    samples: int = 8,
    judges: str | None = None,
    learner: str | None = None,
    learners: int = 20,
    everywhere: str = "no",
    workers: int = 2,
) -> list[Step]:
    """Models in, one report on all of them out.

    Args:
        options: what every recipe takes
        run: run folder with trained adapters or whole models; default: --root
        models: with commas between: base, trained ones by name, [name=]model@url for an endpoint; all: all of the run
        tasks: survey, moderation, hofstede, forgetting, benchmarks, open, learning, with commas between; all: all that
            can be done
        moderation: folder with test sets, laid out as CultureLLM's
        rows: only so many lines of each test set, and items of each benchmark; default: all
        characters: of a text that is judged; longer ones are cut there for every model
        hofstede: file of published scores
        hofstede_items: CSV of the 24 items; default: our own wording
        respondents: simulated for each culture
        benchmarks: folder with gsm8k/ and bbh/ as published, for lm-evaluation-harness
        also: cultures, with commas between, that no adapter was trained on; the survey asks every model about them too
        wordings: of the words around a survey question
        samples: answers that an endpoint gives to each survey question
        judges: [name=]model@url, with commas between: judge the endpoints' open answers
        learner: model@url: plays the learners whom the endpoints teach
        learners: for each culture and endpoint
        everywhere: yes: adapters judge the other cultures' texts too
        workers: processes that hold the local models, on a GPU each where there are some, else on a core
    """
    check_choice("everywhere", everywhere, "yes", "no")
    for name, value in (("workers", workers), ("characters", characters), ("samples", samples)):
        check_least(name, value, 1)
    check_least("learners", learners, 2)
    if rows is not None:
        check_least("rows", rows, 1)
    if not 1 <= wordings <= len(FRAMES):
        raise ConfigError(f"wordings: must be between 1 and {len(FRAMES)}, got {wordings}")
    if options.fallbacks:
        raise ConfigError(
            f"fallbacks: another model's answers would count as the evaluated one's, got {options.fallbacks!r}; "
            "leave it out"
        )
    data = {
        "moderation": moderation, "hofstede": hofstede, "benchmarks": benchmarks, "judges": judges, "learner": learner,
    }  # fmt: skip
    wanted = _tasks(tasks, data)
    compared = _compared(options, run or options.root, models, everywhere=everywhere == "yes", workers=workers)
    if options.budget is not None and not compared.endpoints:
        raise ConfigError("budget: no endpoint is asked, so that nothing is paid for; leave it out")
    asked = _asked(options, compared.trained, also)
    cultures = asked.config.cultures
    made: list[Step] = []
    shown: list[tuple[str, Step]] = []
    truth: tuple[Truth, ...] = ()
    if set(wanted) & {"survey", "open", "learning"}:
        made.append(asked)
    if set(wanted) & {"open", "learning"} and not compared.endpoints:
        raise ConfigError("models: open answers and lessons are of endpoints; name one as model@url")
    for task in wanted:
        if task == "survey":
            made += [*suite.survey_alignment(asked, compared, wordings=wordings, samples=samples)]
        elif task == "moderation":
            made += suite.moderation(Path(moderation or ""), options.known, compared, rows=rows, characters=characters)
        elif task == "hofstede":
            items = read_items(Path(hofstede_items) if hofstede_items else None)
            config = HofstedeConfig(cultures, items, respondents, options.seed)
            made += suite.hofstede(Path(hofstede or ""), config, compared)
            truth = made[-1].config.truth
        elif task == "forgetting":
            made += suite.forgotten(compared)
        elif task == "benchmarks":
            made += suite.benchmarks(Path(benchmarks or ""), compared, rows=rows)
        elif task == "open":
            made += open_ended(asked, compared, _judges(judges or "", options))
        else:
            made += learning(asked, compared, _endpoint("learner", learner or "", options), learners=learners)
        shown.append((task, made[-1]))
    return [*made, _report(shown, truth, asked)]


def _tasks(text: str, data: Mapping[str, str | None]) -> list[str]:
    lacking = {task: option for task, option in _NEEDS.items() if data[option] is None}
    if text == "all":
        return [task for task in _TASKS if task not in lacking]
    named = [part.strip() for part in text.split(",") if part.strip()]
    for task in named:
        check_choice("tasks", task, *_TASKS)
        if task in lacking:
            raise ConfigError(f"tasks: {task} needs --{lacking[task]}")
    if not named:
        raise ConfigError(f"tasks: must be of {', '.join(_TASKS)}, or all, got {text!r}")
    return [task for task in _TASKS if task in named]


def _compared(options: Options, run: str, models: str, *, everywhere: bool, workers: int) -> suite.Compared:
    named = [part.strip() for part in models.split(",") if part.strip()]
    if not named:
        raise ConfigError(f"models: needs at least one, got {models!r}; name base, trained ones or model@url, or all")
    endpoints = [name for name in named if "@" in name]
    local = [name for name in named if "@" not in name and name != "base"]
    trained = trained_models(run) if local else None
    adapters = _adapters(local, trained) if trained else ()
    asked = tuple(_endpoint("models", text, options) for text in endpoints)
    _check_names("models", asked, {**_ANSWERERS, **dict.fromkeys(adapters, "a model of the run's")})
    return suite.Compared(
        trained.base_model if trained else options.base_model, trained, adapters,
        asked, everywhere, workers, options.seed,
    )  # fmt: skip


def _asked(options: Options, trained: Trained | None, also: str | None) -> Step:
    """The survey's questions: those of the run that trained, of more cultures if told, or those of the options."""
    if trained is None:
        if also is not None:
            raise ConfigError("also: there is no adapter; choose among all cultures with --cultures")
        return seeds(options)
    others = parse_cultures(also, options.known) if also else ()
    twice = [culture.id for culture in others if culture.id in trained.cultures]
    if twice:
        raise ConfigError(f"also: {twice[0]!r} is a culture of the run's training; leave it out")
    return suite.trained_seeds(trained, others, Path(options.survey) if options.survey else None)


def _adapters(named: Sequence[str], trained: Trained) -> tuple[str, ...]:
    if "all" in named:
        return tuple(trained.folders)
    unknown = next((name for name in named if name not in trained.folders), None)
    if unknown is not None:
        raise ConfigError(f"models: the run has no model {unknown!r}; it has {', '.join(trained.folders)}")
    return tuple(dict.fromkeys(named))


def _judges(text: str, options: Options) -> list[suite.Endpoint]:
    found = [_endpoint("judges", one.strip(), options) for one in text.split(",")]
    _check_names("judges", found, {})
    return found


def _endpoint(option: str, text: str, options: Options) -> suite.Endpoint:
    called, _, url = text.strip().rpartition("@")
    name, renamed, model = called.partition("=")
    model = model if renamed else name
    if not name or not model or not url:
        raise ConfigError(f"{option}: an endpoint must be model@url, or name=model@url, got {text!r}")
    check_url(option, url)
    terms = replace(options.terms, price=price_of(model, read_prices(options.prices)))
    url = url.rstrip("/")
    return suite.Endpoint(name, model, url, Teacher(url, model, terms, options.root, by_server=True))


def _check_names(option: str, endpoints: Sequence[suite.Endpoint], taken: Mapping[str, str]) -> None:
    """All figures and steps are known by names, so that two of one name would be taken for each other.

    Raises:
        ConfigError: an endpoint has one that is `taken`, by whom it says, or another endpoint's.
    """
    parts: dict[str, str] = {}
    for one in endpoints:
        part = part_name(one.name)
        whose = taken.get(one.name)
        if part in parts:
            whose = "another endpoint's" if parts[part] == one.name else f"{parts[part]!r} as a folder's name"
        if whose is not None:
            raise ConfigError(
                f"{option}: an endpoint must have a name of its own, got {one.name!r}, which is {whose}; "
                f"give it another, as in other={one.model}@{one.url}"
            )
        parts[part] = one.name


@dataclass(frozen=True)
class PageConfig:
    """What the page shows."""

    tasks: tuple[str, ...]
    truth: tuple[Truth, ...]
    page: int = 4
    """Edition of the page."""


def _command() -> str | None:
    """What was typed, where it was this recipe's command."""
    program = Path(sys.argv[0]).name
    return shlex.join([program, *sys.argv[1:]]) if program in ("cp-ray", "evaluate.py") else None


def _ways(folder: Folder) -> list[Way]:
    return (folder / "ways").read(Way) if (folder / "ways").exists() else []  # a run of before it was written down


def _report(shown: Sequence[tuple[str, Step]], truth: tuple[Truth, ...], asked: Step) -> Step:
    """One page, in HTML and in Markdown; `asked`: the survey's questions."""
    sections: Mapping[str, Callable[[Folder, Inputs], Section]] = {
        "survey": lambda f, inputs: survey_section(
            f.read(Score), (f / "questions").read(QuestionScore), inputs[asked.name].read(Seed), _ways(f)
        ),
        "moderation": lambda f, _: moderation_section(f.read(Score), (f / "sets").read(SetState), _ways(f)),
        "hofstede": lambda f, _: hofstede_section(f.read(Score), truth, _ways(f)),
        "forgetting": lambda f, _: forgetting_section(f.read(Score)),
        "benchmarks": lambda f, _: benchmarks_section(f.read(Score), (f / "solved").read(Solved)),
        "open": lambda f, _: open_section(f.read(Score)),
        "learning": lambda f, _: learning_section(f.read(Score)),
    }

    def write(folder: Folder, inputs: Inputs) -> None:
        parts = [sections[task](inputs[step.name], inputs) for task, step in shown]
        made_by: dict[str, Mapping[str, Any]] = {
            name: manifest.config for name, one in inputs.items() if (manifest := one.manifest())
        }
        title = "How well do these models understand their cultures?"
        folder.write_text("evaluation.html", html_page(title, parts, made_by, _command(), _LEAD))
        folder.write_text("evaluation.md", markdown(title, parts, _LEAD))
        folder.write_text("summary.txt", "\n".join(said for part in parts for said in part.said))

    config = PageConfig(tuple(task for task, _ in shown), truth)
    steps = tuple(step for _, step in shown)
    if "survey" in config.tasks:
        steps = (asked, *steps)
    return Step("evaluation", config, write, steps, publish=("evaluation.html", "evaluation.md"))
