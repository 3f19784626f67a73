"""What two wordings say differently, by their words alone; no model but the tagger."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.paraphrase.lexicon import are_opposite
from cp_ray.paraphrase.rules import compare
from cp_ray.paraphrase.words import read_words

SEED = "Do you agree that men are better political leaders than women?"


def told(seed: str, text: str) -> str | None:
    return compare(read_words(seed), read_words(text)).reason


@pytest.mark.parametrize(
    ("seed", "text"),
    [
        (SEED, "Do you agree that men are not better political leaders than women?"),
        (SEED, "Do you disagree that men are better political leaders than women?"),
        (SEED, "Do you agree that women are better political leaders than men?"),
        (SEED, "Do you agree that men are worse political leaders than women?"),
        ("How often are votes counted fairly?", "How often are votes counted unfairly?"),
        ("How often are voters bribed?", "How often do voters fail to be bribed?"),
        ("Doctors listen to their patients.", "Patients listen to their doctors."),
        ("Nobody should be above the law.", "Everybody should be above the law."),
        ("It isn't safe here.", "It is safe here."),
        ("The plan is good for us.", "The plan is far from good for us."),
        ("They have enough to eat.", "They have too little to eat."),
        ("Too many people drive.", "Too few people drive."),
    ],
)
def test_one_reversal_is_told(seed: str, text: str) -> None:
    assert told(seed, text) == "turned round"
    assert told(text, seed) is not None


@pytest.mark.parametrize(
    ("seed", "text"),
    [
        (SEED, "Do you agree that women are worse political leaders than men?"),
        ("Cheating is never right.", "Cheating is always wrong."),
        ("How often are votes counted fairly?", "How frequently does a fair count of the votes take place?"),
        ("I rarely discuss politics.", "I do not often discuss politics."),
        ("Judges are too lenient.", "Judges are not strict enough."),
        ("Nurses earn too little.", "Nurses do not earn enough."),
        ("The state should help the poor.", "The poor should be helped by the state."),
        ("Would you say that life is good?", "Is life good?"),
    ],
)
def test_two_reversals_cancel_out(seed: str, text: str) -> None:
    assert compare(read_words(seed), read_words(text)).reversals % 2 == 0
    assert told(seed, text) is None


@pytest.mark.parametrize(
    ("seed", "text", "reason"),
    [
        ("Three in ten people vote.", "Four in ten people vote.", "another number"),
        ("I read the news every day.", "I read the news every month.", "another number"),
        ("All people are equal before the law.", "Some people are equal before the law.", "another quantity"),
        ("Men lead here.", "Only men lead here.", "another quantity"),
        ("A wife should obey her husband.", "A wife obeys her husband.", "what should be for what is"),
        ("I have signed a petition.", "I would sign a petition.", "what would be for what is"),
    ],
)
def test_quantities_and_moods(seed: str, text: str, reason: str) -> None:
    assert told(seed, text) == reason


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_breaks_it_and_nothing_differs_from_itself(seed: str, text: str) -> None:
    told(seed, text)
    assert told(seed, seed) is None


def test_opposites_by_sense_and_by_form() -> None:
    assert are_opposite("fair", "unfair")
    assert are_opposite("careless", "careful")
    assert are_opposite("more", "less")
    assert not are_opposite("fair", "just")
    assert not are_opposite("press", "impress"[2:])
