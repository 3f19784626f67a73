"""The Ray Serve application: one base, all adapters, OpenAI's API, in one deployment."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_ray.cultures import Culture
from cp_ray.errors import BaseModelError, ConfigError, CpRayError, told_in
from cp_ray.serving.chat import ChatRequest, ChatResult, ModelCard, ModelSpec
from cp_ray.survey.asking import persona

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

    from cp_ray.pipeline import Folder

__all__ = ["ServeSpec", "app", "build_app", "serving", "start"]

_HOST = "127.0.0.1"
_MAX_ONGOING = 256
"""Requests that a replica holds at once, answered or waiting."""


@dataclass(frozen=True, slots=True)
class ServeSpec:
    """What is served behind one endpoint."""

    base: str
    """`smollm2`, a folder, or a Hugging Face id."""
    models: tuple[ModelSpec, ...]

    def __post_init__(self) -> None:
        ids = [model.id for model in self.models]
        if not ids:
            raise ConfigError("models: needs at least one, got none; name the base or an adapter")
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ConfigError(f"models: id {twice[0]!r} stands twice; give each its own")

    @classmethod
    def of_cultures(cls, base: str, adapters: "Mapping[Culture, Folder]") -> "ServeSpec":
        """A model per culture, called by the culture's id, with the system prompt that it was trained with."""
        return cls(
            base,
            tuple(
                ModelSpec(c.id, folder.uri, culture=c.id, language=c.language, system=persona(c))
                for c, folder in adapters.items()
            ),
        )


class _Replica:
    """The process that holds the base and its adapters."""

    def __init__(self, spec: ServeSpec, max_wave: int, threads: int) -> None:
        from cp_ray.serving.batcher import Batcher
        from cp_ray.serving.engine import Engine

        self._spec = spec
        with tempfile.TemporaryDirectory(prefix="cp_ray-adapters-") as folder:
            folders = {
                m.id: _fetch(m.id, m.adapter, Path(folder) / str(i)) if m.adapter else None
                for i, m in enumerate(spec.models)
            }
            engine = Engine(spec.base, folders, threads=threads)
        self._batcher = Batcher(engine.generate, max_wave=max_wave)

    def models(self) -> list[ModelCard]:
        """What is served."""
        # Clients need not know where it lies on this machine.
        base = Path(self._spec.base).name if Path(self._spec.base).is_dir() else self._spec.base
        return [ModelCard(m.id, base, m.culture, m.language, m.system) for m in self._spec.models]

    async def complete(self, request: ChatRequest) -> ChatResult:
        """Answer a chat in a wave with others."""
        return await self._batcher.complete(request)

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from cp_ray.serving.api import build_api

        return build_api(self)


def build_app(spec: ServeSpec, *, num_cpus: float = 1, threads: int | None = None, max_wave: int = 32) -> "Application":
    """The Ray Serve application of `spec`.

    Args:
        spec: the base and its models.
        num_cpus: CPUs that the replica takes from the cluster.
        threads: that it computes with; None: as many as CPUs.
        max_wave: requests answered together at most.
    """
    from ray import serve

    deployment: Any = serve.deployment(
        name="engine",
        ray_actor_options={"num_cpus": num_cpus},
        max_ongoing_requests=_MAX_ONGOING,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )(serve.ingress()(_Replica))
    application: Application = deployment.bind(spec, max_wave, threads or max(1, int(num_cpus)))
    return application


def start(
    spec: ServeSpec,
    *,
    name: str,
    route_prefix: str,
    port: int | None = None,
    num_cpus: float = 1,
    threads: int | None = None,
    max_wave: int = 32,
) -> str:
    """Serve `spec` from this Ray cluster, wait until it is healthy, and leave it running.

    Args:
        spec: the base and its models.
        name: of the application; one that runs under this name is replaced.
        route_prefix: where it is, such as `/teacher`; applications under other prefixes live on.
        port: on 127.0.0.1; None takes a free one. A cluster has one port for all its applications: the first
            one's, whatever later ones ask for.
        num_cpus: as in `build_app`.
        threads: as in `build_app`.
        max_wave: as in `build_app`.

    Returns:
        The base URL for clients, such as `http://127.0.0.1:8123/teacher/v1`.

    Raises:
        BaseModelError: the application did not become healthy, for example because a weight is missing.
    """
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # this process's own; Serve sets it anew on import
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    actual = _running_port()
    if actual is None:
        serve.start(http_options={"host": _HOST, "port": port or _free_port()}, logging_config=quiet)
        actual = _running_port()
    try:
        application = build_app(spec, num_cpus=num_cpus, threads=threads, max_wave=max_wave)
        serve.run(application, name=name, route_prefix=route_prefix)
    except RuntimeError as error:
        why = _why(name) or BaseModelError(f"serving {name!r}: {' '.join(str(error).split())}")
        serve.delete(name)
        raise why from error
    return f"http://{_HOST}:{actual}{route_prefix.rstrip('/')}/v1"


@contextlib.contextmanager
def serving(
    spec: ServeSpec,
    *,
    name: str,
    route_prefix: str,
    port: int | None = None,
    num_cpus: float = 1,
    threads: int | None = None,
    max_wave: int = 32,
) -> Iterator[str]:
    """Serve `spec` while inside: the base URL for clients; the arguments and errors are those of `start`."""
    from ray import serve

    url = start(
        spec, name=name, route_prefix=route_prefix, port=port, num_cpus=num_cpus, threads=threads, max_wave=max_wave
    )
    try:
        yield url
    finally:
        serve.delete(name)


def app(args: dict[str, Any]) -> "Application":
    """The application of a Serve config file (`import_path: cp_ray.serving.app:app`).

    Args:
        args: `base`, `models` (each with the fields of `ModelSpec`), and `num_cpus` and `max_wave` if wanted.

    Raises:
        ConfigError: a field is missing or unknown.
    """
    unknown = sorted(set(args) - {"base", "models", "num_cpus", "max_wave"})
    if unknown:
        raise ConfigError(f"args: unknown field {unknown[0]!r}; known: base, models, num_cpus, max_wave")
    try:
        spec = ServeSpec(args["base"], tuple(ModelSpec(**model) for model in args["models"]))
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"args: base and models (id, adapter, culture, language, system) expected: {error}"
        ) from error
    return build_app(spec, num_cpus=float(args.get("num_cpus", 1)), max_wave=int(args.get("max_wave", 32)))


def _fetch(id: str, uri: str, target: Path) -> Path:
    """Copy an adapter's folder to `target`."""
    import pyarrow as pa
    from pyarrow import fs

    target.mkdir()
    try:
        source, path = fs.FileSystem.from_uri(uri) if "://" in uri else (fs.LocalFileSystem(), str(Path(uri).resolve()))
        fs.copy_files(path, str(target), source_filesystem=source, destination_filesystem=fs.LocalFileSystem())
    except (OSError, pa.ArrowException) as error:
        raise BaseModelError(f"adapter {id!r}: cannot read {uri} ({error}); give a PEFT folder") from error
    return target


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
