"""/admin/models: new versions of adapters, for keys of admins."""

import re
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from cp_ray.serving.bodies import Text
from cp_ray.serving.chat import BadRequest
from cp_ray.serving.openai_shapes import Refusal
from cp_ray.serving.service import Service

__all__ = ["add_admin", "inside"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class VersionBody(BaseModel):
    """A new version of a model."""

    version: Text
    adapter: Text
    """Name of its folder in the folder of adapters."""
    share: Share = 0.0
    """Of the requests that it answers from now on."""


class ShareBody(BaseModel):
    """Another share for the version on trial."""

    share: Share


def add_admin(api: FastAPI, service: Service) -> None:
    """Add the routes."""
    traffic = service.traffic

    def state(id: str) -> dict[str, Any]:
        now = traffic.of(id)
        return {
            "id": id,
            "stable": now.stable.version,
            "previous": now.previous.version if now.previous else None,
            "canary": now.canary.version if now.canary else None,
            "share": now.share,
        }

    def checked(request: Request, id: str) -> str:
        key = request.state.call.key
        if not key.admin:
            raise Refusal(403, "this key may not change versions; it is no admin's", code="forbidden")
        return service.router(key).named(id).id

    @api.get("/admin/models/{id}")
    async def versions(id: str, request: Request) -> dict[str, Any]:
        """Which versions of a model answer."""
        return state(checked(request, id))

    @api.post("/admin/models/{id}/versions")
    async def offer(id: str, body: VersionBody, request: Request) -> dict[str, Any]:
        """Load a new version, and give it a share of the traffic once it is there."""
        id = checked(request, id)
        adapter = inside(service.adapters, body.adapter)
        release = traffic.candidate(id, body.version, adapter)
        await service.backend.check(release.name, adapter)
        try:
            traffic.offer(id, release, body.share)
        except Exception:
            await service.backend.forget(release.name)
            raise
        return state(id)

    @api.post("/admin/models/{id}/share")
    async def share(id: str, body: ShareBody, request: Request) -> dict[str, Any]:
        """Give the version on trial another share."""
        traffic.share(checked(request, id), body.share)
        return state(id)

    @api.post("/admin/models/{id}/promote")
    async def promote(id: str, request: Request) -> dict[str, Any]:
        """Let the version on trial answer everything."""
        id = checked(request, id)
        if (gone := traffic.promote(id)) is not None:
            await service.backend.forget(gone.name)
        return state(id)

    @api.post("/admin/models/{id}/rollback")
    async def roll_back(id: str, request: Request) -> dict[str, Any]:
        """Go back to the version before, once it is there."""
        id = checked(request, id)
        before = traffic.before(id)
        if before is not None and before.adapter is not None:
            await service.backend.check(before.name, before.adapter)
        if traffic.before(id) != before:  # a trial that began meanwhile is not to end
            message = f"version: the versions of {id!r} changed meanwhile; look which answer, and ask again"
            raise Refusal(409, message, param="version", code="changed")
        await service.backend.forget(traffic.roll_back(id).name)
        return state(id)


def inside(folder: Path | None, name: str) -> str:
    """The adapter of this name in a folder, and nowhere else, links included.

    Raises:
        BadRequest: there is no such folder, or the name reaches outside.
    """
    if folder is None:
        raise BadRequest("adapter: this server was not told of a folder of adapters; set `adapters`")
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadRequest("adapter: must be the name of a folder, of letters, digits, '.', '_' and '-'")
    root = folder.resolve()
    found = (root / name).resolve()
    if not found.is_relative_to(root) or found == root or not found.is_dir():
        raise BadRequest(f"adapter: there is no {name!r} among the server's adapters")
    return str(found)
