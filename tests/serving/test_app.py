import asyncio
import json
import math
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import psutil
import pytest
import yaml

from cp_ray.errors import BaseModelError, ConfigError
from cp_ray.serving.app import ServeSpec, Settings, app, build_app, serving, start
from cp_ray.serving.chat import ModelSpec
from cp_ray.serving.gateway import Gateway
from cp_ray.serving.spec import parse
from tests.processes import ray_processes
from tests.tiny import make_adapter, make_base


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_culture_models_are_served_behind_one_endpoint_and_two_applications_live_at_once(
    embedded_base: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(embedded_base, tmp_path / "german", 1, std=0.5)
    tiny = ServeSpec(str(make_base(tmp_path / "tiny")), (ModelSpec("tiny"),))
    spec = ServeSpec("smollm2", (ModelSpec("base"), ModelSpec("german", adapter.as_uri(), "german", "German")))
    exact = Settings(dtype="float32")  # in bfloat16 an answer may depend on what is answered beside it
    with serving(spec, name="cultures", route_prefix="/cultures", settings=exact) as url:
        with serving(tiny, name="tiny", route_prefix="/tiny", settings=Settings(max_rows=4)) as other:
            assert url.endswith("/cultures/v1")
            assert other == url.replace("cultures", "tiny")
            assert [m.id for m in openai.OpenAI(base_url=other, api_key="none").models.list()] == ["tiny"]
        engine = engine_of("cultures")
        assert asks_for_huge_pages(engine)
        assert copies_of_adapters(engine)
        texts = asyncio.run(ask_all(url, ["base", "german", "base", "german"]))
        assert "Paris" in texts[0]
        assert texts[0] == texts[2]
        assert texts[1] == texts[3] != texts[0]
        with pytest.raises(openai.NotFoundError, match="known: base, german"):
            asyncio.run(ask_all(url, ["klingon"]))
    with pytest.raises(openai.NotFoundError):
        asyncio.run(ask_all(url, ["base"]))
    assert not copies_of_adapters(engine)


def engine_of(application: str) -> psutil.Process:
    (engine,) = ray_processes(f"ServeReplica:{application}:engine")
    return engine


def copies_of_adapters(engine: psutil.Process) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"cp_ray-adapters-{engine.pid}-*"))


def asks_for_huge_pages(engine: psutil.Process) -> bool:
    """Whether its heap does, where glibc has to ask; what it gets is the kernel's affair."""
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not mode.exists() or "[madvise]" not in mode.read_text():
        return True  # they are given to everybody, or to nobody
    heap = Path(f"/proc/{engine.pid}/smaps").read_text().partition("[heap]")[2]
    flags = next(line for line in heap.splitlines() if line.startswith("VmFlags"))
    return "hg" in flags.split()


async def ask_all(url: str, models: list[str]) -> list[str]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        calls = [
            client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": "What is the capital of France?"}],
                temperature=0,
                max_tokens=10,
            )
            for model in models
        ]
        return [c.choices[0].message.content or "" for c in await asyncio.gather(*calls)]


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_an_application_that_is_replaced_or_ends_answers_what_is_under_way(tmp_path: Path) -> None:
    spec = ServeSpec(str(make_base(tmp_path / "base", context=4096)), (ModelSpec("base"),))
    named: Any = {"name": "going", "route_prefix": "/going"}

    def stream(url: str) -> Iterator[Any]:
        chunks: Any = openai.OpenAI(base_url=url, api_key="none", max_retries=0).chat.completions.create(
            model="base", messages=[{"role": "user", "content": "tell me"}], max_tokens=1_500, stream=True, seed=1
        )
        yield from chunks

    def ended(chunks: Iterator[Any]) -> bool:
        return [chunk.choices[0].finish_reason for chunk in chunks][-1] is not None

    with ThreadPoolExecutor() as threads:
        with serving(spec, **named, settings=Settings(num_cpus=0.5)) as url:
            before, later = stream(url), stream(url)
            next(before)
            replaced = threads.submit(ended, before)
            start(spec, **named, settings=Settings(num_cpus=0.5, max_rows=4))
            next(later)
            left = threads.submit(ended, later)
        assert replaced.result()
        assert left.result()


def test_replicas_have_as_long_to_end_as_a_request_has() -> None:
    gateway: Any = build_app(ServeSpec("smollm2", (ModelSpec("base"),)), Settings(timeout_s=77))._bound_deployment
    (engine,) = [argument for argument in gateway.init_args if hasattr(argument, "_bound_deployment")]
    several = [gateway, engine._bound_deployment]
    assert [one._deployment_config.graceful_shutdown_timeout_s for one in several] == [77, 77]


class Going:
    """Serve, where an application takes longer to go than `delete` waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        monkeypatch.setattr("cp_ray.serving.app.start", lambda *_, **__: "http://there")
        monkeypatch.setattr("cp_ray.serving.app._LOOK_S", 0)
        monkeypatch.setattr("ray.serve.delete", self.delete)
        monkeypatch.setattr("ray.serve.status", self.status)

    def delete(self, name: str, _blocking: bool = True) -> None:
        if _blocking:
            raise TimeoutError("Some of these applications weren't deleted after 60s")

    def status(self) -> Any:
        self.looks += 1
        return SimpleNamespace(applications={"going": None} if self.looks < 3 else {})


def test_the_end_waits_for_answers_however_long_and_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ServeSpec("smollm2", (ModelSpec("base"),))
    going = Going(monkeypatch)
    with serving(spec, name="going", route_prefix="/going"):
        pass
    assert going.looks == 3
    going.looks = 0
    with pytest.raises(KeyError, match="inside"), serving(spec, name="going", route_prefix="/going"):
        raise KeyError("inside")
    assert going.looks == 0, "it is not waited for"


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_an_adapter_that_is_not_there_gives_one_clear_line(tmp_path: Path) -> None:
    spec = ServeSpec(str(make_base(tmp_path / "tiny")), (ModelSpec("german", str(tmp_path / "nowhere")),))
    with (
        pytest.raises(BaseModelError, match=r"adapter 'german': cannot read .*nowhere"),
        serving(spec, name="bad", route_prefix="/bad"),
    ):
        pass


@pytest.mark.parametrize("file", ["local.yaml", "config.yaml", "rayservice.yaml"])
def test_the_config_files_in_the_repository_build_an_application(file: str) -> None:
    path = Path(__file__).parents[2] / "serve" / file
    whole: Any = yaml.safe_load(path.read_text())
    if file == "rayservice.yaml":
        whole = yaml.safe_load(whole["spec"]["serveConfigV2"])
    config = whole["applications"][0]
    assert whole["http_options"]["host"] == "127.0.0.1" or config["args"]["keys_required"] is True
    assert config["import_path"] == "cp_ray.serving.app:app"
    assert app(config["args"]) is not None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"base": "smollm2", "models": []}, "at least one"),
        ({"base": "smollm2", "models": [{"id": "a"}, {"id": "a"}]}, "'a' stands twice"),
        ({"base": "smollm2", "models": [{"id": ""}]}, "needs an id"),
        ({"base": "smollm2", "models": [{"id": "a", "colour": "red"}]}, "colour"),
        ({"models": [{"id": "a"}]}, "args: lacks base"),
        ({"base": "smollm2"}, "args: lacks models"),
        ({"base": "smollm2", "models": "a"}, "models: must be a valid array, got 'a'"),
        ({"base": "smollm2", "models": ["a"]}, "models: must be an object"),
        ({"base": "smollm2", "models": [{"culture": "german"}]}, "models: 1: lacks id"),
        ({"base": None, "models": [{"id": "a"}]}, "base: must be a valid string, got None"),
        ({"base": "", "models": [{"id": "a"}]}, "base: must be smollm2, a folder or"),
        ({"base": "smollm2", "models": [{"id": 5}]}, "models: 1: id: must be a valid string, got 5"),
        ({"base": "smollm2", "models": [{"id": date(2026, 1, 1)}]}, "models: 1: id: must be a valid string"),
        ({"base": "smollm2", "models": [{"id": "a", "adapter": 5}]}, "adapter: must be a valid string, got 5"),
        ({"base": "smollm2", "models": [{"id": "a", "locales": "de"}]}, "locales: must be a valid array, got 'de'"),
        ({"base": "smollm2", "models": [{"id": "a", "aliases": "ger"}]}, "aliases: must be a valid array, got 'ger'"),
        ({"base": "smollm2", "models": [{"id": "a", "aliases": [5]}]}, "aliases: must be a valid string"),
        (
            {"base": "smollm2", "models": [{"id": "a", "culture": "klingon"}]},
            r"models: a: culture: no culture is called 'klingon'.* those of your own come with cultures_file",
        ),
        ({"base": "smollm2", "models": [{"id": "a"}], "cultures_file": "no.json"}, "no.json cannot be read"),
        ({"base": "smollm2", "models": [{"id": "a"}], "log_prompts": "no"}, "log_prompts: must be a valid boolean"),
        ({"base": "smollm2", "models": [{"id": "a"}], "max_replicas": "8"}, "max_replicas: must be a valid integer"),
        ({"base": "smollm2", "models": [{"id": "a"}], "replicas": True}, "replicas: must be a valid integer"),
        ({"base": "smollm2", "models": [{"id": "a"}], "threads": -2}, "threads: must be at least 1, got -2"),
        ({"base": "smollm2", "models": [{"id": "a"}], "timeout_s": math.nan}, "timeout_s: must be a number.*got nan"),
        ({"base": "smollm2", "models": [{"id": "a"}], "num_gpus": math.inf}, "num_gpus: must be a number.*got inf"),
        ({"base": "smollm2", "models": [{"id": "a"}], "gpu": 1}, "unknown field 'gpu'"),
        ({"base": "smollm2", "models": [{"id": "auto"}]}, "choose another"),
        ({"base": "smollm2", "models": [{"id": "a"}], "max_rows": 0}, "max_rows: must be"),
        ({"base": "smollm2", "models": [{"id": "a"}], "timeout_s": "60"}, "timeout_s: must be a valid number"),
        ({"base": "smollm2", "models": [{"id": "a"}], "keys_required": "yes"}, "keys_required: must be a valid bool"),
        ({"base": "smollm2", "models": [{"id": "a"}], "timeout_s": 0}, "timeout_s: must be above 0"),
        ({"base": "smollm2", "models": [{"id": "a"}], "num_cpus": -1}, "num_cpus: must be"),
        ({"base": "smollm2", "models": [{"id": "a"}], "prefix_mib": -1}, "prefix_mib: must be"),
        ({"base": "smollm2", "models": [{"id": "a"}], "answer_tokens": 0}, "answer_tokens: must be"),
        ({"base": "smollm2", "models": [{"id": "a"}], "answer_tokens": 5_000}, "at most max_answer_tokens"),
        (
            {"base": "smollm2", "models": [{"id": "a"}], "dtype": "int8"},
            "dtype: must be bfloat16 or float32",
        ),
        ({"base": "smollm2", "models": [{"id": "a"}], "engine": "tgi"}, "engine: must be cp_ray or vllm"),
        ({"base": "smollm2", "models": [{"id": "a"}], "engine": "vllm"}, r"pip install -e '\.\[vllm\]'"),
        ({"base": "smollm2", "models": [{"id": "a"}], "engine": "vllm", "threads": 2}, "threads: vLLM chooses"),
        ({"base": "smollm2", "models": [{"id": "a"}], "engine": "vllm", "num_gpus": 0.5}, "num_gpus: vLLM takes"),
    ],
)
def test_a_wrong_config_file_gives_one_clear_line(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        app(args)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("wrong", ["request_log", "versions", "adapters"])
def test_a_path_that_is_not_there_is_told_at_the_start(tmp_path: Path, wrong: str) -> None:
    no_engines: Any = None
    settings = Settings(**{wrong: str(tmp_path / "no" / "where")})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"^{wrong}: must be "):
        Gateway(ServeSpec("smollm2", (ModelSpec("base"),)), settings, no_engines)


def test_a_culture_of_the_user_s_own_comes_from_the_file_that_recipes_read(tmp_path: Path) -> None:
    own = {
        "adjective": "French", "people": "French people", "language": "French", "locales": ["fr"],
        "countries": ["FRA"], "female": "Manon", "male": "Hugo",
    }  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps([{"id": "french", **own}, {"id": "german", **own}]))
    models = [{"id": "fr", "culture": "french", "locales": ["fr", "fr-FR"]}, {"id": "de", "culture": "german"},
              {"id": "el", "culture": "greek"}]  # fmt: skip
    spec, _ = parse({"base": "smollm2", "models": models, "cultures_file": str(tmp_path / "mine.json")})
    assert [(c.id, c.adjective) for c in spec.known_cultures] == [
        ("french", "French"), ("german", "French"), ("greek", "Greek")
    ]  # fmt: skip
    assert spec.models[0].locales == ("fr", "fr-FR")
