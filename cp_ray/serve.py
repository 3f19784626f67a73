"""`cp-ray serve RUN` and `cp-ray key NAME`: a run's culture models behind one endpoint, and keys for it."""

import signal
import sys
import threading
import time
from collections.abc import Sequence

from cp_ray.cluster import connected
from cp_ray.cultures import Culture, restored
from cp_ray.errors import ConfigError
from cp_ray.folder import Folder
from cp_ray.llm.contents import check_contents
from cp_ray.pipeline import Run
from cp_ray.recipe import Parser
from cp_ray.serving.chat import ModelSpec
from cp_ray.serving.keys import read_keys
from cp_ray.serving.routing import check_keys
from cp_ray.serving.spec import ServeSpec, Settings, check_paths

__all__ = ["key_command", "serve_command", "trained", "until_told"]

_APPLICATION = "cultures"
_STOPS = (signal.SIGTERM, signal.SIGINT)


def serve_command(arguments: Sequence[str]) -> None:
    """Serve until the process is told to stop; then answer what is under way and end; told again, end at once.

    Raises:
        ConfigError: an argument breaks its rule, or the run has no trained adapter.
        BaseModelError: an adapter or the base cannot be loaded.
    """
    parser = Parser(prog="cp-ray serve", description="Serve a run's culture models.", allow_abbrev=False)
    parser.add_argument("run", help="run folder, such as runs/demo")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1 (default: 8000)")
    parser.add_argument("--keys", help="YAML file of API keys, made with `cp-ray key`; without it anybody may ask")
    parser.add_argument("--engine", default="cp_ray", help="cp_ray or vllm, which the extra `vllm` installs")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs of a replica of the engine (default: 1)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a replica (default: 0)")
    parser.add_argument("--dtype", help="bfloat16 or float32 (default: the faster one here)")
    parser.add_argument("--replicas", type=int, default=1, help="of the engine (default: 1)")
    parser.add_argument("--max-rows", type=int, default=32, help="chats answered together (default: 32)")
    parser.add_argument("--adapters", help="folder in which new versions of adapters are found")
    parser.add_argument("--versions", help="file in which it is kept which versions answer")
    parser.add_argument("--log", default="", metavar="FILE", help="a line of JSON for each request, without prompts")
    given = parser.parse_args(arguments)
    if not 0 < given.port < 65536:
        raise ConfigError(f"port: must be between 1 and 65535, got {given.port}")
    settings = Settings(
        engine=given.engine, num_cpus=given.cpus, num_gpus=given.gpus, dtype=given.dtype, replicas=given.replicas,
        max_rows=given.max_rows, keys=given.keys, adapters=given.adapters, versions=given.versions,
        request_log=given.log,
    )  # fmt: skip
    # What is wrong with files is told before anything starts.
    check_paths(settings)
    keys = read_keys(given.keys) if given.keys else None
    spec = trained(Run(given.run, "run"), given.run)
    if keys is not None:
        check_keys(keys, [model.card(spec.base) for model in spec.models])
    from cp_ray.serving.app import serving

    with connected(), serving(spec, name=_APPLICATION, route_prefix="/", port=given.port, settings=settings) as url:
        until_told(f"{url}  models: {', '.join(m.id for m in spec.models)}  (Ctrl-C stops)")
        _drain()


def key_command(arguments: Sequence[str]) -> None:
    """Print a new key, and what goes into the file of keys for it."""
    from cp_ray.serving.keys import entry_text, new_key

    parser = Parser(prog="cp-ray key", description="A new API key for `cp-ray serve`.", allow_abbrev=False)
    parser.add_argument("name", help="its holder's")
    given = parser.parse_args(arguments)
    key, sha256 = new_key()
    entry = entry_text(given.name, sha256)
    print(f"# The key, to be given to its holder; it cannot be shown again:\n#   {key}")
    print(f"# For the file of keys, under `keys:`:\n{entry}", end="")


def trained(run: Run, root: str) -> ServeSpec:
    """What to serve: the adapters, or whole models, of the run's last trainings, and their base.

    Raises:
        ConfigError: nothing has been trained, or on a base that has become another since.
    """
    adapters: dict[str, tuple[Culture, Folder]] = {}
    base = unified = None
    for folder in run.last("train"):
        manifest = folder.manifest()
        assert manifest is not None
        check_contents(manifest.config["base_model"], manifest.config.get("base_contents"))
        base = str(manifest.config["base_model"])
        for adapter in manifest.config["adapters"]:
            where = folder / ("models" if manifest.config["method"] == "full" else "adapters") / adapter["name"]
            if len(adapter["cultures"]) == 1:
                culture = restored(adapter["cultures"][0])
                adapters[culture.id] = (culture, where)
            else:
                unified = where
    if base is None:
        raise ConfigError(f"run: {root!r} has no trained adapter; run a recipe up to its step train first")
    spec = ServeSpec.of_cultures(base, dict(adapters.values()), unified)
    return ServeSpec(base, (*spec.models, ModelSpec("base")), spec.cultures)


def until_told(ready: str) -> None:
    """Print that all is ready, and wait for SIGTERM or SIGINT; another one after it ends the process at once."""
    stop = threading.Event()
    # Now, since Ray has put a handler of its own in the place of any before it, which aborts.
    for number in _STOPS:
        signal.signal(number, lambda *_: stop.set())
    print(ready, flush=True)
    stop.wait()
    for number in _STOPS:
        signal.signal(number, signal.SIG_DFL)


def _drain() -> None:
    """Answer what is under way, which ends: a request has a time-out of its own."""
    from ray import serve

    gateway, told = serve.get_app_handle(_APPLICATION), False
    while left := gateway.drain.remote().result():
        if not told:
            print(f"under way, and answered first: {left}  (Ctrl-C again ends at once)", file=sys.stderr)
        told = True
        time.sleep(0.2)
