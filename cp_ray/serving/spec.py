"""What is served, and how."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from cp_ray.cultures import CULTURES, Culture, one_of, read_cultures
from cp_ray.errors import ConfigError
from cp_ray.serving.chat import ModelSpec
from cp_ray.serving.routing import AUTO, UNIFIED
from cp_ray.survey.asking import persona

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = ["ServeSpec", "Settings", "check_paths", "parse"]

_DTYPES = ("bfloat16", "float32")
_ENGINES = ("cp_ray", "vllm")


@dataclass(frozen=True, slots=True)
class ServeSpec:
    """What is served behind one endpoint."""

    base: str
    """`smollm2`, a folder, or a Hugging Face id."""
    models: tuple[ModelSpec, ...]
    cultures: tuple[Culture, ...] = ()
    """Those of the models that are not in cp_ray's own table."""

    def __post_init__(self) -> None:
        ids = [model.id for model in self.models]
        if not self.base:
            raise ConfigError("base: must be smollm2, a folder or a Hugging Face id, got ''")
        if not ids:
            raise ConfigError("models: needs at least one, got none; name the base or an adapter")
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ConfigError(f"models: id {twice[0]!r} stands twice; give each its own")
        if AUTO in ids:
            raise ConfigError(f"models: id {AUTO!r} is what a request says that names no model; choose another")

    @classmethod
    def of_cultures(
        cls, base: str, adapters: "Mapping[Culture, Folder]", unified: "Folder | None" = None
    ) -> "ServeSpec":
        """A model per culture, called by the culture's id, with the system prompt that it was trained with."""
        models = [
            ModelSpec(c.id, folder.uri, culture=c.id, language=c.language, system=persona(c), locales=c.locales)
            for c, folder in adapters.items()
        ]
        if unified is not None:
            models.append(ModelSpec(UNIFIED, unified.uri))
        return cls(base, tuple(models), tuple(adapters))

    @property
    def known_cultures(self) -> tuple[Culture, ...]:
        """The cultures of its models."""
        table = CULTURES | {culture.id: culture for culture in self.cultures}
        return tuple(table[m.culture] for m in self.models if m.culture in table)


@dataclass(frozen=True, slots=True)
class Settings:
    """How it is served."""

    engine: str = "cp_ray"
    """What computes the answers: `cp_ray`, this project's own, or `vllm`, which the extra `vllm` installs."""
    num_cpus: float = 1
    """CPUs that a replica of the engine takes from the cluster."""
    num_gpus: float = 0
    """GPUs of a replica. vLLM takes whole ones and splits the base over several; on none it computes on CPUs."""
    threads: int | None = None
    """That a replica computes with; None: as many as its CPUs. vLLM chooses its own."""
    dtype: str | None = None
    """What it computes in: `bfloat16`, `float32`, or None for the faster one where it runs. In float32 a request with a
    seed is answered alike whatever is answered beside it; bfloat16 rounds so coarsely that neighbours may change a
    word."""
    replicas: int = 1
    max_replicas: int | None = None
    """More of them come while there is work for them; None: there are always `replicas`."""
    max_rows: int = 32
    """Chats that a replica answers together."""
    max_tokens: int = 65_536
    """That its cache of keys and values may hold. vLLM's fills the GPU; there it is the most of one chat. On CPUs it
    holds so many, and takes the memory for them when it starts."""
    answer_tokens: int = 256
    """The length of a chat's answer where none is asked for (`max_tokens`), or what the context has room for."""
    max_answer_tokens: int = 4_096
    """The longest answer that may be asked for; the context may end it sooner. What is asked for counts in full towards
    a replica's `max_tokens` while the answer is made, so that one long answer can make others wait."""
    max_adapters: int = 64
    """On its base at once."""
    prefix_mib: int = 2_048
    """Memory of a replica for the keys and values of chats that may go on, which fills in time; 0: none are kept. Each
    API key's are found by its own requests alone. vLLM keeps them, unless it is 0, in what its GPU has."""
    max_under_way: int = 256
    """Requests answered or waiting; more are told to come again (429). While keys that had more to themselves give
    way to others there may be up to three times as many."""
    timeout_s: float = 600.0
    keys: str | None = None
    """File of API keys, as `cp_ray.serving.keys` has it; None: the variable CP_RAY_KEYS, or no keys."""
    keys_required: bool = False
    """Whether it refuses to start without keys, for a server that others can reach."""
    adapters: str | None = None
    """Folder in which new versions of adapters are found."""
    versions: str | None = None
    """File in which it is kept which versions answer; None: a restart begins with the first."""
    request_log: str = ""
    """File, or `-` for the standard output; empty: none."""
    log_prompts: bool = False

    def __post_init__(self) -> None:
        lengths = ("max_tokens", "answer_tokens", "max_answer_tokens")
        for name in ("replicas", "max_rows", *lengths, "max_adapters", "max_under_way"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}: must be a whole number of at least 1, got {value!r}")
        if self.answer_tokens > self.max_answer_tokens:
            raise ConfigError(
                f"answer_tokens: must be at most max_answer_tokens ({self.max_answer_tokens}), got {self.answer_tokens}"
            )
        if not isinstance(self.prefix_mib, int) or self.prefix_mib < 0:
            raise ConfigError(f"prefix_mib: must be a whole number of at least 0, got {self.prefix_mib!r}")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ConfigError(f"max_replicas: must be at least replicas ({self.replicas}), got {self.max_replicas}")
        if self.engine not in _ENGINES:
            raise ConfigError(f"engine: must be {' or '.join(_ENGINES)}, got {self.engine!r}")
        if self.dtype not in (None, *_DTYPES):
            raise ConfigError(
                f"dtype: must be {' or '.join(_DTYPES)}, got {self.dtype!r}; leave it out for the faster one"
            )
        for name in ("num_cpus", "num_gpus", "timeout_s"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ConfigError(f"{name}: must be a number of at least 0, got {value!r}")
        if not isinstance(self.keys_required, bool):
            raise ConfigError(f"keys_required: must be true or false, got {self.keys_required!r}")
        if self.timeout_s == 0:
            raise ConfigError("timeout_s: must be above 0, got 0")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads: must be at least 1, got {self.threads}; leave it out for as many as its CPUs")
        if self.engine == "vllm" and self.threads is not None:
            raise ConfigError("threads: vLLM chooses its own; leave it out")
        if self.engine == "vllm" and self.num_gpus != int(self.num_gpus):
            raise ConfigError(f"num_gpus: vLLM takes whole GPUs, got {self.num_gpus}; give 1 or more, or 0 for none")


def check_paths(settings: Settings) -> None:
    """Whether what the gateway is to write and to look into is there, on this machine.

    Raises:
        ConfigError: something is not.
    """
    for name in ("request_log", "versions"):
        given = getattr(settings, name)
        if given and (name, given) != ("request_log", "-") and not _can_write(Path(given).expanduser(), name):
            raise ConfigError(
                f"{name}: must be a file that can be written, in a folder that is there, got {given!r}; make its "
                f"folder, or name another file"
            )
    if settings.adapters is not None and not Path(settings.adapters).expanduser().is_dir():
        raise ConfigError(
            f"adapters: must be a folder that is there, got {settings.adapters!r}; make it, or correct it"
        )


def _can_write(file: Path, name: str) -> bool:
    # A file of versions is replaced whole, by one that is written beside it.
    written = file if file.exists() and name != "versions" else file.parent
    return not file.is_dir() and file.parent.is_dir() and os.access(written, os.W_OK)


def parse(args: Mapping[str, Any]) -> tuple[ServeSpec, Settings]:
    """The `args` of a Serve config file: `base`, `models`, those of `Settings`, and `cultures_file` as in recipes.

    Raises:
        ConfigError: a field is missing, unknown, of another type, or breaks its rule; or a culture is unknown.
    """
    types = {"base": str, "models": list[dict[str, Any]], "cultures_file": str | None, **get_type_hints(Settings)}
    given = _typed("args", args, types)
    for name in ("base", "models"):
        if name not in given:
            raise ConfigError(f"args: lacks {name}; base and models are expected")
    models = tuple(_model(f"models: {number}", model) for number, model in enumerate(given.pop("models"), 1))
    base, file = given.pop("base"), given.pop("cultures_file", None)
    known = CULTURES | (read_cultures(Path(file)) if file else {})
    named = dict.fromkeys(_culture(model, known) for model in models if model.culture)
    return ServeSpec(base, models, tuple(c for c in named if c is not CULTURES.get(c.id))), Settings(**given)


def _model(where: str, fields: Mapping[str, Any]) -> ModelSpec:
    given = _typed(where, fields, get_type_hints(ModelSpec))
    if "id" not in given:
        raise ConfigError(f"{where}: lacks id; name it, for example after its culture")
    return ModelSpec(**given)


def _culture(model: ModelSpec, known: Mapping[str, Culture]) -> Culture:
    try:
        return one_of(model.culture, known, f"models: {model.id}: culture")
    except ConfigError as error:
        raise ConfigError(f"{error}; those of your own come with cultures_file") from error


def _typed(where: str, values: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    """Values of YAML as what they are declared to be; nothing is turned into another type but a list into a tuple."""
    from pydantic import TypeAdapter, ValidationError

    unknown = sorted(str(name) for name in values if name not in types)
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}; known: {', '.join(types)}")
    found = {}
    for name, value in values.items():
        try:
            # Strict validation takes a list for a tuple in JSON alone. What JSON lacks, such as a date, fits nothing.
            found[name] = TypeAdapter(types[name]).validate_json(json.dumps(value, default=lambda _: {}), strict=True)
        except (ValidationError, TypeError, ValueError) as error:
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            rule = said.replace("Input should be", "must be")
            raise ConfigError(f"{name if where == 'args' else f'{where}: {name}'}: {rule}, got {value!r}") from error
    return found
