"""What a run leaves: adapters as PEFT folders, or whole models, each with a card."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cp_ray.records import TrainPoint
from cp_ray.training.adapt import Adapters
from cp_ray.training.card import model_card
from cp_ray.training.config import AdapterConfig, TrainConfig, hub_name
from cp_ray.training.data import Learnt

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = ["save_adapter", "save_model"]


def save_adapter(
    out: "Folder",
    adapters: Adapters,
    config: TrainConfig,
    adapter: AdapterConfig,
    weights: Mapping[str, Tensor],
    points: Sequence[TrainPoint],
    learnt: Learnt,
) -> None:
    """A PEFT folder: `adapter_config.json`, `adapter_model.safetensors`, `README.md`."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    lora = LoraConfig(
        # The name that others know the base by; the folder it was loaded from means nothing elsewhere.
        base_model_name_or_path=hub_name(config.base_model),
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        use_dora=adapters.dora,
        target_modules=adapters.targets,
        layers_to_transform=adapters.layers,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    with _published(out) as local:
        lora.save_pretrained(str(local))
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, local / "adapter_model.safetensors",
                  metadata={"format": "pt"})  # fmt: skip
        (local / "README.md").write_text(model_card(config, adapter, points, learnt), encoding="utf-8")


def save_model(
    out: "Folder",
    base: Any,
    tokenizer: Any,
    config: TrainConfig,
    adapter: AdapterConfig,
    weights: Mapping[str, Tensor],
    points: Sequence[TrainPoint],
    learnt: Learnt,
) -> None:
    """A transformers folder with all weights, in the dtype of the base."""
    with _published(out) as local:
        whole = {name: tensor.to(base.dtype) for name, tensor in weights.items()}
        base.save_pretrained(local, state_dict=whole)
        tokenizer.save_pretrained(local)
        (local / "README.md").write_text(model_card(config, adapter, points, learnt), encoding="utf-8")


@contextlib.contextmanager
def _published(out: "Folder") -> Iterator[Path]:
    """A local folder that is copied to `out` at the end."""
    import pyarrow.fs as pafs

    with tempfile.TemporaryDirectory(prefix="cp_ray-adapter-") as local:
        yield Path(local)
        out.filesystem.create_dir(out.path, recursive=True)
        pafs.copy_files(local, out.path, destination_filesystem=out.filesystem)
