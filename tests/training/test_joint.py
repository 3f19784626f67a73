"""An adapter learns beside others what it learns alone; in one process, without Ray."""

import importlib.util
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist

from cp_ray.arrow import from_table, to_table
from cp_ray.cultures import CULTURES
from cp_ray.errors import BaseModelError
from cp_ray.evals.choose import LocalModels, _Chooser, _Loaded
from cp_ray.folder import open_folder
from cp_ray.llm.embedded import load_base, load_tokenizer
from cp_ray.records import Example, Item, Message, Prediction
from cp_ray.survey.read import WVS7
from cp_ray.training.config import AdapterConfig, Placement, TrainConfig
from cp_ray.training.data import Learnt, divide, make_prompts, tokenise
from cp_ray.training.loop import Trainer
from cp_ray.training.rows import heads
from cp_ray.training.save import save_model
from tests.tiny import make_base, make_model, make_tokenizer
from tests.training.ranks import data_of

MANY = [*CULTURES, *(f"{id}2" for id in CULTURES)]


def examples_of(name: str) -> list[Example]:
    """Rows unlike any other adapter's."""
    k = MANY.index(name)
    return [
        Example(
            f"{name}/{q}/{a}", name, "answer", f"Q{q}",
            (
                Message("user", f"Is {name} {q}{'?' * (k + q)}"),
                Message("assistant", "Yes" if a * (k + 3) % 7 else "No"),
            ),
            (), "train",
        )
        for q in range(4)
        for a in range(6)
    ]  # fmt: skip


def adapter(name: str, **settings: Any) -> AdapterConfig:
    culture = replace(CULTURES[name.removesuffix("2")], id=name)
    k = MANY.index(name)
    own = {"learning_rate": 1e-3 * (1 + k), "max_grad_norm": 0.1 * (1 + k), "passes": 2 + k % 2, "batch_size": 2}
    return AdapterConfig(name, (culture,), **{**own, **settings})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def trained(base: Path, adapters: list[AdapterConfig], placement: Placement, **settings: Any) -> Trainer:
    config = TrainConfig(str(base), tuple(adapters), WVS7, **{"rank": 4, "alpha": 8, "dtype": "float32", **settings})
    examples = [e for one in adapters for e in examples_of(one.name)]
    trainer = Trainer(config, placement, data_of(examples, config), None)
    trainer.run(lambda told: None, lambda state: None)
    return trainer


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("number", [2, 8, 20])
def test_beside_others_as_alone(base: Path, number: int, method: str) -> None:
    placement = Placement(1, zero_stage=0, offload="none")
    joint = trained(base, [adapter(name) for name in MANY[:number]], placement, method=method)
    weights = joint.weights()
    for name in (MANY[0], MANY[number - 1]):
        alone = trained(base, [adapter(name)], placement, method=method)
        for key, tensor in alone.weights()[name].items():
            assert (tensor - weights[name][key]).abs().max() <= 1e-6, (name, key)
        own = [p for p in joint.state.points if p.model == name]
        assert [p.step for p in own] == [p.step for p in alone.state.points]
        assert [p.loss for p in own] == pytest.approx([p.loss for p in alone.state.points], abs=1e-5)
    # They did learn, and not the same.
    first, last = weights[MANY[0]], weights[MANY[number - 1]]
    assert all(tensor.abs().max() > 1e-3 for key, tensor in first.items() if "lora_B" in key)
    assert any((first[key] - last[key]).abs().max() > 1e-3 for key in first), "they began alike"


def test_a_base_that_keeps_a_state_is_refused_before_the_first_step(tmp_path: Path) -> None:
    layers = {"layer_types": ["conv", "full_attention"] * 2}
    make_model("lfm2", vocab_size=300, **layers).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    config = TrainConfig(str(tmp_path), (adapter("german"),), WVS7, rank=4, dtype="float32")
    with pytest.raises(BaseModelError, match=r"^base model: answers to one prompt must .* those of lfm2 are up to"):
        Trainer(config, Placement(1, zero_stage=0, offload="none"), data_of(examples_of("german"), config), None)


def test_rows_are_expected_a_step_before_they_are_read(base: Path) -> None:
    """Each row in a block of its own: two of each adapter are read in a step."""
    config = TrainConfig(str(base), (adapter("german"), adapter("greek")), WVS7, rank=4, dtype="float32")
    examples = [*examples_of("german"), *examples_of("greek")]
    rows = tokenise(make_prompts(examples, config), load_tokenizer(str(base)), config)
    expected, read = list[set[int]](), list[int]()

    class Told:
        def __getitem__(self, number: int) -> pa.Table:
            assert number in expected[-1]
            read.append(number)
            return rows.slice(number, 1)

        def expect(self, numbers: Iterable[int]) -> None:
            expected.append(set(numbers))

    known = pa.concat_tables([heads(rows.slice(k, 1), k) for k in range(rows.num_rows)])
    trainer = Trainer(config, Placement(1, zero_stage=0, offload="none"), divide(known, Told(), config), None)
    trainer.run(lambda told: None, lambda state: None)
    assert len(read) == sum(map(len, trainer.plan[0])) + sum(map(len, trainer.plan[1]))
    assert len(expected) == trainer.steps
    assert set(read[:4]) < expected[0] == expected[0] | set(read[4:8])
    assert expected[-1] == set(read[-2:]), "the last step, of one adapter, expects no other"


def test_another_adapters_rows_give_no_gradient_at_all(base: Path) -> None:
    names = MANY[:3]
    config = TrainConfig(str(base), tuple(adapter(name) for name in names), WVS7, rank=4, dtype="float32")
    examples = [e for name in names for e in examples_of(name)]
    trainer = Trainer(config, Placement(1, zero_stage=0, offload="none"), data_of(examples, config), None)
    rows = [i for i, row in enumerate(trainer.rows.train) if row.adapter != 1]
    trainer.engine.set_gradient_accumulation_boundary(False)
    for part in trainer._parts(rows, trainer.rows.train):
        trainer.engine.backward(trainer._losses(part, trainer.rows.train, None).sum())
    for k in range(3):
        gradients = [p.grad for name, p in trainer.learner.parameters_of(k) if "lora_B" in name]
        if k == 1:
            assert all(g is None or not g.any() for g in gradients)
        else:
            assert all(g is not None and g.any() for g in gradients)


@pytest.mark.parametrize("settings", [{"micro_tokens": 64}, {"packing": False}, {"gradient_checkpointing": True}])
def test_how_it_is_computed_changes_nothing(base: Path, settings: dict[str, Any]) -> None:
    adapters = [adapter(name) for name in MANY[:3]]
    plain = trained(base, adapters, Placement(1, zero_stage=0, offload="none"))
    other = trained(base, adapters, Placement(1, zero_stage=0, offload="none", **settings))
    assert [p.loss for p in other.state.points] == pytest.approx([p.loss for p in plain.state.points], abs=1e-5)


def test_rows_that_are_cut_lose_what_the_whole_one_loses(base: Path) -> None:
    """All answers to a question in one row, or in several; beside others as alone."""

    def losses(names: list[str], most: int) -> tuple[int, list[float]]:
        adapters = tuple(adapter(name, batch_size=100, passes=3) for name in names)
        config = TrainConfig(str(base), adapters, WVS7, rank=4, dtype="float32", max_tokens=most)
        examples = [replace(e, messages=(*e.messages[:-1], Message("assistant", f"{e.id} " * 3)))
                    for name in names for e in examples_of(name)]  # fmt: skip
        trainer = Trainer(config, Placement(1, zero_stage=0, offload="none"), data_of(examples, config), None)
        trainer.run(lambda told: None, lambda state: None)
        own = [p.loss for p in trainer.state.points if p.model == names[0]]
        return sum(row.adapter == 0 for row in trainer.rows.train), own

    whole, cut, beside = (losses(MANY[:n], most) for n, most in ((1, 1024), (1, 120), (2, 120)))
    assert (whole[0], cut[0] > 8, beside[0]) == (4, True, cut[0])
    assert cut[1] == pytest.approx(whole[1], rel=1e-5)
    assert beside[1] == pytest.approx(cut[1], rel=1e-5)


def test_the_upper_layers_alone(base: Path) -> None:
    """The trunk is computed once; without it kept, nothing changes."""
    adapters = [adapter(name) for name in MANY[:2]]
    kept = trained(base, adapters, Placement(1, zero_stage=0, offload="none"), layers=1)
    assert kept.below is not None
    assert {key.split(".layers.")[1][0] for key in kept.weights()[MANY[0]]} == {"1"}
    examples = [e for a in adapters for e in examples_of(a.name)]
    other = Trainer(kept.config, kept.placement, data_of(examples, kept.config), None)
    other.below = None
    other.run(lambda told: None, lambda state: None)
    assert [p.loss for p in other.state.points] == pytest.approx([p.loss for p in kept.state.points], abs=1e-5)


def test_a_distribution_is_learnt_over_its_answers_alone(base: Path) -> None:
    """At the end of many steps the model's shares are the people's, however unlikely it holds the answers."""
    one = adapter(MANY[1], passes=60, learning_rate=0.02, max_grad_norm=1.0)
    trainer = trained(base, [one], Placement(1, zero_stage=0, offload="none"), objective="distribution", rank=8)
    entropy = []
    for row in trainer.rows.train:
        shares = torch.tensor(row.branches.weights)
        shares = shares / shares.sum()
        entropy.append(float(-(shares * shares.log()).sum()))
    least = sum(entropy) / len(entropy)
    assert trainer.state.points[0].loss > least + 0.05
    last = [p.loss for p in trainer.state.points][-8:]
    assert sum(last) / 8 == pytest.approx(least, abs=0.02), (
        "the cross-entropy cannot fall below the shares' own entropy"
    )


def test_a_whole_model_is_kept_and_asked(base: Path, tmp_path: Path) -> None:
    one, folder = adapter(MANY[0], passes=6, learning_rate=1e-2), open_folder(str(tmp_path / "whole"))
    trainer = trained(base, [one], Placement(1, zero_stage=0, offload="none"), method="full")
    own = trainer.weights()[one.name]
    learnt = trainer.rows.learnt(trainer.config, one.name)
    assert learnt == Learnt(len(examples_of(one.name)), 0)
    save_model(folder, trainer.base, trainer.tokenizer, trainer.config, one, own, trainer.state.points, learnt)
    row = examples_of(one.name)[0]
    item = Item("Q0/0", one.name, "survey_heldout", row.messages[:-1], ("Yes", "No"), "Q0")
    plain, asked = (
        from_table(_Chooser(LocalModels(str(base)), loaded, None)(to_table([item], Item)), Prediction)[0]
        for loaded in (_Loaded("base", str(base), {}), _Loaded(one.name, folder, {}))
    )
    assert (plain.model, asked.model) == ("base", one.name)
    assert trainer.state.points[-1].loss < trainer.state.points[0].loss
    assert abs(asked.probabilities[0] - plain.probabilities[0]) > 0.01


def test_an_adapter_stops_early_and_keeps_its_best(base: Path) -> None:
    patient = adapter(MANY[0], passes=40, learning_rate=0.3, max_grad_norm=10.0, patience=2)
    other = adapter(MANY[1], passes=6)
    trainer = trained(
        base, [patient, other], Placement(1, zero_stage=0, offload="none"), validation=0.25, validate_every=2
    )
    steps = [p.step for p in trainer.state.points if p.model == MANY[0]]
    validated = {p.step: p.validation for p in trainer.state.points if p.model == MANY[0] and p.validation is not None}
    best = min(validated, key=lambda step: validated[step] or 0)
    assert trainer.state.stopped == [MANY[0]]
    assert steps[-1] == best + 4 < len(trainer.plan[0])
    assert trainer.summary().stopped == {MANY[0]: best}
    assert [p.step for p in trainer.state.points if p.model == MANY[1]] == list(range(1, len(trainer.plan[1]) + 1))


def test_unless_told_otherwise_each_adapter_validates_once_a_pass(base: Path) -> None:
    adapters = [adapter(MANY[0], passes=3), adapter(MANY[1], passes=2, batch_size=100)]
    trainer = trained(base, adapters, Placement(1, zero_stage=0, offload="none"), validation=0.25)
    found = [[p.step for p in trainer.state.points if p.model == n and p.validation is not None] for n in MANY[:2]]
    once = len(trainer.plan[0]) // 3
    assert once > 1
    assert found == [[once, 2 * once, 3 * once], [1, 2]]


def test_a_base_with_fewer_layers_has_all_of_them_adapted(base: Path) -> None:
    trainer = trained(base, [adapter(MANY[0], passes=1)], Placement(1, zero_stage=0, offload="none"), layers=99)
    assert trainer.learner.depth == 0
    assert {name.split(".layers.")[1][0] for name in trainer.weights()[MANY[0]]} == {"0", "1"}


def test_on_a_base_in_four_bits_an_adapter_learns_beside_another_what_it_learns_alone(base: Path) -> None:
    names, placement = MANY[:2], Placement(1, zero_stage=0, offload="none")
    both = trained(base, [adapter(name) for name in names], placement, method="qlora")
    stored = [module.weight.dtype for module in both.base.modules() if type(module).__name__ == "Linear4bit"]
    assert stored == [torch.uint8] * 14, "two layers"
    together = both.weights()
    for name in names:
        alone = trained(base, [adapter(name)], placement, method="qlora").weights()[name]
        assert max(float((alone[k] - together[name][k]).abs().max()) for k in alone) <= 1e-5
        assert max(float(weight.abs().max()) for key, weight in alone.items() if "lora_B" in key) > 1e-4, "it learns"


def test_a_base_in_four_bits_gives_its_gradient_after_a_pass_without(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a CPU has AVX512-BF16, which this one is taken to have, bitsandbytes would change the weights' order."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model, _ = load_base(str(base), four_bit=True)
    ids = torch.arange(5)[None]
    with torch.no_grad():
        before = model(ids).logits
    states = model.get_input_embeddings()(ids).detach().requires_grad_()
    after = model(inputs_embeds=states).logits
    after.sum().backward()
    assert torch.equal(before, after)
    first = model.get_decoder().layers[0].mlp.up_proj
    x = torch.ones(1, 2, first.in_features, requires_grad=True)
    first(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_a_base_in_four_bits_without_the_package_is_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    config = TrainConfig(str(base), (adapter(MANY[0]),), WVS7, method="qlora")
    with pytest.raises(BaseModelError, match=r"needs the package bitsandbytes; pip install -e '\.\[qlora\]'"):
        Trainer(config, Placement(1), data_of(examples_of(MANY[0]), config), None)


def test_a_run_goes_on_from_its_state(base: Path) -> None:
    import copy

    adapters = [adapter(name, passes=4) for name in MANY[:3]]
    placement = Placement(1, zero_stage=0, offload="none", checkpoint_every=3)
    config = TrainConfig(str(base), tuple(adapters), WVS7, rank=4, dtype="float32", validation=0.25, validate_every=2)
    examples = [e for one in adapters for e in examples_of(one.name)]
    states = []
    whole = Trainer(config, placement, data_of(examples, config), None)
    whole.run(lambda told: None, lambda state: states.append(copy.deepcopy(state)))
    assert [state.step for state in states] == [3, 6]
    rest = Trainer(config, placement, data_of(examples, config), states[0])
    rest.run(lambda told: None, lambda state: None)
    for name, weights in whole.weights().items():
        assert all(torch.equal(tensor, rest.weights()[name][key]) for key, tensor in weights.items())
    assert [p.loss for p in rest.state.points] == [p.loss for p in whole.state.points]
