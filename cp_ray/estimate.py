"""What a run will cost, before it is made: its generating stages are run here against a scripted model.

The stages themselves make the calls, so the number of calls and the growth of the prompts are the real ones; what is
assumed is how long a teacher talks and how it judges. Of many rows only some are run, and counted as many times.
"""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cp_ray.arrow import from_table, to_table
from cp_ray.folder import Folder, open_folder, write_rows
from cp_ray.llm.budget import Price
from cp_ray.llm.call import Completion, Sampling, Usage
from cp_ray.llm.plausible import plausible
from cp_ray.pipeline import Run, Step
from cp_ray.records import Message
from cp_ray.stages.analyse import SampleConfig

__all__ = ["Estimate", "estimate"]

_ROWS = 48
"""Of a step that are run."""
_TALK = 0.8
"""Of the tokens that an answer may have, how many a talking teacher uses."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a generating step will ask for."""

    step: str
    calls: int
    prompt_tokens: int
    completion_tokens: int

    def usd(self, price: Price) -> float:
        """What that costs."""
        return price.cost(self.prompt_tokens, self.completion_tokens)


def estimate(run: Run, steps: Sequence[Step]) -> list[Estimate]:
    """Of each generating step that is not done, in order.

    Steps that are done are read; what comes before and between is made in a temporary folder.
    """
    with tempfile.TemporaryDirectory() as temporary:
        return _Dry(run, open_folder(temporary)).estimates(steps)


class _Dry:
    def __init__(self, run: Run, root: Folder) -> None:
        self.run, self.root = run, root
        self.folders: dict[str, Folder] = {}
        self.times: dict[str, float] = {}
        """How many rows one row of a step stands for."""

    def estimates(self, steps: Sequence[Step]) -> list[Estimate]:
        last = max((k for k, step in enumerate(steps) if step.stage is not None), default=-1)
        found = []
        for step in steps[: last + 1]:
            self.times[step.name] = self.times[step.inputs[0].name] if step.inputs else 1.0
            if self.run.manifest(step) is not None:
                self.folders[step.name] = self.run.folder(step)
                self.times[step.name] = 1.0
                continue
            folder = self.folders[step.name] = self.root / step.name
            inputs = {i.name: self.folders[i.name] for i in step.inputs}
            if step.stage is not None:
                line = self._generate(step, inputs, folder)
                found += [] if _later(step) else [line]
            elif step.rows is not None:
                write_rows(self._made(step, inputs, folder), folder / "rows", step.rows)
                if isinstance(step.config, SampleConfig):
                    self.times[step.name] = self._sampled(step, folder)
        return found

    def _made(self, step: Step, inputs: Mapping[str, Folder], folder: Folder) -> Any:
        """The rows of a step that calls nobody; what would be set aside on Ray is counted as kept."""
        name = step.name.split(".")[0]
        asked_by_nobody = name.endswith(("_choices", "_scores"))  # made on local models
        if asked_by_nobody or (name == "candidates" and _later(step)):
            return to_table([], step.rows) if step.rows is not None else None
        if name in ("voice", "near", "check"):
            return inputs[step.inputs[0].name].table()
        if name == "dedup":
            return pa.concat_tables([inputs[i.name].table() for i in step.inputs if not i.name.startswith("dedup")])
        return step.run(folder, inputs)

    def _sampled(self, step: Step, folder: Folder) -> float:
        """So many are asked for, however many rows one stands for; there may be fewer."""
        cultures = folder.table(["culture"])["culture"].to_pylist()
        held = sum(self.folders[i.name].table(["culture"]).num_rows * self.times[i.name] for i in step.inputs)
        wanted: float = min(held, step.config.dialogues * len(set(cultures)))
        return wanted / len(cultures) if cultures else 1.0

    def _generate(self, step: Step, inputs: Mapping[str, Folder], folder: Folder) -> Estimate:
        source = step.inputs[0]
        assert source.rows is not None
        assert step.rows is not None
        every: list[Any] = from_table(inputs[source.name].table(), source.rows)
        rows = [row for row in every if getattr(row, "reject", None) is None]
        some = rows[:: max(1, len(rows) // _ROWS)]
        times = self.times[source.name] * (len(rows) / len(some) if some else 1.0)
        self.times[step.name] = times
        model = _Counting()
        made = asyncio.run(_roll(step, some, model))
        write_rows(to_table(made, step.rows), folder / "rows", step.rows)
        counts = (model.calls, model.prompt_tokens, model.completion_tokens)
        return Estimate(step.name, *(round(count * times) for count in counts))


def _later(step: Step) -> bool:
    """Is it of a quota's second wave, or one after it? The first is made as large as should do, and these are empty."""
    wave = step.name.partition(".")[2]
    return wave.isdigit() and wave != "1"


async def _roll(step: Step, rows: Sequence[Any], model: "_Counting") -> list[Any]:
    return [made for row in rows for made in await step.stage(row, model, step.config)]


class _Counting:
    """A model that answers plausibly and counts tokens as four characters each."""

    def __init__(self) -> None:
        self.calls = self.prompt_tokens = self.completion_tokens = 0

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        text = plausible(messages, sampling)
        if text.startswith("I hold"):  # talk, which goes on until it is told to stop
            text = " ".join([text] * 20)[: int(_TALK * 4 * sampling.max_tokens)] + "."
        usage = Usage(sum(len(m.content) // 4 + 4 for m in messages), min(len(text) // 4 + 1, sampling.max_tokens))
        self.calls += 1
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        return Completion(text, "stop", usage)
