"""Joining Ray: the cluster that a job runs on, or one of our own on this machine.

Whoever reaches a Ray cluster can run any code on it, so one that others can reach must ask for a token.
"""

import ipaddress
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_ray.errors import ConfigError, PlacementError

if TYPE_CHECKING:
    import grpc

__all__ = ["UNREAD", "check_guarded", "check_one_machine", "check_room", "connected"]

UNREAD = {
    "LOG_NAME_UPDATE_INTERVAL_S": "3600",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "3600000",
}
"""What keeps Ray from looking for new logs ten times a second, for a driver that wants none, and at every process every
five, for a dashboard that is not there."""

_ANSWERS_S = 10.0
"""A cluster's head answers within this time, or is taken for absent."""


@contextmanager
def connected() -> Iterator[None]:
    """Be connected to Ray inside the block.

    A job submitted with `ray job submit`, or one with RAY_ADDRESS set, joins that cluster. Otherwise a cluster on
    this machine is started, on loopback where ray has not been imported before, and stopped at the end. A connection
    that is there already is used.

    Raises:
        ConfigError: the cluster cannot be joined, or lets in whoever reaches it.
    """
    # Read by Ray when it is first imported. Its own progress bars would stand between our lines.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Serve would end a proxy that needs more than 5 s to start, and so whoever waits for it, on a busy machine.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local":
        # Ray listens on every interface, whatever address it is given, unless it is told that this machine is alone.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Train would start a process, beside its workers, that looks whether a cloud takes this machine away.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        for name, value in UNREAD.items():
            os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address != "local":
        _join(address)
    else:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    quiet()
    try:
        check_guarded(ray.get_runtime_context().gcs_address)
        yield
    finally:
        ray.shutdown()
        if "ray.serve" in sys.modules:
            # Serve tells its sessions apart by their jobs' ids, and every cluster's first job has the same.
            from ray.serve.context import _set_global_client

            _set_global_client(None)  # type: ignore[no-untyped-call]


def _join(address: str) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS: must be host:port or auto, got {address!r}; from outside use `ray job submit`, which needs "
            "no port but the dashboard's"
        )
    if address != "auto":
        check_guarded(address)  # Ray itself would try for minutes where nothing answers
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, AuthenticationError) as error:
        raise ConfigError(f"RAY_ADDRESS: {address} cannot be joined ({error})") from error


def check_guarded(address: str) -> None:
    """Make sure that a cluster is on loopback, or asks whoever comes for a token.

    Args:
        address: of its head, `host:port`.

    Raises:
        ConfigError: it lets in whoever reaches it, nothing answers, or it asks for a token and we come without.
    """
    import grpc

    host = address.rpartition(":")[0].strip("[]")
    found = _comes_in(address)
    if found == grpc.StatusCode.UNAVAILABLE and os.environ.get("RAY_USE_TLS") != "1":
        raise ConfigError(f"RAY_ADDRESS: no Ray cluster answers at {address}")
    if found == grpc.StatusCode.UNAUTHENTICATED and os.environ.get("RAY_AUTH_MODE") != "token":
        raise ConfigError(
            f"RAY_AUTH_MODE: the cluster at {address} asks for a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        )
    if found == grpc.StatusCode.OK and not _is_loopback(host):
        raise ConfigError(
            f"RAY_AUTH_MODE: the cluster at {address} can be reached from other machines and asks for no token, so "
            "anybody may run code on it; start it with RAY_AUTH_MODE=token"
        )


def _comes_in(address: str) -> "grpc.StatusCode":
    """What a stranger without a token is told by a cluster's head; OK if it is let in."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        knock = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive", _as_it_is, _as_it_is)
        try:
            knock(b"", timeout=_ANSWERS_S, wait_for_ready=False)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def _as_it_is(message: bytes) -> bytes:
    return message


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_room(asked_by: str, needs: Mapping[str, float]) -> None:
    """Make sure that the cluster has what is asked for, or has an autoscaler that may bring it.

    Args:
        asked_by: who asks, for the message.
        needs: Ray's resources by name, all at once.

    Raises:
        PlacementError: it has not and may not; Ray itself would wait for ever.
    """
    import ray

    now: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    may_come = _may_come()
    for name, wanted in needs.items():
        has = now.get(name, 0.0)
        if has >= wanted or may_come is None:
            continue
        if max(has, may_come.get(name, 0.0)) < wanted:
            grows = f", which grows to {may_come[name]:g} at most" if may_come.get(name, 0.0) > has else ""
            raise PlacementError(
                f"{asked_by} asks for {wanted:g} {name}s and the cluster has {has:g}{grows}; ask for less or add nodes"
            )


def check_one_machine(what: str) -> None:
    """Make sure that all of the cluster is on one machine.

    Args:
        what: answers on loopback alone, for the message.

    Raises:
        ConfigError: workers on other machines would not reach it.
    """
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    machines = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    if len(machines) > 1:
        raise ConfigError(
            f"{what} answers on its own machine alone, and this cluster has {len(machines)}; give a --teacher-url that "
            "all of them reach"
        )


def _may_come() -> Mapping[str, float] | None:
    """What the cluster's autoscaler may bring it to; None where it cannot be told.

    It cannot on Kubernetes, where machines are the operator's, nor where `ray up` did not learn what a kind of machine
    has.

    Jobs run on the head, where `ray up` leaves the file that its autoscaler goes by.
    """
    if "RAY_CLUSTER_NAME" in os.environ:  # a pod of KubeRay's
        return None
    file = Path.home() / "ray_bootstrap_config.yaml"
    if not file.is_file():
        return {}
    import yaml

    given = yaml.safe_load(file.read_text())
    most: Counter[str] = Counter()
    for name, kind in given["available_node_types"].items():
        nodes = 1 if name == given["head_node_type"] else min(kind.get("max_workers", 0), given["max_workers"])
        if not kind.get("resources"):
            return None
        for resource, amount in kind["resources"].items():
            most[resource] += nodes * amount
    return most


def quiet() -> None:
    """Keep Ray Data to errors on the terminal; our own lines say what is going on."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
