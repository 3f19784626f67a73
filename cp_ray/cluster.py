"""Joining Ray: the cluster that a job runs on, or one of our own on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["connected"]


@contextmanager
def connected() -> Iterator[None]:
    """Be connected to Ray inside the block.

    A job submitted with `ray job submit`, or one with RAY_ADDRESS set, joins that cluster. Otherwise a cluster on
    this machine is started, on loopback, and stopped at the end. A connection that is there already is used.
    """
    # Read by Ray when it is first imported. Its own progress bars would stand between our lines.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import ray

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False)
    else:
        ray.init(
            address="local",
            _node_ip_address="127.0.0.1",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    quiet()
    try:
        yield
    finally:
        ray.shutdown()


def quiet() -> None:
    """Keep Ray Data to errors on the terminal; our own lines say what is going on."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
