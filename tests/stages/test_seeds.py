from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.records import Seed
from cp_ray.stages.seeds import CandidatesConfig, SeedsConfig, candidates, heldout_questions, make_seeds
from cp_ray.survey.counts import items as items_of
from cp_ray.survey.items import AnswerShares, Item, Source
from cp_ray.survey.questions import QUESTIONS
from cp_ray.survey.read import read_survey

ALL = tuple(CULTURES.values())
GERMAN = (CULTURES["german"],)
SHIPPED = read_survey()
HELDOUT = {"Q28", "Q37", "Q126", "Q127", "Q135", "Q162", "Q169", "Q196", "Q225", "Q228"}


def config(cultures: Any = ALL, **settings: Any) -> SeedsConfig:
    return SeedsConfig(cultures, "x", Source("mine", "my survey"), **settings)


def item(id: str, topic: str = "t", question: str | None = None, countries: tuple[str, ...] = ("DEU",)) -> Item:
    answers: Mapping[str, AnswerShares] = {c: AnswerShares((0.7, 0.3), 10) for c in countries}
    return Item(id, topic, question or f"Is it {id}?", ("Yes", "No"), answers)


@pytest.fixture(scope="module")
def seeds() -> list[Seed]:
    return make_seeds(config(), SHIPPED.items)


def test_a_question_that_was_not_asked_gives_no_seed(seeds: list[Seed]) -> None:
    per_culture = Counter(seed.culture for seed in seeds)
    assert per_culture.pop("chinese") == 32
    assert set(per_culture.values()) == {50}
    assert {seed.source for seed in seeds} == {"mine"}


def test_the_ten_held_out_questions_are_what_they_always_were(seeds: list[Seed]) -> None:
    assert heldout_questions(SHIPPED.items, None, seed=0) == HELDOUT == heldout_questions(SHIPPED.items, 10, seed=0)
    assert {QUESTIONS[q].topic for q in HELDOUT} == {q.topic for q in QUESTIONS.values()}
    assert all((seed.split == "heldout") == (seed.question_id in HELDOUT) for seed in seeds)


@pytest.mark.parametrize("chosen", [("chinese",), ("german", "chinese"), ("korean",)])
def test_what_is_held_out_does_not_hang_on_the_cultures(chosen: tuple[str, ...]) -> None:
    made = make_seeds(config(tuple(CULTURES[c] for c in chosen), questions=9), SHIPPED.items)
    assert {s.question_id for s in made if s.split == "heldout"} <= HELDOUT
    assert not {s.question_id for s in made if s.split == "train"} & HELDOUT
    assert len({s.question_id for s in made if s.split == "train"}) == 9


def test_the_stance_is_the_commonest_answer(seeds: list[Seed]) -> None:
    for seed in seeds:
        assert seed.distribution[seed.options.index(seed.stance)] == max(seed.distribution)


def test_a_few_seeds_are_spread_over_the_topics(seeds: list[Seed]) -> None:
    few = [c.seed for c in candidates(seeds, CandidatesConfig(7))]
    assert Counter(seed.culture for seed in few) == dict.fromkeys(CULTURES, 7)
    assert {seed.split for seed in few} == {"train"}
    assert len({seed.topic for seed in few if seed.culture == "german"}) >= 5
    assert len(candidates(seeds, CandidatesConfig())) == sum(seed.split == "train" for seed in seeds)
    others = [c.seed for c in candidates(list(reversed(seeds))[-50:], CandidatesConfig(7))]
    assert others == [s for s in few if s.culture == seeds[0].culture]


def test_every_seed_is_talked_about_once_before_any_a_second_time(seeds: list[Seed]) -> None:
    made = candidates([s for s in seeds if s.culture == "german"], CandidatesConfig(5, per_seed=3))
    assert [c.sample for c in made] == [0] * 5 + [1] * 5 + [2] * 5
    assert [c.seed for c in made[:5]] == [c.seed for c in made[5:10]]
    assert len({c.id for c in made}) == 15


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"per_seed": 0}])
def test_a_wrong_number_of_candidates_is_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: must be at least 1"):
        CandidatesConfig(**wrong)


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=40), st.integers(0, 5))
def test_any_list_of_questions_is_split_and_spread(topics: list[str], split_seed: int) -> None:
    items = [item(f"q{k:02d}", topic) for k, topic in enumerate(topics)]
    made = make_seeds(config(GERMAN, split_seed=split_seed), items)
    held = {s.question_id for s in made if s.split == "heldout"}
    assert held == heldout_questions(items, None, split_seed)
    assert len(held) == max(1, len(items) // 5)
    assert len(made) == len(items)
    first = [c.seed for c in candidates(made, CandidatesConfig())]
    assert sorted(s.question_id for s in first) == sorted({i.id for i in items} - held)
    counted = Counter(s.topic for s in made if s.split == "heldout")
    for topic, n in Counter(topics).items():
        # A topic of n questions has between tn - 0.1 and tn + 0.9 of them up to the place t, and so has each other.
        share, others = n / len(topics), len(set(topics)) * n / len(topics)
        off = counted[topic] - len(held) * share
        assert -0.1 - 0.9 * others - 1e-9 <= off <= 0.9 + 0.1 * others + 1e-9


def test_a_question_that_holds_a_held_out_one_is_not_trained_on() -> None:
    items = [item("a"), item("b"), item("c")]
    (held,) = heldout_questions(items, None, 0)
    longer = [item(i.id, question=i.question if i.id == held else f"Think well. Is it {held}? {i.id}") for i in items]
    with pytest.raises(ConfigError, match="'german' was asked none of the questions to train on"):
        make_seeds(config(GERMAN), longer)


def test_a_culture_without_answers_is_told() -> None:
    only_german = items_of({("DEU", q): {1: 5} for q in QUESTIONS})
    with pytest.raises(ConfigError, match="no answers from KOR"):
        make_seeds(config((CULTURES["korean"],)), only_german)
    some = [item(f"q{k}") for k in range(5)]
    (held,) = heldout_questions(some, None, 0)
    elsewhere = [item(i.id, countries=("GRC",) if i.id == held else ("DEU", "GRC")) for i in some]
    with pytest.raises(ConfigError, match="'german' was asked none of the questions held out"):
        make_seeds(config((*GERMAN, CULTURES["greek"])), elsewhere)


@pytest.mark.parametrize(("settings", "said"), [({"heldout": 0}, "heldout: must be at least 1"),
                                                ({"questions": 0}, "questions: must be at least 1")])  # fmt: skip
def test_wrong_settings_are_told(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**settings)
    with pytest.raises(ConfigError, match="fewer than the survey's questions, which are 50, got 50"):
        make_seeds(config(heldout=50), SHIPPED.items)
