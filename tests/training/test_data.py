from dataclasses import replace
from typing import Any

import pytest

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.records import Example, Message
from cp_ray.survey.read import WVS7
from cp_ray.training.config import AdapterConfig, Placement, TrainConfig
from cp_ray.training.data import Learnt, make_data, make_prompts
from tests.tiny import make_tokenizer

GERMAN, GREEK = (AdapterConfig(id, (CULTURES[id],)) for id in ("german", "greek"))


def example(
    k: int, question: str, answer: str, kind: str = "answer", culture: str = "german", question_id: str = "Q1"
) -> Example:
    messages = (Message("system", "You are."), Message("user", question), Message("assistant", answer))
    return Example(f"e{k:03d}", culture, kind, question_id, messages, (), "train")


def config(*adapters: AdapterConfig, **settings: Any) -> TrainConfig:
    return TrainConfig("tiny", adapters or (GERMAN,), WVS7, **settings)


def test_rows_of_one_prompt_are_counted_together(embedded_base: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_base)
    examples = [example(k, "Is it?", a) for k, a in enumerate(["Yes", "No", "Yes", "Yes"])]
    examples += [example(9, "Is that?", "No"), example(10, "What do Germans think?", "That it is.", "opinion")]
    rows = make_data(examples, config(opinion_weight=0.25), tokenizer)
    assert [row.branches.weights for row in rows.train] == [(1.0, 3.0), (1.0,), (0.25,)], "in the order of their ids"
    assert [row.shares for row in rows.train] == [True, True, False]
    assert sum(row.weight for row in rows.train) == 5.25
    again = make_data(examples[::-1], config(opinion_weight=0.25), tokenizer)
    assert [row.branches for row in again.train] == [row.branches for row in rows.train]


def test_a_distribution_is_over_all_options_chosen_or_not() -> None:
    given = [
        replace(example(k, "Is it?", a), options=("Yes", "Maybe", "No")) for k, a in enumerate(["Yes", "No", "Yes"])
    ]
    (row,) = make_data(given, config(objective="distribution"), make_tokenizer()).train
    assert row.branches.weights == (0.0, 1.0, 2.0), "in the order of the alphabet"
    (row,) = make_data(given, config(), make_tokenizer()).train
    assert row.branches.weights == (1.0, 2.0)


def test_an_opinion_and_an_answer_to_one_prompt_stay_apart() -> None:
    mixed = [example(1, "Is it?", "Yes"), example(2, "Is it?", "No", "opinion"), example(3, "Is it?", "Yes")]
    rows = make_data(mixed, config(opinion_weight=0.25), make_tokenizer()).train
    assert [(row.branches.weights, row.shares) for row in rows] == [((2.0,), True), ((0.25,), False)]


def test_prompts_that_share_half_of_what_is_their_own_are_of_one_stem() -> None:
    """What all begin with does not count: who is asked, at length."""
    asked = ["Is it right to lie?\nOptions: Yes; No", "May one steal?\nOptions: Yes; No", "Is it so?\nOptions: Yes; No"]
    turned = [text.replace("Yes; No", "No; Yes") for text in asked]
    examples = [
        replace(e, messages=(Message("system", "You are German. " * 9), *e.messages[1:]))
        for e in (example(k, text, "Yes") for k, text in enumerate([*asked, *turned]))
    ]
    assert [prompt.stem for prompt in make_prompts(examples, config())] == [0, 1, 2, 0, 1, 2]


def test_each_adapter_takes_its_own_and_the_unified_one_all() -> None:
    unified = AdapterConfig("unified", (CULTURES["german"], CULTURES["greek"]))
    examples = [example(1, "Is it?", "Yes"), example(2, "Was it?", "No", culture="greek")]
    rows = make_data(examples, config(GREEK, unified), make_tokenizer()).train
    assert [row.adapter for row in rows] == [0, 1, 1]


def test_validation_takes_the_same_questions_of_all() -> None:
    examples = [
        example(10 * q + k, f"Is it {q}?", "Yes", culture=culture, question_id=f"Q{q}")
        for q in range(10)
        for k, culture in enumerate(("german", "greek"))
    ]
    rows = make_data(examples, config(GERMAN, GREEK, validation=0.2), make_tokenizer())
    prompts = [{row.branches.prompt for row in rows.validation if row.adapter == k} for k in (0, 1)]
    assert len(prompts[0]) == 2
    assert prompts[0] == prompts[1]
    assert not prompts[0] & {row.branches.prompt for row in rows.train}
    assert len(rows.train) == 16


def test_a_mixed_question_is_trained_on_unless_one_of_its_two_is_to_validate_with() -> None:
    examples = [example(q, f"Is it {q}?", "Yes", question_id=f"Q{q}") for q in range(4)]
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    examples += [
        replace(example(10 + k, f"Is it {a} and {b}?", "Yes", "mixed", question_id=f"Q{a}"), other_question_id=f"Q{b}")
        for k, (a, b) in enumerate(pairs)
    ]
    rows = make_data(examples, config(validation=0.25), make_tokenizer())
    assert (len(rows.validation), len(rows.train)) == (1, 3 + 6)
    assert all(row.shares for row in rows.train), "its answers are shares of its options"
    assert len(make_data(examples, config(), make_tokenizer()).train) == 4 + 12


def test_what_is_too_long_is_left_out_and_counted() -> None:
    examples = [example(1, "Is it?", "Yes"), example(2, "Is it " * 100, "Yes")]
    rows = make_data(examples, config(max_tokens=200), make_tokenizer())
    assert (len(rows.train), rows.too_long) == (1, 1)


def opinions(n: int, tokens: int) -> list[Example]:
    """Different ones of one question."""
    return [example(k, "Why is it?", f"{k:02d}".ljust(tokens, "."), "opinion") for k in range(n)]


def test_many_opinions_of_one_question_are_all_trained_on() -> None:
    whole = make_data(opinions(30, 40), config(max_tokens=10_000), make_tokenizer())
    cut = make_data(opinions(30, 40), config(max_tokens=300), make_tokenizer())
    assert (len(whole.train), cut.too_long) == (1, 0)
    assert len(cut.train) > 4
    assert all(row.tokens <= 300 for row in cut.train)
    assert {row.branches.prompt for row in cut.train} == {whole.train[0].branches.prompt}
    for part in ("answers", "weights"):
        assert tuple(x for row in cut.train for x in getattr(row.branches, part)) == getattr(
            whole.train[0].branches, part
        )
    again = make_data(opinions(30, 40)[::-1], config(max_tokens=300), make_tokenizer())
    assert again.train.known.equals(cut.train.known), "whatever the order of the examples"
    assert [row.branches for row in again.train] == [row.branches for row in cut.train]


def test_an_answer_that_is_too_long_by_itself_costs_its_neighbours_nothing() -> None:
    """Each of the three that say the same is counted."""
    long = [example(40 + k, "Why is it?", "15".ljust(400, "!"), "opinion") for k in range(3)]
    rows = make_data([*opinions(30, 40), *long], config(max_tokens=300), make_tokenizer())
    assert rows.too_long == 3
    assert sum(len(row.branches.answers) for row in rows.train) == 30
    assert rows.learnt(config(), "german") == Learnt(0, 30)
    shortest = len(rows.train[0].branches.prompt) + 40
    exact = make_data(opinions(1, 40), config(max_tokens=shortest), make_tokenizer())
    assert (len(exact.train), exact.train[0].tokens) == (1, shortest), "the last token is predicted and never fed"
    with pytest.raises(ConfigError, match="max_tokens: no row of german"):
        make_data(opinions(1, 40), config(max_tokens=shortest - 1), make_tokenizer())


def test_a_distribution_stays_whole_or_is_left_out() -> None:
    """Its options are renormalised over each other; opinions beside it are cut all the same."""
    options = tuple(f"{k}".ljust(60, "-") for k in range(4))
    asked = [replace(example(50 + k, "Is it?", options[k % 3]), options=options) for k in range(6)]
    examples = [*opinions(12, 40), *asked]
    rows = make_data(examples, config(max_tokens=280, objective="distribution"), make_tokenizer())
    assert rows.too_long == 6, "the examples of that question"
    assert not any(row.shares for row in rows.train)
    assert sum(len(row.branches.answers) for row in rows.train) == 12
    rows = make_data(examples, config(max_tokens=400, objective="distribution"), make_tokenizer())
    assert [row.branches.weights for row in rows.train if row.shares] == [(2.0, 2.0, 2.0, 0.0)]
    rows = make_data(examples, config(max_tokens=150), make_tokenizer())
    assert [row.branches.weights for row in rows.train if row.shares] == [(2.0,)] * 3, "likelihoods need no neighbours"
    assert rows.too_long == 0


def test_a_share_to_validate_with_is_one_question_at_least() -> None:
    examples = [example(q, f"Is it {q}?", "Yes", question_id=f"Q{q}") for q in range(40)]
    rows = make_data(examples, config(validation=0.01), make_tokenizer())
    assert (len(rows.validation), len(rows.train)) == (1, 39)
    assert not make_data(examples, config(), make_tokenizer()).validation


def test_an_adapter_that_is_to_stop_early_needs_something_to_validate_with() -> None:
    patient = AdapterConfig("greek", (CULTURES["greek"],), patience=2)
    examples = [example(q, f"Is it {q}?", "Yes", question_id=f"Q{q}") for q in range(20)]
    examples.append(example(30, "Was it?", "No", culture="greek", question_id="Q3"))
    with pytest.raises(ConfigError, match=r"^validation: greek is to stop early, and has no short enough question"):
        make_data(examples, config(GERMAN, patient, validation=0.1), make_tokenizer())
    make_data(examples, config(GERMAN, GREEK, validation=0.1), make_tokenizer())


def test_what_an_adapter_validates_with_does_not_hang_on_who_is_beside_it() -> None:
    """Some peoples were not asked all questions."""
    examples = [example(q, f"Is it {q}?", "Yes", question_id=f"Q{q}") for q in range(40)]
    examples += [example(50 + q, f"Is it {q}?", "No", culture="greek", question_id=f"Q{q}") for q in range(0, 40, 3)]
    for seed in range(5):
        both = make_data(examples, config(GERMAN, GREEK, validation=0.2, seed=seed), make_tokenizer())
        kept = [{row.branches.prompt for row in both.validation if row.adapter == k} for k in (0, 1)]
        assert [len(own) for own in kept] == [8, 3]
        for k, one in enumerate((GERMAN, GREEK)):
            alone = make_data(examples, config(one, validation=0.2, seed=seed), make_tokenizer())
            assert {row.branches.prompt for row in alone.validation} == kept[k]


@pytest.mark.parametrize(
    ("examples", "settings", "said"),
    [
        ([], {}, "examples: there are none of german to train on"),
        ([example(1, "Is it?", "Yes", culture="greek")], {}, "there are none of german"),
        ([example(1, "Is it?", "Yes", "opinion")], {"opinion_weight": 0.0}, "german has only opinions"),
        ([example(1, "Is it?", "Yes")], {"max_tokens": 8}, "max_tokens: no row of german has at most 8 tokens"),
    ],
)
def test_no_rows_are_told(examples: list[Example], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_data(examples, config(**settings), make_tokenizer())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rank": 0}, "rank: must be at least 1, got 0"),
        ({"layers": 0}, "layers: must be at least 1, or None for all, got 0"),
        ({"method": "lorra"}, "method: must be one of lora, dora, qlora, full, got 'lorra'"),
        ({"objective": "x"}, "objective: must be one of answers, distribution, got 'x'"),
        ({"dtype": "bf16"}, "dtype: must be one of auto, float32, bfloat16, got 'bf16'"),
        ({"validation": 0.6}, "validation: must be a share from 0 to 0.5, got 0.6"),
        ({"adapters": (GERMAN, GERMAN)}, "adapters: need names of their own, one at least, got german, german"),
        ({"adapters": ()}, "adapters: need names of their own, one at least, got none"),
        ({"adapters": (GERMAN, GREEK), "method": "full"}, "method: full trains one model at a time"),
        ({"adapters": (AdapterConfig("german", (CULTURES["german"],), patience=2),)}, "patience: german is to stop"),
    ],
)
def test_a_run_that_cannot_be_is_told(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        TrainConfig(**{"base_model": "tiny", "adapters": (GERMAN,), "survey": WVS7, **wrong})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"learning_rate": 0.0}, "learning_rate: must be between 0 and 1, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate: must be between 0 and 1, got nan"),
        ({"warmup": 1.0}, "warmup: must be a share"),
        ({"passes": 0}, "passes: must be at least 1, got 0"),
        ({"max_grad_norm": float("inf")}, "max_grad_norm: must be above 0, got inf"),
        ({"weight_decay": -1.0}, "weight_decay: must not be negative, got -1.0"),
        ({"patience": 0}, "patience: must be at least 1, got 0"),
    ],
)
def test_an_adapter_that_cannot_be_is_told(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        AdapterConfig(**{"name": "german", "cultures": (CULTURES["german"],), **wrong})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"workers": 0}, "workers: must be at least 1, got 0"),
        ({"zero_stage": 4}, "zero_stage: must be 0, 1, 2 or 3, got 4"),
        ({"offload": "disk"}, "offload: must be none, optimizer or all, got 'disk'"),
        ({"offload": "all", "zero_stage": 2}, "offload: all needs ZeRO-3, got zero_stage 2"),
        ({"micro_tokens": 1}, "micro_tokens: must be at least 16, got 1"),
    ],
)
def test_a_placement_that_cannot_be_is_told(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Placement(**wrong)
