"""TRL's SFTTrainer on Ray Train, as Ray's own guide for Hugging Face trainers has it: the peer of `training_kills`.

The guide reports each checkpoint to Ray Train by `RayTrainReportCallback`, and its training function begins anew where
Ray Train starts it anew.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from cp_ray.records import Example

__all__ = ["drive"]

_BATCH, _RANK, _RATE = 4, 4, 1e-2


class _Log(Protocol):
    def step(self, done: int, total: int, **latest: float) -> None: ...


def drive(out: Path, examples: Sequence[Example], log: _Log, every: int) -> None:
    """Train an adapter on two workers, a checkpoint every so many steps, as often as a worker dies.

    Args:
        out: for the adapter, beside the folder `base` with the model.
        examples: what to train on, once.
        log: told of each step by the first worker.
        every: steps from a checkpoint to the next.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    chats = [[{"role": m.role, "content": m.content} for m in example.messages] for example in examples]
    trainer: Any = TorchTrainer(
        _train,
        train_loop_config={"base": str(out.parent / "base"), "out": str(out), "chats": chats, "log": log,
                           "every": every},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(
            name=out.name, storage_path=str(out.parent / "ray"),
            failure_config=FailureConfig(max_failures=-1), checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )  # fmt: skip
    trainer.fit()


def _train(config: dict[str, Any]) -> None:
    import ray.train
    from datasets import Dataset
    from peft import LoraConfig
    from ray.train.huggingface.transformers import RayTrainReportCallback, prepare_trainer
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from cp_ray.llm.embedded import load_base

    first = ray.train.get_context().get_world_rank() == 0

    class Told(TrainerCallback):
        def on_step_end(self, *given: Any, **_: Any) -> None:
            state = given[1]
            if first:
                config["log"].step(state.global_step, state.max_steps)

    report: Any = RayTrainReportCallback  # Ray's own has no types
    model, tokenizer = load_base(config["base"])
    data = Dataset.from_list([{"prompt": chat[:-1], "completion": chat[-1:]} for chat in config["chats"]])
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(dir=Path(config["out"]).parent), num_train_epochs=4,
        per_device_train_batch_size=_BATCH // 2,
        learning_rate=_RATE, report_to="none", use_cpu=True, save_strategy="steps", save_steps=config["every"],
        disable_tqdm=True, dataloader_pin_memory=False, gradient_checkpointing=False, bf16=False,
    )  # fmt: skip
    lora = LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules="all-linear")
    trainer = SFTTrainer(
        model, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=lora,
        callbacks=[Told(), report()],
    )  # fmt: skip
    prepare_trainer(trainer).train()
    if first:
        trainer.save_model(str(Path(config["out"]) / "adapters" / "trl"))
