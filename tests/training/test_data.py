from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.records import Example, Message
from cp_ray.survey.read import WVS7
from cp_ray.training.config import Placement, TrainConfig
from cp_ray.training.data import batches, shard, shared_prompts, total_weight
from tests.tiny import make_tokenizer


def example(k: int, question: str, answer: str, kind: str = "answer") -> Example:
    messages = (Message("system", "You are German."), Message("user", question), Message("assistant", answer))
    return Example(f"e{k}", "german", kind, "Q1", messages, (), "train")


def test_rows_of_one_prompt_are_counted_together(embedded_base: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_base)
    answers = ["Yes", "No", "Yes", "Yes"]
    examples = [example(k, "Is it?", a) for k, a in enumerate(answers)]
    examples += [example(9, "Is that?", "No"), example(10, "What do Germans think?", "That it is.", "opinion")]
    rows = shared_prompts(examples, tokenizer, opinion_weight=0.25)
    assert [row.weights for row in rows] == [(1.0, 3.0), (0.25,), (1.0,)], "in the order of their ids"
    assert total_weight(rows) == 5.25
    assert shared_prompts(examples[::-1], tokenizer, 0.25) == rows
    with pytest.raises(ConfigError, match="none to train on"):
        shared_prompts([], tokenizer, 1.0)


def test_each_row_of_a_prompt_keeps_the_weight_of_its_kind() -> None:
    mixed = [example(1, "Is it?", "Yes"), example(2, "Is it?", "No", "opinion"), example(3, "Is it?", "Yes")]
    (row,) = shared_prompts(mixed, make_tokenizer(), opinion_weight=0.25)
    assert row.weights == (0.25, 2.0), "No, then Yes"


def test_rows_that_weigh_nothing_are_left_out() -> None:
    opinion, answer = example(1, "What of it?", "It is.", "opinion"), example(2, "Is it?", "Yes")
    (row,) = shared_prompts([opinion, answer], make_tokenizer(), opinion_weight=0.0)
    assert row.weights == (1.0,)
    with pytest.raises(ConfigError, match="only opinions"):
        shared_prompts([opinion], make_tokenizer(), opinion_weight=0.0)


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=60),
    size=st.integers(1, 9),
    passes=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_each_pass_takes_every_row_once(lengths: list[int], size: int, passes: int, seed: int) -> None:
    steps = batches(lengths, size, passes, seed)
    assert Counter(i for step in steps for i in step) == dict.fromkeys(range(len(lengths)), passes)
    assert all(1 <= len(step) <= size for step in steps)
    assert steps == batches(lengths, size, passes, seed)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=20), st.integers(1, 5))
def test_workers_share_a_batch_without_gaps_or_overlap(lengths: list[int], world: int) -> None:
    batch = list(range(len(lengths)))
    parts = [shard(batch, lengths, rank, world) for rank in range(world)]
    assert sorted(i for part in parts for i in part) == batch
    loads = [sum(lengths[i] for i in part) for part in parts]
    assert max(loads) - min(loads) <= max(lengths)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0},
        {"passes": 0},
        {"layers": 0},
        {"learning_rate": 0},
        {"warmup": 1.0},
        {"opinion_weight": -1},
        {"opinion_weight": float("nan")},
        {"weight_decay": -0.1},
        {"max_grad_norm": 0},
    ],
)
def test_wrong_settings_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig("smollm2", CULTURES["german"], WVS7, **wrong)
    with pytest.raises(ConfigError, match="workers"):
        Placement(workers=0)
