import asyncio
import dataclasses
from typing import Any

import pytest

from cp_ray.cultures import CULTURES, Persona
from cp_ray.errors import ConfigError
from cp_ray.llm.call import Completion, Usage
from cp_ray.llm.scripted import Scripted
from cp_ray.records import Candidate, Dialogue, Seed
from cp_ray.stages.dialogue import DialogueConfig, dialogue

ENGLISH = CULTURES["english"]


def seed(culture: str = "german") -> Seed:
    options = ("Agree", "Disagree")
    return Seed(f"{culture}/Q40", culture, "wvs7", "Q40", "social values", "Is work a duty?", options, (0.7, 0.3), 90,
                "Agree", "train")  # fmt: skip


def config(**settings: Any) -> DialogueConfig:
    given: dict[str, Any] = {"teacher": "t", "cultures": tuple(CULTURES.values()), "main_contact": ENGLISH, **settings}
    return DialogueConfig(**given)


def hold(model: Scripted, given: DialogueConfig, culture: str = "german", sample: int = 0) -> Dialogue:
    (made,) = asyncio.run(dialogue(Candidate(f"{culture}/Q40/{sample}", seed(culture), sample), model, given))
    return made


def test_delegate_and_contact_take_turns_and_the_delegate_holds_the_survey_s_view() -> None:
    model = Scripted(f"utterance {k}." for k in range(14))
    made = hold(model, config())
    assert [turn.speaker for turn in made.turns] == ["Lukas", "Emily"] * 7
    assert [turn.text for turn in made.turns] == [f"utterance {k}." for k in range(14)]
    assert (made.setting, made.contact, made.delegate, made.reject) == ("cross", "Emily", "Lukas", None)
    assert made.claim == 'Asked "Is work a duty?", Germans most often answer "Agree".'
    systems = [messages[0].content for messages, _ in model.calls]
    assert all(made.claim in s for s in systems[::2])
    assert not any(made.claim in s for s in systems[1::2])


def test_every_prompt_of_a_speaker_begins_with_the_last_one() -> None:
    model = Scripted(f"utterance {k}." for k in range(8))
    hold(model, config(rounds=4))
    for k in range(2, 8):
        earlier, later = model.calls[k - 2][0], model.calls[k][0]
        assert later[: len(earlier)] == earlier
        assert later[len(earlier)].role == "assistant"
        assert f"utterance {k - 1}." in later[-1].content, "the partner's last words"


def test_draws_differ_between_turns_samples_and_seeds() -> None:
    seeds = []
    for run_seed in (0, 1):
        for sample in (0, 1, 2):
            model = Scripted(["x."] * 4)
            hold(model, config(rounds=2, seed=run_seed), sample=sample)
            seeds += [sampling.seed for _, sampling in model.calls]
    assert len(set(seeds)) == 24


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("  ", "empty utterance"), (Completion("", "content_filter", Usage(1, 0)), "content_filter")],
)
def test_a_dialogue_that_breaks_off_is_kept_with_its_reason(answer: str | Completion, reason: str) -> None:
    made = hold(Scripted(["First.", answer, "never"]), config())
    assert made.reject == reason
    assert [turn.text for turn in made.turns] == ["First."]


def test_an_utterance_that_was_cut_off_ends_with_its_last_sentence() -> None:
    cut_off = Completion("I think so. It is said tha", "length", Usage(1, 9))
    made = hold(Scripted([cut_off, "Well."]), config(rounds=1))
    assert made.turns[0].text == "I think so."


def test_the_main_contact_s_own_culture_talks_among_itself() -> None:
    assert hold(Scripted(["a.", "b."]), config(rounds=1), "english").setting == "in"


def test_a_culture_of_the_user_talks_as_it_is_described() -> None:
    bavarian = dataclasses.replace(CULTURES["german"], id="bavarian", adjective="Bavarian", people="Bavarians")
    model = Scripted(["a.", "b."])
    made = hold(model, config(rounds=1, cultures=(bavarian,), main_contact=CULTURES["greek"]), "bavarian")
    assert "Bavarians most often answer" in made.claim
    assert model.calls[0][0][0].content.startswith("You are Lukas, a Bavarian man.")
    assert made.contact == "Eleni"


def test_within_a_culture_both_hold_the_survey_s_view() -> None:
    model = Scripted(f"utterance {k}." for k in range(14))
    made = hold(model, config(setting="in"))
    assert (made.setting, made.delegate, made.contact) == ("in", "Lukas", "Hanna")
    assert all(made.claim in messages[0].content for messages, _ in model.calls)
    assert {turn.prompt_kind for turn in made.turns} >= {"opinion", "culture", "more", "custom", "learnt"}


def test_a_free_talk_hears_the_partner_and_nobody_else() -> None:
    model = Scripted(f"utterance {k}." for k in range(14))
    made = hold(model, config(style="free"))
    assert made.style == "free"
    assert [turn.prompt_kind for turn in made.turns] == ["opinion", "respond"] + ["free"] * 12
    for k in range(2, 14):
        assert model.calls[k][0][-1].content == f"utterance {k - 1}."


@pytest.mark.parametrize("delegate", ["man", "woman"])
@pytest.mark.parametrize("contact", ["man", "woman"])
def test_either_gender_speaks(delegate: str, contact: str) -> None:
    model = Scripted(["a.", "b."])
    german = (CULTURES["german"],)
    made = hold(model, config(cultures=german, rounds=1, delegate_gender=delegate, contact_gender=contact))
    assert made.delegate == {"man": "Lukas", "woman": "Hanna"}[delegate]
    assert made.contact == {"man": "Jack", "woman": "Emily"}[contact]
    assert f"a German {delegate}" in model.calls[0][0][0].content


def test_without_calibration_the_delegate_is_not_told_the_answer() -> None:
    model = Scripted(f"utterance {k}." for k in range(14))
    made = hold(model, config(calibrated=False))
    assert not any(made.claim in messages[0].content for messages, _ in model.calls)
    assert made.claim.endswith('"Agree".'), "it stays the yardstick"


def test_one_man_does_not_talk_with_himself() -> None:
    with pytest.raises(ConfigError, match="contact_gender: 'arabic' talks within itself and has one man"):
        config(setting="in", contact_gender="man")


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"rounds": 8}, {"setting": "x"}, {"style": "x"}, {"contact_gender": "x"}]
)
def test_wrong_settings_are_told(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        config(**wrong)


def test_two_speakers_of_one_name_are_told() -> None:
    same = dataclasses.replace(ENGLISH, female=Persona("Lukas", "woman"))
    with pytest.raises(ConfigError, match="'Lukas' is the man of 'german' and the woman of the main contact 'english'"):
        config(main_contact=same)
