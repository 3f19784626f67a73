"""lm-evaluation-harness, with its own prompts and its own reading of answers, on a base and its adapters.

Its tasks are taken as they are; only their data come from the user's files, so that nothing is fetched.
"""

import importlib.metadata
import importlib.util
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_ray.devices import best_device
from cp_ray.errors import ConfigError
from cp_ray.evals.benchmarks.files import GSM8K, Benchmark
from cp_ray.evals.benchmarks.scores import BenchmarksConfig, Solved
from cp_ray.evals.nulls import BASE

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = ["harness_version", "solve"]

_FILTER = "flexible-extract"
"""Of an answer the part that answers, wherever in it that is; `strict-match` wants the published form."""
_BATCH = 16


def harness_version() -> str:
    """The installed version of lm-evaluation-harness.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("benchmarks: need lm-evaluation-harness, which is not installed; pip install lm_eval")
    return importlib.metadata.version("lm_eval")


def solve(
    config: BenchmarksConfig,
    benchmarks: Sequence[Benchmark],
    folders: "Mapping[str, Folder]",
    done: Callable[[int], None] = lambda n: None,
) -> list[Solved]:
    """Which items the base and each adapter, or whole model, solve; `done` is told of items as they are.

    Raises:
        BaseModelError: the base or one of them cannot be loaded.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from cp_ray.llm.embedded import load_tokenizer

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tokenizer, models = load_tokenizer(config.base_model), _whole if config.whole else _adapted
    rows: list[Solved] = []
    with tempfile.TemporaryDirectory(prefix="cp_ray-benchmarks-") as local:
        for name, one in models(config.base_model, folders, Path(local)):
            for number, benchmark in enumerate(benchmarks):
                found: Any = lm_eval.simple_evaluate(
                    HFLM(pretrained=one, tokenizer=tokenizer, batch_size=_BATCH),
                    tasks=[_task(benchmark, Path(local, f"{number}.yaml"))],
                    limit=config.rows,
                    apply_chat_template=True,
                    bootstrap_iters=0,
                )
                ((_, samples),) = found["samples"].items()
                own = [
                    Solved(name, benchmark.name, str(s["doc_id"]), float(s["exact_match"]) == 1)
                    for s in samples
                    if s["filter"] == _FILTER
                ]
                rows += own
                done(len(own))
    return rows


def _whole(base: str, folders: "Mapping[str, Folder]", local: Path) -> Iterator[tuple[str, Any]]:
    """Each model by name."""
    from cp_ray.llm.embedded import load_base

    yield BASE, load_base(base, device=best_device())[0]
    for name, folder in folders.items():
        yield name, load_base(str(folder.fetch(local / name)), device=best_device())[0]


def _adapted(base: str, folders: "Mapping[str, Folder]", local: Path) -> Iterator[tuple[str, Any]]:
    """Each model by name; until the next one is asked for, it answers as that one."""
    from peft import PeftModel

    from cp_ray.llm.embedded import load_base

    model, _ = load_base(base, device=best_device())
    if not folders:
        yield BASE, model
        return
    several: Any = None
    for name, folder in folders.items():
        place = str(folder.fetch(local / name))
        if several is None:
            several = PeftModel.from_pretrained(model, place, adapter_name=name)
        else:
            several.load_adapter(place, adapter_name=name)
    several.eval()
    with several.disable_adapter():
        yield BASE, several
    for name in folders:
        several.set_adapter(name)
        yield name, several


def _task(benchmark: Benchmark, file: Path) -> str:
    """The path of the harness's task with the user's data for its own; JSON is YAML."""
    import lm_eval

    tasks = Path(lm_eval.__file__).parent / "tasks"
    own = "gsm8k/gsm8k.yaml" if benchmark.name == GSM8K else f"bbh/zeroshot/{benchmark.name.partition('/')[2]}.yaml"
    data = {"test": str(benchmark.test), **({"train": str(benchmark.train)} if benchmark.train else {})}
    read: dict[str, Any] = {"data_files": data, "cache_dir": str(file.with_suffix(".cache"))}
    if benchmark.name != GSM8K:
        read["field"] = "examples"
    task = {
        "include": str(tasks / own),
        "task": f"cp_ray_{benchmark.name.replace('/', '_')}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": read,
    }
    file.write_text(json.dumps(task), encoding="utf-8")
    return str(file)
