"""CulturePark's recipe on real Ray, against a scripted teacher over real HTTP."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from ray.data import Dataset

from cp_ray.cli import _line
from cp_ray.embedding import vector_column
from cp_ray.errors import BudgetReached, ConfigError, TooManyFailures
from cp_ray.llm.budget import Price
from cp_ray.llm.call import Completion, Sampling, failure
from cp_ray.llm.ledger import summary
from cp_ray.llm.plausible import plausible
from cp_ray.llm.scripted_batch import scripted_batch_app
from cp_ray.pipeline import Step
from cp_ray.recipe import load_recipe, parse_recipe
from cp_ray.records import Candidate, Dialogue, Example, Message, Opinion
from cp_ray.rollout import cause_of
from cp_ray.stages.dedup import DedupConfig
from tests.conftest import Server
from tests.doing import do_recipe

RECIPE = load_recipe(str(Path(__file__).parent.parent / "jobs" / "culturepark.py"))


def run(root: Path, server: Any, until: str, *more: str) -> dict[str, Any]:
    """Do the recipe's steps; gives the folders by name."""
    given = ["--teacher-url", server.url, "--teacher-model", "scripted", "--structured", "no", *more]
    return do_recipe(RECIPE, root, until, given)


def all_stay(opinions: pa.Table, config: DedupConfig) -> Dataset:
    """In place of `dedup`, without a model: opinions that are all unlike one another."""
    n = opinions.num_rows
    vectors = vector_column(np.eye(n, dtype=np.float32), np.ones(n, bool))
    return ray.data.from_arrow(opinions.append_column("vector", vectors))


def accepted(made: dict[str, Any], name: str) -> Counter[str]:
    return Counter(o.culture for o in made[name].read(Opinion) if o.reject is None)


def test_exactly_so_many_opinions_of_each_culture(
    ray_cluster: None, scripted_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cp_ray.steps.opinions.keep_medoids", all_stay)  # has tests of its own
    server = scripted_server()
    wanted = ("--accepted", "12", "--candidates", "30", "--rounds", "1", "--questions", "4", "--near", "0",
              "--voice", "none")  # fmt: skip
    made = run(tmp_path, server, "quota", *wanted)
    assert accepted(made, "quota") == {"arabic": 12, "german": 12}
    assert len(made["candidates.1"].read(Candidate)) > 0
    calls = server.stats()["calls"]
    assert run(tmp_path, server, "quota", *wanted).keys() == made.keys()
    assert server.stats()["calls"] == calls, "nothing is paid for twice"
    assert max(Counter(server.stats()["requests"]).values()) == 1


@pytest.mark.long
def test_within_a_culture_in_free_chat_and_samples_of_a_seed(
    ray_cluster: None, scripted_server: Any, tmp_path: Path
) -> None:
    made = run(
        tmp_path, scripted_server(), "verify", "--setting", "in", "--style", "free", "--per-seed", "2",
        "--questions", "2", "--rounds", "2", "--teacher-workers", "2",
    )  # fmt: skip
    held = made["dialogue"].read(Dialogue)
    assert len(held) == len({d.id for d in held}) == 8
    assert {(d.setting, d.style, d.reject) for d in held} == {("in", "free", None)}
    assert {o.speaker for o in made["extract"].read(Opinion)} == {"Omar", "Layla", "Lukas", "Hanna"}
    texts = {d.turns[0].text for d in held}
    assert len(texts) == 8, "two samples of a seed are two draws"


def test_without_communication(ray_cluster: None, scripted_server: Any, tmp_path: Path) -> None:
    made = run(tmp_path, scripted_server(), "verify", "--communication", "no", "--questions", "3")
    assert "dialogue" not in made
    assert len(made["direct"].read(Opinion)) == 2 * 3 * 2
    assert accepted(made, "verify").total() > 0
    unjudged = run(
        tmp_path, scripted_server(), "voice", "--communication", "no", "--questions", "3", "--verified", "no"
    )
    assert "verify" not in unjudged
    assert accepted(unjudged, "voice").total() >= accepted(made, "verify").total()


@pytest.mark.long
def test_a_culture_of_which_no_opinion_is_left_is_told_and_the_others_go_on(
    ray_cluster: None, scripted_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cp_ray.steps.opinions.keep_medoids", all_stay)  # has tests of its own

    def judges(messages: Sequence[Message], sampling: Sampling) -> str:
        arab = messages[-1].content.partition("Opinion: ")[2].startswith('"Arabs')
        return "irrelevant" if arab else plausible(messages, sampling)

    asked = ("--questions", "3", "--communication", "no", "--answers", "4", "--pooling", "0.5")
    made = run(tmp_path, scripted_server(judges), "export", *asked)
    assert accepted(made, "verify").keys() == {"german"}
    rejected = [o for o in made["verify"].read(Opinion) if o.culture == "arabic"]
    assert rejected
    assert {o.reject for o in rejected} == {"irrelevant to the survey"}
    line = _line(Step("verify", None, lambda folder, inputs: None, rows=Opinion), made["verify"].manifest())
    assert "set aside: " in line
    assert line.endswith("; nothing is left of arabic")
    assert made["dedup"].manifest().remarks == []
    pooled = "50% of each question's answers are the culture's mean on its scale"
    assert made["examples"].manifest().remarks == [pooled, "no opinion of arabic: answers of the survey alone"]
    kinds = Counter((e.culture, e.kind) for e in made["examples"].read(Example))
    assert kinds["arabic", "answer"] == kinds["german", "answer"] == 12
    assert kinds["arabic", "opinion"] == 0 < kinds["german", "opinion"]
    card = (tmp_path / "export" / "huggingface" / "README.md").read_text()
    assert "| arabic | Arabic | EGY, IRQ, JOR, LBN, LBY, MAR, TUN | 12 | 0 | 12 |" in card
    assert "The teacher: `scripted`." in card
    assert pooled in card


def test_near_duplicates_are_looked_for_unless_told_not_to() -> None:
    given = ["--teacher-url", "http://127.0.0.1:9/v1", "--teacher-model", "scripted"]
    waves = ["--accepted", "5", "--near", "0.9"]

    def names(*more: str) -> list[str]:
        return [step.name for step in parse_recipe(RECIPE, [*given, *more], "test")[1]]

    def inputs(name: str, *more: str) -> set[str]:
        found = {step.name: {i.name for i in step.inputs} for step in parse_recipe(RECIPE, [*given, *more], "test")[1]}
        return found[name]

    assert [name for name in names() if name.startswith("near")] == ["near"]
    assert "near" in inputs("examples")
    assert not [name for name in names("--near", "0") if name.startswith("near")]
    assert inputs("dedup.2", *waves) == {"voice.1", "voice.2", "dedup.1"}
    assert inputs("near.2", *waves) == {"dedup.2"}
    assert "near.1" in inputs("candidates.2", *waves), "the next wave is sized by what is left"
    assert inputs("quota", *waves) == {"near.4"}


@pytest.mark.long
def test_a_budget_stops_the_run_and_a_larger_one_goes_on(
    ray_cluster: None, scripted_server: Any, tmp_path: Path
) -> None:
    server, prices = scripted_server(latency_s=0.01), tmp_path / "prices.json"
    prices.write_text(json.dumps({"scripted": {"prompt": 10.0, "completion": 20.0}}))
    options = ("--prices", str(prices), "--questions", "6", "--rounds", "2", "--in-flight", "8")
    root = tmp_path / "run"
    with pytest.raises(Exception, match="budget") as raised:
        run(root, server, "verify", *options, "--budget", "0.10usd")
    assert type(cause_of(raised.value)) is BudgetReached
    spent = sum(step.usd for step in summary(str(root)))
    assert 0.08 < spent <= 0.10
    run(root, server, "verify", *options, "--budget", "10usd")
    assert max(Counter(server.stats()["requests"]).values()) == 1, "what was under way was not lost"
    paid = summary(str(root))
    price = Price(10.0, 20.0)
    assert sum(s.usd for s in paid) == pytest.approx(
        sum(price.cost(s.prompt_tokens, s.completion_tokens) for s in paid)
    )


def test_a_teacher_that_fails_too_often_stops_the_run(ray_cluster: None, scripted_server: Any, tmp_path: Path) -> None:
    server = scripted_server(faults=[400] * 9, latency_s=0.05)
    with pytest.raises(Exception, match="max-failures") as raised:
        run(tmp_path, server, "dialogue", "--per-seed", "2", "--rounds", "1", "--in-flight", "8")
    assert type(cause_of(raised.value)) is TooManyFailures


def test_a_step_that_brought_no_answer_is_done_again(ray_cluster: None, scripted_server: Any, tmp_path: Path) -> None:
    asked = ("--per-seed", "1", "--questions", "2", "--rounds", "1")
    with pytest.raises(Exception, match="of 4 calls failed") as raised:
        run(tmp_path, scripted_server(faults=[400]), "dialogue", *asked)
    assert type(cause_of(raised.value)) is TooManyFailures
    made = run(tmp_path, scripted_server(), "dialogue", *asked)
    assert [d.reject for d in made["dialogue"].read(Dialogue)] == [None] * 4


def test_a_step_whose_other_answers_are_in_the_ledger_goes_on(
    ray_cluster: None, scripted_server: Any, tmp_path: Path
) -> None:
    def half(messages: Sequence[Message], sampling: Sampling) -> str | Completion:
        german = "Lukas" in messages[0].content or "Hanna" in messages[0].content
        return failure("refused with status 400") if german else plausible(messages, sampling)

    server, asked = scripted_server(half), ("--questions", "2", "--rounds", "1", "--setting", "in")
    for _ in range(2):
        held = run(tmp_path, server, "dialogue", *asked)["dialogue"]
        assert Counter(d.reject for d in held.read(Dialogue)) == {None: 2, "refused with status 400": 2}
        held.clear()


def test_a_fallback_answers_where_the_teacher_does_not(ray_cluster: None, scripted_server: Any, tmp_path: Path) -> None:
    failing, helping = scripted_server(faults=[400, *[500] * 99]), scripted_server(models=["other"])
    made = run(
        tmp_path, helping, "dialogue", "--questions", "1", "--rounds", "1", "--teacher-model", "other",
        "--fallbacks", f"scripted@{failing.url}",
    )  # fmt: skip
    assert all(d.reject is None for d in made["dialogue"].read(Dialogue))
    assert failing.stats()["calls"] == 0


@pytest.mark.long
def test_at_half_the_price_one_batch_is_made_for_each_turn(ray_cluster: None, tmp_path: Path) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps({"scripted": {"prompt": 10.0, "completion": 20.0}}))
    with Server(scripted_batch_app(plausible, models=("scripted",), delay_s=0.2)) as server:
        made = run(
            tmp_path / "run", server, "dialogue", "--batch", "openai", "--questions", "4", "--rounds", "1",
            "--prices", str(prices), "--budget", "5usd",
        )  # fmt: skip
        stats = server.stats()
    held = made["dialogue"].read(Dialogue)
    assert [len(d.turns) for d in held] == [2] * 8
    assert stats["batches"] == [8, 8]
    (paid,) = summary(str(tmp_path / "run"))
    assert paid.calls == 16
    assert paid.usd == pytest.approx(Price(5.0, 10.0).cost(paid.prompt_tokens, paid.completion_tokens))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--setting", "out"), "setting: must be cross or in, got 'out'"),
        (("--style", "x"), "style: must be guided or free"),
        (("--main-contact", "greece"), "main-contact: no culture is called 'greece'; did you mean 'greek'"),
        (("--communication", "maybe"), "communication: must be yes or no, got 'maybe'"),
        (("--accepted", "0"), "accepted: must be at least 1"),
        (("--per-seed", "0"), "per_seed: must be at least 1"),
        (("--near", "0.5"), "near: must be from 0.8 to 1, got 0.5"),
        (("--budget", "lots"), "budget: must be an amount of money such as 20usd, got 'lots'"),
        (
            ("--budget", "5usd", "--teacher-model", "gpt-4o-mini", "--fallbacks", "big@http://127.0.0.1:1/v1"),
            "budget: no price is known for 'big'; give one with --prices",
        ),
        (("--budget", "5usd"), "budget: no price is known for 'scripted'; give one with --prices"),
        (("--fallbacks", "model"), "fallbacks: must be model@url"),
        (("--batch", "azure"), "batch: must be openai or anthropic, got 'azure'"),
        (("--structured", "perhaps"), "structured: must be yes, no or auto"),
        (("--max-failures", "0"), "max_failures: must be above 0"),
        (("--in-flight", "0"), "in-flight: must be at least 1, got 0"),
        (("--teacher-workers", "0"), "teacher-workers: must be at least 1, got 0"),
        (("--timeout", "0"), "timeout: must be a number of seconds above 0, got 0.0"),
        (("--timeout", "nan"), "timeout: must be a number of seconds above 0, got nan"),
        (("--kept", "0"), "kept: must be at least 1, got 0"),
        (("--teacher-url", "http://[::1/v1"), "teacher-url: must begin with http:// or https:// and name a host"),
        (("--teacher-url", "https://"), "teacher-url: must begin with http:// or https:// and name a host"),
        (("--teacher-url", "http://host:port/v1"), "teacher-url: must begin with http:// or https:// and name a host"),
        (("--fallbacks", "m@http://"), "fallbacks: must begin with http:// or https:// and name a host"),
    ],
)
def test_a_wrong_option_is_told_before_anything_starts(tmp_path: Path, wrong: tuple[str, ...], said: str) -> None:
    given = ["--root", str(tmp_path / "run"), "--teacher-url", "http://127.0.0.1:9/v1", "--teacher-model", "scripted"]
    with pytest.raises(ConfigError) as raised:
        parse_recipe(RECIPE, [*given, *wrong], "test")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
