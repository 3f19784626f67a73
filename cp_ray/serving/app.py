"""The Ray Serve application: a gateway with OpenAI's API, and the engine's replicas behind it."""

import contextlib
import hashlib
import importlib.util
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cp_ray.errors import BaseModelError, ConfigError, CpRayError, told_in
from cp_ray.serving.spec import ServeSpec, Settings, parse

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["ServeSpec", "Settings", "app", "application_of", "build_app", "serving", "start"]

_HOST = "127.0.0.1"
_HEAD = "node:__internal_head__"
"""What Ray calls the resource that its head alone has."""
_MANY = 100_000
"""Requests that Serve lets through: the gateway's own limits refuse with what a client can use."""
_HEALTH_S = 2.0
"""Between two looks at a replica: one that died is missed, and replaced, after so long."""
_LOOK_S = 0.1
"""Between two looks whether an application has gone."""
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


def build_app(spec: ServeSpec, settings: Settings | None = None) -> "Application":
    """The Ray Serve application of `spec`.

    Raises:
        ConfigError: the engine that is asked for is not installed.
    """
    from ray import serve

    from cp_ray.serving.gateway import Gateway

    settings = settings or Settings()
    common: dict[str, Any] = {
        "max_ongoing_requests": _MANY,
        "logging_config": _QUIET,
        "health_check_period_s": _HEALTH_S,
        # Requests that are under way are answered before a replica goes: after their time-out there are none.
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": settings.timeout_s,
    }
    # There is one of it, so it is where all is lost anyway if the node is lost.
    on_head = {"num_cpus": 0, "resources": {_HEAD: 0.001}}
    gateway: Any = serve.deployment(name="gateway", ray_actor_options=on_head, **common)(serve.ingress()(Gateway))
    application: Application = gateway.bind(spec, settings, _engine(spec, settings, common))
    return application


def start(
    spec: ServeSpec, *, name: str, route_prefix: str, port: int | None = None, settings: Settings | None = None
) -> str:
    """Serve `spec` from this Ray cluster, wait until it is healthy, and leave it running.

    Args:
        spec: the base and its models.
        name: of the application; one that runs under this name is replaced; it answers what it was asked before.
        route_prefix: where it is, such as `/teacher`; applications under other prefixes live on.
        port: on 127.0.0.1; None takes a free one. A cluster has one port for all its applications: the first
            one's, whatever later ones ask for.
        settings: how it is served.

    Returns:
        The base URL for clients, such as `http://127.0.0.1:8123/teacher/v1`.

    Raises:
        BaseModelError: the application did not become healthy, for example because a weight is missing.
    """
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # this process's own; Serve sets it anew on import
    actual = _running_port()
    if actual is None:
        # On loopback a proxy on another node would be reached by nobody, or, on this machine, die with its node.
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": _HOST, "port": port or _free_port()},
            logging_config=_QUIET,
        )
        actual = _running_port()
    try:
        serve.run(build_app(spec, settings), name=name, route_prefix=route_prefix)
    except RuntimeError as error:
        why = _why(name) or BaseModelError(f"serving {name!r}: {' '.join(str(error).split())}")
        serve.delete(name, _blocking=False)
        raise why from error
    return f"http://{_HOST}:{actual}{route_prefix.rstrip('/')}/v1"


def application_of(kind: str, *owner: str) -> str:
    """A name for what a run serves for itself: another's on the same cluster is another.

    The same for the same owner, such as a run's folder, so that what a driver that was killed left is replaced.
    """
    return f"{kind}-{hashlib.sha256(' '.join(owner).encode()).hexdigest()[:12]}"


@contextlib.contextmanager
def serving(
    spec: ServeSpec, *, name: str, route_prefix: str, port: int | None = None, settings: Settings | None = None
) -> Iterator[str]:
    """Serve `spec` while inside: the base URL for clients; the arguments and errors are those of `start`.

    At the end it is waited until what is under way has been answered. An error goes on at once: Serve ends the
    application by itself.
    """
    from ray import serve

    url = start(spec, name=name, route_prefix=route_prefix, port=port, settings=settings)
    try:
        yield url
    finally:
        serve.delete(name, _blocking=False)  # what waits there gives up after a minute
    while name in serve.status().applications:
        time.sleep(_LOOK_S)


def app(args: dict[str, Any]) -> "Application":
    """The application of a Serve config file (`import_path: cp_ray.serving.app:app`).

    Args:
        args: `base`, `models` (each with the fields of `ModelSpec`), those of `Settings` that are wanted, and
            `cultures_file` where a model is of a culture of the user's own.

    Raises:
        ConfigError: a field is missing or unknown, or breaks its rule.
    """
    return build_app(*parse(args))


def _engine(spec: ServeSpec, settings: Settings, common: dict[str, Any]) -> "Application":
    """The deployment behind the gateway; whatever computes there is asked in the same way."""
    options = {"name": "engine", **common, **_scale(settings)}
    if settings.engine == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                "engine: vllm is not installed; run `pip install -e '.[vllm]'` in the checkout on every node, or leave "
                "it out"
            )
        from cp_ray.serving.vllm import deployment

        return deployment(spec, settings, options)
    from ray import serve

    from cp_ray.packed_linear import HUGE_PAGES
    from cp_ray.serving.replica import Replica

    placed = {
        "num_cpus": settings.num_cpus,
        "num_gpus": settings.num_gpus,
        "runtime_env": {"env_vars": HUGE_PAGES},
    }
    engine: Any = serve.deployment(ray_actor_options=placed, **options)(Replica)
    application: Application = engine.bind(spec, settings)
    return application


def _scale(settings: Settings) -> dict[str, Any]:
    if settings.max_replicas is None:
        return {"num_replicas": settings.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": settings.replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.max_rows,
        }
    }


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _running_port() -> int | None:
    """The HTTP port of the Serve instance of this cluster, if one runs."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else int(client.http_config.port)


def _why(name: str) -> CpRayError | None:
    """What a replica of the application raised while it started, if that was an error of ours."""
    from ray import serve

    status = serve.status().applications.get(name)
    messages = [status.message, *(d.message for d in status.deployments.values())] if status else []
    return told_in("\n".join(messages))
