"""Does a wording ask the same? With the real embedder and the real language model."""

from pathlib import Path

import pytest

from cp_ray.errors import ConfigError
from cp_ray.paraphrase import meaning as judging
from cp_ray.paraphrase.meaning import Meaning, MeaningConfig, bare
from cp_ray.pipeline import Step, fingerprint
from cp_ray.stages.check import CheckConfig

SEED = "Do you agree that a wife should obey her husband?"


@pytest.fixture(scope="module")
def meaning() -> Meaning:
    return Meaning(MeaningConfig(tau=0.5))


def test_a_wording_passes_and_what_turns_it_round_does_not(meaning: Meaning) -> None:
    texts = [
        "A wife ought to obey her husband. Do you agree with that?",
        "Do you agree that a wife should not obey her husband?",
        "Do you agree that a husband should obey his wife?",
        "Do you disagree that a wife should obey her husband?",
        "Do you agree that a wife should her husband?",
        "How many bicycles are there in the town?",
    ]
    judged = meaning.judge([(SEED, text) for text in texts])
    assert judged[0].reject is None
    assert [j.reject for j in judged[1:4]] == ["turned round"] * 3
    assert judged[4].reject is not None
    assert judged[5].reject == "too far from the question"
    assert all(j.similarity > 0.5 for j in judged[:5]), "similarity alone would let them all pass"


def test_a_judgement_does_not_hang_on_what_else_is_judged(meaning: Meaning) -> None:
    pair = (SEED, "A wife ought to obey her husband. Do you agree with that?")
    others = [("Is it safe?", "Is it safe at night in this town, or would you say that it is not?"), ("a", "b")]
    (alone,) = meaning.features([pair])
    assert meaning.features([*others, pair])[-1] == pytest.approx(alone, abs=2e-3)


def test_odd_texts_break_nothing(meaning: Meaning) -> None:
    texts = ["", "?", "x" * 3000, "Ω ≠ 5", "don't", "\n"]
    for judgement in meaning.judge([(SEED, text) for text in texts] + [(text, SEED) for text in texts]):
        assert judgement.reject is not None
    assert meaning.judge([]) == []


def test_a_scale_is_no_part_of_a_question() -> None:
    asked = "From 1 (completely disagree) to 10 (completely agree), how far do you agree that we hurry?"
    assert bare(asked).endswith("how far do you agree that we hurry?")
    assert "1" not in bare(asked)
    assert bare("(1 to 10)") == "(1 to 10)", "something is left of every text"


@pytest.mark.parametrize("wrong", [{"tau": 1.1}, {"sureness": -0.1}])
def test_a_wrong_setting_is_told(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be between 0 and 1"):
        MeaningConfig(**wrong)  # type: ignore[arg-type]


def test_other_labelled_pairs_make_another_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def made() -> str:
        return fingerprint(Step("check", CheckConfig(MeaningConfig()), lambda *_: None))

    shipped = made()
    (tmp_path / "pairs.csv").write_bytes(Path(str(judging._PAIRS)).read_bytes())
    monkeypatch.setattr(judging, "_PAIRS", tmp_path / "pairs.csv")
    assert made() == shipped
    (tmp_path / "pairs.csv").write_text("same\n")
    assert made() != shipped
