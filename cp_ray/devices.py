"""Where models are computed: on a GPU where Ray has one, else on a CPU core for each worker."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["best_device", "call_on_device", "model_actors"]

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def best_device() -> str:
    """`cuda` in a process that sees a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def model_actors(workers: int | None = None) -> dict[str, Any]:
    """Options of Ray Data's `map_batches` for actors with a model each: on a GPU where there is one, else on a core.

    `workers`: actors; None for as many as the cluster has devices, if there is work for them.
    """
    import ray.data

    gpus = _there_are("GPU")
    most = gpus or max(1, _there_are("CPU"))
    # A block at a time each, or the first that is up would be given what another could have computed.
    pool = (
        ray.data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=1)
        if workers is None
        else ray.data.ActorPoolStrategy(size=min(workers, gpus) if gpus else workers, max_tasks_in_flight_per_actor=1)
    )
    # Each uses a core whole; the tasks that feed them need room in Ray's books.
    return {"compute": pool, **({"num_gpus": 1} if gpus else {"num_cpus": 0.5})}


def call_on_device(function: Callable[_Given, _Made], *given: _Given.args, **options: _Given.kwargs) -> _Made:
    """What `function` returns, called in a Ray task with a GPU where the cluster has one, else in this process.

    The driver's own machine is often a head without one.
    """
    if not _there_are("GPU"):
        return function(*given, **options)
    import ray

    made: _Made = ray.get(ray.remote(num_gpus=1)(function).remote(*given, **options))
    return made


def _there_are(what: str) -> int:
    """Of one of Ray's resources, in the whole cluster."""
    import ray

    have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(have.get(what, 0))
