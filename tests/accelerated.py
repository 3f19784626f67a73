"""What a GPU would compute, on a device that is not there: tensors have a shape, a type and a place, and no values.

    python -m tests.accelerated CASE FOLDER

What meets a tensor of another device fails, as it would on a GPU. A process by itself: torch's device is for all of it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils import backend_registration
from torch.utils._python_dispatch import _get_current_dispatch_mode

from cp_ray import peft_folder
from cp_ray.branches import Branches, collate_trees, grow, seen
from cp_ray.cultures import CULTURES
from cp_ray.folder import open_folder
from cp_ray.llm import embedded
from cp_ray.records import Message
from cp_ray.serving.chat import ChatRequest, ChatResult
from cp_ray.survey.read import WVS7
from cp_ray.training.config import AdapterConfig, Placement, TrainConfig
from cp_ray.training.model import make_learner
from cp_ray.training.optimizer import AdapterAdamW
from cp_ray.trunk import trunk

with mock.patch.object(torch, "inference_mode", torch.no_grad):  # which takes the mode's own passes as well
    from cp_ray.evals.scorer import Asked, Scorer
    from cp_ray.serving.engine import Engine

_READ = torch.ops.aten._local_scalar_dense.default


class _Mode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Where one number is read, it is 1."""

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return 1 if func is _READ else super().dispatch(func, types, args, kwargs or {})


def _list(tensor: Tensor) -> Any:
    with unset_fake_temporarily():
        return torch.ones(tensor.shape, dtype=tensor.dtype).tolist()


def _tensor(*given: Any, device: Any = None, _plain: Any = torch.tensor, **more: Any) -> Tensor:
    # torch would make it on the device itself, before any mode could.
    with unset_fake_temporarily():
        made: Tensor = _plain(*given, **more)
    if _get_current_dispatch_mode() is None:
        return made
    there: Tensor = _MODE.from_tensor(made)
    return there if device is None else there.to(device)


def _weights(*given: Any, _plain: Any = peft_folder._weights) -> Any:
    with unset_fake_temporarily():
        return _plain(*given)


def _by_lists(plain: Any) -> Any:
    """Of `__getitem__` and `__setitem__`: torch would make the lists among their places on the device itself."""

    def given(tensor: Tensor, places: Any, *more: Any) -> Any:
        every = places if isinstance(places, tuple) else (places,)
        return plain(tensor, tuple(torch.tensor(one) if isinstance(one, list) else one for one in every), *more)

    return given


def _base(name: str, **_: Any) -> Any:
    """In the place of `load_base`."""
    with unset_fake_temporarily():
        model, tokenizer = embedded.load_base(name, dtype=torch.bfloat16)
    return _moved(model), tokenizer


def _moved(model: nn.Module) -> Any:
    for module in model.modules():
        places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in places:
            for name, tensor in tensors.items():
                if tensor is not None:
                    there = _MODE.from_tensor(tensor.detach()).to("gpu")
                    tensors[name] = nn.Parameter(there) if tensors is module._parameters else there
    return model


def training(folder: Path) -> None:
    """A step forwards and backwards, by every method and objective."""
    for method, objective, layers in (
        ("lora", "distribution", None), ("lora", "answers", 1), ("dora", "distribution", 1), ("full", "answers", None),
    ):  # fmt: skip
        base, tokenizer = _base(str(folder / "base"))
        adapters = [AdapterConfig(id, (CULTURES[id],)) for id in ("german", "greek")[: 1 if method == "full" else 2]]
        config = TrainConfig("", tuple(adapters), WVS7, method=method, objective=objective, layers=layers, rank=4)
        learner = make_learner(base, config, Placement(use_gpu=True))
        for owners in {(0, 0, 0), (0, 0, len(adapters) - 1), (0, len(adapters) - 1, len(adapters) - 1)}:
            rows = [Branches((1, 2, k), ((4, 5), (6, 7)), (0.5, 0.5)) for k in range(3)]
            batch = collate_trees([grow([row]) for row in rows], tokenizer.pad_token_id).to("gpu")
            if learner.adapters is not None:
                learner.adapters.select(owners)
            below = None
            if learner.depth:
                decoder = base.get_decoder()
                below = trunk(decoder, learner.depth, batch.input_ids, batch.positions, seen(base, batch))
            learner(batch, below, owners, torch.tensor([True, True, False], device="gpu")).sum().backward()
            groups = [[p for _, p in learner.parameters_of(k)] for k in sorted(set(owners))]
            AdapterAdamW(
                [{"params": own, "lr": 0.1, "weight_decay": 0.0, "max_grad_norm": 1.0} for own in groups],
                shared_on=None,
            ).step()


def judging(folder: Path) -> None:
    """Shares of options, by the base and by an adapter."""
    with mock.patch("cp_ray.evals.scorer.load_base", _base), mock.patch("cp_ray.evals.scorer.check_branches"):
        scorer = Scorer(str(folder / "base"), {"german": open_folder(str(folder / "german"))})
    asked = [Asked((Message("user", "Is it " * k),), ("Yes", "No, no"), (None, "german")) for k in (1, 1, 9)]
    assert [len(shares) for shares in scorer.option_shares(asked)] == [2, 2, 2]


def serving(folder: Path) -> None:
    """Chats that are answered together, drawn and not."""
    adapters = {"base": None, "german": folder / "german", "greek": folder / "greek"}
    with mock.patch("cp_ray.serving.engine.load_base", _base):
        engine = Engine(str(folder / "base"), adapters, device="gpu")
    asked = [
        ChatRequest(model, (Message("user", "Is it so? " * n),), max_tokens=4, temperature=t, top_p=p, logprobs=2)
        for n, (model, t, p) in enumerate(
            (model, t, p) for model in adapters for t, p in ((0.0, 1.0), (1.0, 1.0), (0.7, 0.9))
        )
    ]  # fmt: skip
    for result in engine.generate(asked):
        assert isinstance(result, ChatResult), result
        assert result.completion_tokens == 4


_CASES: dict[str, Callable[[Path], None]] = {case.__name__: case for case in (training, judging, serving)}
_MODE = _Mode(allow_non_fake_inputs=True)

if __name__ == "__main__":
    backend_registration._setup_privateuseone_for_python_backend("gpu")
    by_lists = {name: _by_lists(getattr(Tensor, name)) for name in ("__getitem__", "__setitem__")}
    with (
        mock.patch.object(torch, "tensor", _tensor),
        mock.patch.multiple(FakeTensor, tolist=_list, **by_lists),
        mock.patch.object(peft_folder, "_weights", _weights),
        _MODE,
    ):
        _CASES[sys.argv[1]](Path(sys.argv[2]))
