from collections import Counter

import pytest

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.records import Seed
from cp_ray.stages.seeds import SeedsConfig, heldout_questions, make_seeds, pick
from cp_ray.survey.counts import content_hash, read_counts
from cp_ray.survey.questions import QUESTIONS


@pytest.fixture(scope="module")
def seeds() -> list[Seed]:
    return make_seeds(SeedsConfig(tuple(CULTURES), content_hash()), read_counts())


def test_a_question_that_was_not_asked_gives_no_seed(seeds: list[Seed]) -> None:
    per_culture = Counter(seed.culture for seed in seeds)
    assert per_culture.pop("chinese") == 32
    assert set(per_culture.values()) == {50}


def test_ten_questions_over_all_topics_are_held_out_everywhere(seeds: list[Seed]) -> None:
    heldout = heldout_questions(10, seed=0)
    assert len(heldout) == 10
    assert {QUESTIONS[q].topic for q in heldout} == {q.topic for q in QUESTIONS.values()}
    assert all((seed.split == "heldout") == (seed.question_id in heldout) for seed in seeds)


def test_the_stance_is_the_commonest_answer(seeds: list[Seed]) -> None:
    for seed in seeds:
        assert seed.distribution[seed.options.index(seed.stance)] == max(seed.distribution)


def test_a_few_seeds_are_spread_over_the_topics(seeds: list[Seed]) -> None:
    few = pick(seeds, 7)
    assert Counter(seed.culture for seed in few) == dict.fromkeys(CULTURES, 7)
    assert {seed.split for seed in few} == {"train"}
    assert len({seed.topic for seed in few if seed.culture == "german"}) >= 5
    assert len(pick(seeds, None)) == sum(seed.split == "train" for seed in seeds)


def test_a_culture_without_answers_is_told() -> None:
    with pytest.raises(ConfigError, match="no answers from KOR"):
        make_seeds(SeedsConfig(("korean",), "x"), {("DEU", "Q27"): {1: 5}})
