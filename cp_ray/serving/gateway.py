"""The process that clients talk to: keys, limits, routing and versions, in front of the engine's replicas."""

from pathlib import Path
from typing import TYPE_CHECKING

from cp_ray.serving.call import RequestLog
from cp_ray.serving.detect import LanguageOf
from cp_ray.serving.keys import read_keys
from cp_ray.serving.limits import Gate
from cp_ray.serving.origins import origins
from cp_ray.serving.replica import Replica
from cp_ray.serving.service import Service
from cp_ray.serving.spec import ServeSpec, Settings, check_paths
from cp_ray.serving.versions import Versions

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve.handle import DeploymentHandle

__all__ = ["Gateway"]


class Gateway:
    """One for an endpoint, so that limits and versions have one place."""

    def __init__(self, spec: ServeSpec, settings: Settings, engines: "DeploymentHandle[Replica]") -> None:
        from cp_ray.serving.handles import Engines

        check_paths(settings)
        versions = Versions(spec.models, Path(settings.versions).expanduser() if settings.versions else None)
        languages = {locale.split("-")[0].lower() for model in spec.models for locale in model.locales}
        self._service = Service(
            backend=Engines(engines),
            # Clients need not know where it lies on this machine.
            base=Path(spec.base).name if Path(spec.base).is_dir() else spec.base,
            models=spec.models,
            cultures=spec.known_cultures,
            keys=read_keys(settings.keys, required=settings.keys_required),
            gate=Gate(settings.max_under_way),
            identify=LanguageOf(languages) if languages else None,
            versions=versions,
            log=RequestLog(settings.request_log, prompts=settings.log_prompts),
            timeout_s=settings.timeout_s,
            answer_tokens=settings.answer_tokens,
            max_answer_tokens=settings.max_answer_tokens,
            origins=origins(versions.adapters),
            adapters=Path(settings.adapters).expanduser() if settings.adapters else None,
        )

    def drain(self) -> int:
        """Take no more requests: how many are still under way."""
        self._service.draining = True
        return self._service.gate.under_way

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from cp_ray.serving.api import build_api

        return build_api(self._service)
