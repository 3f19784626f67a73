"""`cp-ray merge ADAPTER --to FOLDER`: an adapter put into its base, as a model that needs no PEFT.

safetensors   a folder for transformers, vLLM and the like: weights, configuration, tokenizer, card
gguf          one file for llama.cpp and the like, made of that by llama.cpp's own converter, where it is installed
"""

import json
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from cp_ray.errors import BaseModelError, ConfigError, RunFolderError
from cp_ray.llm.embedded import SMOLLM2_ID, load_base
from cp_ray.llm.hub import first_line
from cp_ray.recipe import Parser, check_choice

__all__ = ["Form", "merge", "merge_command"]

Form = Literal["safetensors", "gguf"]

_CONVERTERS = ("convert_hf_to_gguf.py", "convert_hf_to_gguf", "llama-convert-hf-to-gguf", "convert-hf-to-gguf")
"""llama.cpp's converter, by the names under which it is installed."""

_CARD = """\
---
base_model: {base}
library_name: {library}
tags: [culture, survey, merged]
---
{text}

## Merged

The weights of {base} with those of the adapter added ({what}), by `cp-ray merge`: no adapter is needed, and none of
another culture fits on top.
"""


def merge_command(arguments: Sequence[str]) -> None:
    """The command line: an adapter, and where to."""
    parser = Parser(prog="cp-ray merge", description="An adapter put into its base.", allow_abbrev=False)
    parser.add_argument("adapter", help="a PEFT folder, such as runs/demo/train-0123456789/adapters/german")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a folder that is not there yet")
    parser.add_argument("--base", metavar="NAME", help="smollm2, a Hugging Face id or a folder; default: the adapter's")
    parser.add_argument("--format", default="safetensors", help="safetensors or gguf (default: safetensors)")
    given = parser.parse_args(arguments)
    check_choice("format", given.format, *get_args(Form))
    merge(Path(given.adapter), Path(given.to), base=given.base, form=given.format)
    print(given.to)


def merge(adapter: Path, to: Path, *, base: str | None = None, form: Form = "safetensors") -> None:
    """Merge a PEFT adapter into its base model.

    The weights keep the dtype that the base has on disk. Nothing is in `to` before everything is.

    Args:
        adapter: a PEFT folder with safetensors, or one that holds it as `adapter`.
        to: a folder that is not there, or is empty.
        base: `smollm2`, a Hugging Face id or a folder; None for the one that the adapter names.
        form: `gguf` leaves `model.gguf` and a card.

    Raises:
        BaseModelError: the adapter or the base cannot be loaded, they do not fit each other, or the converter fails.
        ConfigError: no converter to GGUF is installed.
        RunFolderError: something is in `to`, or it cannot be written.
    """
    converter = _converter() if form == "gguf" else None
    adapter, config = _adapter(adapter)
    name = base or _base_of(config, adapter)
    with _published(to) as work:
        model, tokenizer = _merged(adapter, name)
        folder = work if converter is None else work / "safetensors"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if converter is not None:
            _convert(converter, folder, work / "model.gguf")
            shutil.rmtree(folder)
        (work / "README.md").write_text(_card(adapter, config, name, form), encoding="utf-8")


def _adapter(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A PEFT folder and its configuration; the folder of a training step stands for its adapter if it has but one."""
    inside = sorted(path.parent for path in folder.glob("adapters/*/adapter_config.json"))
    if len(inside) > 1:
        names = ", ".join(path.name for path in inside)
        raise BaseModelError(f"adapter: {folder} has {len(inside)} adapters ({names}); give one, {inside[0]}")
    found = inside[0] if inside else folder
    if (found / "config.json").is_file() and not (found / "adapter_config.json").exists():
        raise BaseModelError(f"adapter: {found} is a whole model, which needs no merge; give a PEFT folder")
    try:
        config: dict[str, Any] = json.loads((found / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"adapter: cannot read {found / 'adapter_config.json'} ({first_line(error)}); give a PEFT folder"
        ) from error
    if not isinstance(config, dict):
        raise BaseModelError(f"adapter: {found / 'adapter_config.json'} must hold an object; give a PEFT folder")
    if not (found / "adapter_model.safetensors").is_file():
        raise BaseModelError(f"adapter: no adapter_model.safetensors in {found}; .bin files are pickles and not read")
    return found, config


def _base_of(config: dict[str, Any], adapter: Path) -> str:
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise BaseModelError(f"adapter: {adapter} does not name its base; give --base")
    return "smollm2" if name == SMOLLM2_ID else name


def _merged(adapter: Path, base: str) -> tuple[Any, Any]:
    """The base with the adapter's weights in its own, and its tokenizer."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    model, tokenizer = load_base(base, chat=False, dtype="auto")
    try:
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
            stored = set(file.keys())
        # PEFT passes over weights that find no place, and warns of places that find no weights: neither is merged here.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")
            adapted: Any = PeftModel.from_pretrained(model, str(adapter))
        odd = stored ^ set(get_peft_model_state_dict(adapted))
        if not odd:
            return adapted.merge_and_unload(safe_merge=True), tokenizer
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise BaseModelError(f"adapter: {adapter} cannot be put into {base!r} ({first_line(error)})") from error
    raise BaseModelError(f"adapter: {adapter} does not fit {base!r} (at {min(odd)}); it was made for another base")


def _converter() -> str:
    for name in _CONVERTERS:
        if (found := shutil.which(name)) is not None:
            return found
    raise ConfigError(
        "format: gguf is made by llama.cpp's convert_hf_to_gguf.py, which is not on the PATH; get llama.cpp "
        "(https://github.com/ggml-org/llama.cpp), or merge to safetensors and convert that folder elsewhere"
    )


def _convert(converter: str, folder: Path, file: Path) -> None:
    command = [converter, str(folder), "--outfile", str(file), "--outtype", "auto"]
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if ended.returncode != 0 or not file.is_file():
        said = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
        why = " ".join(said[-1].split())
        raise BaseModelError(f"format: {converter} could not convert the model ({why}); merge to safetensors instead")


def _card(adapter: Path, config: dict[str, Any], base: str, form: Form) -> str:
    """The adapter's card for what it has become."""
    file = adapter / "README.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else "# A merged adapter"
    if text.startswith("---\n"):
        text = text[4:].partition("\n---\n")[2]
    what = f"{'DoRA' if config.get('use_dora') else config.get('peft_type')}, rank {config.get('r')}"
    return _CARD.format(
        base=SMOLLM2_ID if base == "smollm2" else base,
        library="gguf" if form == "gguf" else "transformers",
        text=text.strip(),
        what=what,
    )


@contextmanager
def _published(to: Path) -> Iterator[Path]:
    """A folder to work in, which takes its place when all is done, and is gone if something goes wrong."""
    to = to.expanduser().absolute()
    try:
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise RunFolderError(f"to: something is in {to}; choose another folder")
        to.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
        try:
            work.chmod(0o755)
            yield work
            os.replace(work, to)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise RunFolderError(f"to: {to} cannot be written ({error}); choose another folder") from error
