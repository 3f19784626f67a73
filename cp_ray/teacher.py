"""The model that the generating steps talk to: a server of the user's, or the embedded model's own."""

import os
from contextlib import ExitStack
from types import TracebackType

from cp_ray.llm.door import Door
from cp_ray.llm.limiter import Limits

__all__ = ["Teacher"]


class Teacher:
    """Up while the generating steps run.

    With no `url`, the embedded model is served by this project's own server on Ray Serve and reached over HTTP,
    so that the pipeline has one path whoever the teacher is.
    """

    def __init__(self, url: str | None, model: str, limits: Limits, ledger: str) -> None:
        self.model = model
        self._given_url = url
        self._url = url
        self._limits = limits
        self._ledger = ledger
        self._stack = ExitStack()

    def check(self) -> None:
        """Make sure that a server of the user's can be used.

        Raises:
            TeacherError: nothing answers there, it refuses the key, or does not know the model.
        """
        if self._given_url is not None:
            from cp_ray.llm.endpoint import check_teacher

            check_teacher(self._given_url, self.model, os.environ.get("OPENAI_API_KEY"))

    def __enter__(self) -> "Teacher":
        if self._given_url is None:
            from cp_ray.serving.app import ServeSpec, serving
            from cp_ray.serving.chat import ModelSpec

            spec = ServeSpec(base=self.model, models=(ModelSpec(id=self.model),))
            # While it answers nothing else computes, so it may use every core of its machine.
            self._url = self._stack.enter_context(
                serving(spec, name="teacher", route_prefix="/teacher", threads=os.cpu_count())
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def door(self, step: str) -> Door:
        """The way to it for a step's workers."""
        if self._url is None:
            raise RuntimeError("the teacher is not up; enter it first")
        return Door(url=self._url, model=self.model, limits=self._limits, ledger=self._ledger, step=step)
