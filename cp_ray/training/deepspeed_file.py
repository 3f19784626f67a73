"""DeepSpeed settings of a user's own, which go over those that are chosen."""

import contextlib
import difflib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cp_ray.errors import ConfigError
from cp_ray.llm.hub import first_line
from cp_ray.training.config import Placement

__all__ = ["as_asked", "own_settings", "read_settings"]

_OURS = ("bf16", "fp16", "gradient_accumulation_steps", "gradient_clipping", "optimizer", "scheduler",
         "torch_autocast", "train_batch_size", "train_micro_batch_size_per_gpu")  # fmt: skip
"""What a user's own settings may not say: the run's configuration does."""


def as_asked(placement: Placement) -> Placement:
    """A placement with the stage and offload that the user's own DeepSpeed settings name.

    Raises:
        ConfigError: they cannot be used, or name others than the placement.
    """
    if not placement.deepspeed:
        return placement
    zero = own_settings(placement.deepspeed).get("zero_optimization", {})
    parsed = _parsed(zero)
    stage = int(parsed.stage) if "stage" in zero else None
    left = [name for name in ("optimizer", "param") if _leaves(getattr(parsed, f"offload_{name}"))]
    if "param" in left and stage not in (None, 3):
        raise ConfigError(f"deepspeed: offload_param needs stage 3, got {stage}; give that, or take it out")
    offload = "all" if "param" in left else "optimizer" if left else "none" if "offload_optimizer" in zero else None
    for name, asked, theirs in (
        ("zero_stage", placement.zero_stage, stage), ("offload", placement.offload, offload),
    ):  # fmt: skip
        if theirs is not None and asked not in (None, theirs):
            raise ConfigError(f"{name}: is {asked}, but the DeepSpeed settings have {theirs}; give one of them")
    return replace(
        placement,
        zero_stage=placement.zero_stage if stage is None else stage,
        offload=placement.offload if offload is None else offload,
    )


def _leaves(offload: Any) -> bool:
    """Whether what DeepSpeed has read of an offload moves anything."""
    return offload is not None and str(getattr(offload.device, "value", offload.device)) != "none"


def read_settings(path: str) -> dict[str, Any]:
    """A user's DeepSpeed settings, from a JSON file.

    Raises:
        ConfigError: it cannot be read, or what it holds cannot be used, or is nothing that DeepSpeed knows.
    """
    try:
        found = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"deepspeed: cannot read {path} ({error}); give a JSON file") from error
    if not isinstance(found, dict):
        raise ConfigError(f"deepspeed: {path} must hold an object, got {type(found).__name__}")
    _check_known(own_settings(found))
    return found


class _Asked(dict[str, Any]):
    """Settings that know which of them somebody has looked for."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.asked = set[str]()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)


def _check_known(own: Mapping[str, Any]) -> None:
    """Let DeepSpeed read the settings; it passes over what it does not know."""
    with _quiet():
        from deepspeed.runtime.config import DeepSpeedConfig

        given = _Asked({"train_micro_batch_size_per_gpu": 1, **own})
        try:
            DeepSpeedConfig(given)
        except Exception as error:  # of whatever kind: it reads what somebody wrote
            raise ConfigError(f"deepspeed: {first_line(error)}; correct the file") from error
    for key in own:
        if key not in given.asked:
            near = difflib.get_close_matches(key, given.asked, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; take it out"
            raise ConfigError(f"deepspeed: it has no setting {key!r}{hint}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Where there is no GPU, DeepSpeed says so whenever it is imported."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def own_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """A user's settings as they go over ours.

    Raises:
        ConfigError: they cannot be used, or say what only the run's configuration may.
    """
    own = _without_auto(given)
    wrong = [key for key in _OURS if key in own and _said(key, own[key])]
    if wrong:
        raise ConfigError(f"deepspeed: {wrong[0]} is given by the run's own settings; take it out")
    zero = own.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ConfigError(f"deepspeed: zero_optimization must be an object, got {zero!r}")
    parsed = _parsed(zero)
    if "stage" in zero:
        zero["stage"] = int(parsed.stage)  # which may be said as text
    # Almost every file for ZeRO-3 has one. In parts, the optimiser would clip each part by itself.
    zero.pop("sub_group_size", None)
    return {key: value for key, value in own.items() if key not in _OURS}


def _parsed(zero: Mapping[str, Any]) -> Any:
    """A user's `zero_optimization` as DeepSpeed reads it."""
    from pydantic import ValidationError

    with _quiet():
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    try:
        return DeepSpeedZeroConfig(**zero)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("zero_optimization", *first["loc"])))
        raise ConfigError(f"deepspeed: {where}: {first['msg']}, got {first['input']!r}; correct it") from error


def _without_auto(given: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSpeed's own files often say "auto" where a trainer fills in; so do we."""
    return {
        key: _without_auto(value) if isinstance(value, dict) else value
        for key, value in given.items()
        if value != "auto"
    }


def _said(key: str, value: Any) -> bool:
    """Whether a setting says anything; a precision that is not switched on does not."""
    if key in ("bf16", "fp16", "torch_autocast") and isinstance(value, dict):
        return bool(value.get("enabled"))
    return bool(value != {})
