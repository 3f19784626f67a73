"""Small actors of our own, where they are lost with nobody else's node."""

from typing import Any

__all__ = ["beside"]


def beside(kind: type, **options: Any) -> Any:
    """`kind` as an actor class whose actors live on the node of the process that makes them, and take no CPU there.

    A driver that waits for its actor would not outlive the loss of another node that the actor happened to be on. On a
    node that is full, or gone when the actor is started again, it lives elsewhere.

    Args:
        kind: a class without Ray in it.
        options: more of Ray's, such as `max_restarts`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    remote: Any = ray.remote  # Ray's type knows fewer strategies than Ray
    return remote(num_cpus=0, scheduling_strategy=here, **options)(kind)
