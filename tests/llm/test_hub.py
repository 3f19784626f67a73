"""Base models by id, against a local hub."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Response

from cp_ray.errors import BaseModelError, PlacementError
from cp_ray.llm.embedded import load_base
from tests.conftest import Server
from tests.tiny import make_base

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves one folder as the model `tiny/chat`; knows of others only what is wrong with them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, 0
        self.down = False
        self.app = FastAPI()
        self.app.middleware("http")(self._count)
        self.app.api_route("/{owner}/{name}/resolve/main/{file:path}", methods=["GET", "HEAD"])(self._file)

    async def _count(self, request, go_on):  # type: ignore[no-untyped-def]
        self.calls += 1
        return Response(status_code=503) if self.down else await go_on(request)

    async def _file(self, owner: str, name: str, file: str) -> Response:
        if owner == "gated":
            return _refuse(403, "GatedRepo")
        if (owner, name) not in (("tiny", "chat"), ("tiny", "gguf")):
            return _refuse(401, "RepoNotFound")
        path = self.folder / file
        if name == "gguf" or not path.is_file():
            return _refuse(404, "EntryNotFound")
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return Response(content, headers={"X-Repo-Commit": COMMIT, "ETag": etag})


def _refuse(status: int, code: str) -> Response:
    return Response(status_code=status, headers={"X-Error-Code": code, "X-Repo-Commit": COMMIT})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    hub = Hub(base)
    with Server(hub.app) as server:
        here = server.url.removesuffix("/v1")
        monkeypatch.setattr(constants, "ENDPOINT", here)
        files = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix("https://huggingface.co")
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{here}{files}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub


def told(name: str) -> str:
    with pytest.raises(BaseModelError) as raised:
        load_base(name)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_model_is_fetched_by_its_id_and_then_needs_no_hub(hub: Hub, base: Path) -> None:
    import torch

    model, tokenizer = load_base("tiny/chat")
    here, _ = load_base(str(base))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), here.parameters(), strict=True))
    assert tokenizer.chat_template is not None
    hub.down, before = True, hub.calls
    again, _ = load_base("tiny/chat")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert hub.calls == before + 1, "asked once, and then no more"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gated/llama", "'gated/llama' is gated; ask for access at http://127.0.0.1"),
        ("nobody/nothing", "no folder 'nobody/nothing', and no such model at http://127.0.0.1"),
        ("tiny/gguf", "'tiny/gguf' has no config.json and is none for transformers; give a folder"),
        ("a/b/c", "'a/b/c' is neither a folder nor a Hugging Face id; give a folder"),
        ("./nowhere", "no folder './nowhere'; give a folder"),
    ],
)
def test_what_cannot_be_had_is_told(hub: Hub, name: str, said: str) -> None:
    assert told(name).startswith(f"base model: {said}")
    assert hub.calls <= 1


def test_a_hub_that_is_not_reached_is_asked_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.down = True
    assert "'tiny/chat', it is not in the cache, and http://127.0.0.1" in told("tiny/chat")
    assert hub.calls == 1
    nowhere = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    assert "cannot be reached (" in told("tiny/chat")


def test_a_model_of_another_kind_is_told(tmp_path: Path, base: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTModel"]}')
    for file in base.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert told(str(tmp_path)).startswith(f"base model: cannot load '{tmp_path}' (")


def test_a_base_that_a_gpu_has_no_room_for_is_told_in_a_line(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def to(model: torch.nn.Module, device: str) -> None:
        assert device == "cuda"
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    monkeypatch.setattr("transformers.PreTrainedModel.to", to)
    with pytest.raises(PlacementError, match=r"^base_model: .+ does not fit into the memory of cuda; give a smaller"):
        load_base(str(base), device="cuda")
