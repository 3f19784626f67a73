"""Several bases in one process, behind the interface of one engine: models with all weights of their own."""

from collections.abc import Mapping

from cp_ray.serving.chat import ChatRequest, Load
from cp_ray.serving.engine import Engine
from cp_ray.serving.rows import Row

__all__ = ["Bases"]


class Bases:
    """The base that carries the adapters, and whole models beside it; they take turns, a step each.

    The methods are `Engine`'s, and are for the same threads.
    """

    def __init__(self, shared: Engine, whole: Mapping[str, Engine]) -> None:
        """Put them side by side.

        Args:
            shared: answers for its base and all adapters.
            whole: by the name that requests use.
        """
        self._shared, self._whole = shared, dict(whole)
        self._engines = [shared, *whole.values()]
        self._stepping = shared

    @property
    def load(self) -> Load:
        """What all of them were busy with in their last steps."""
        loads = [engine.load for engine in self._engines]
        return Load(
            sum(load.rows for load in loads), sum(load.adapters for load in loads),
            sum(load.waiting for load in loads), sum(load.held for load in loads),
        )  # fmt: skip

    def prepare(self, request: ChatRequest) -> Row:
        """As `Engine.prepare`."""
        return self._of(request.model).prepare(request)

    def add(self, row: Row) -> None:
        """As `Engine.add`."""
        self._of(row.model).add(row)

    def cancel(self, row: Row) -> None:
        """As `Engine.cancel`."""
        self._of(row.model).cancel(row)

    def step(self) -> bool:
        """A step of each: whether any of them has more to do."""
        busy = False
        for engine in self._engines:
            self._stepping = engine
            busy = engine.step() or busy
        return busy

    def fail(self, error: BaseException) -> None:
        """As `Engine.fail`, of the one whose step it was that raised; the others go on."""
        self._stepping.fail(error)

    def _of(self, model: str) -> Engine:
        return self._whole.get(model, self._shared)
