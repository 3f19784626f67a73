import asyncio

import pytest

from cp_ray.errors import ConfigError
from cp_ray.llm.call import Completion, Usage
from cp_ray.llm.scripted import Scripted
from cp_ray.records import Dialogue, Seed
from cp_ray.stages.dialogue import DialogueConfig, dialogue


def seed(culture: str = "german") -> Seed:
    options = ("Agree", "Disagree")
    return Seed(f"{culture}/Q40", culture, "wvs7", "Q40", "social values", "Is work a duty?", options, (0.7, 0.3), 90,
                "Agree", "train")  # fmt: skip


def hold(model: Scripted, config: DialogueConfig, culture: str = "german") -> Dialogue:
    (made,) = asyncio.run(dialogue(seed(culture), model, config))
    return made


def test_delegate_and_contact_take_turns_and_the_delegate_holds_the_survey_s_view() -> None:
    model = Scripted(f"utterance {k}." for k in range(14))
    made = hold(model, DialogueConfig("t"))
    assert [turn.speaker for turn in made.turns] == ["Lukas", "Emily"] * 7
    assert [turn.text for turn in made.turns] == [f"utterance {k}." for k in range(14)]
    assert (made.setting, made.contact, made.delegate, made.reject) == ("cross", "Emily", "Lukas", None)
    assert made.claim == 'Asked "Is work a duty?", Germans most often answer "Agree".'
    systems = [messages[0].content for messages, _ in model.calls]
    assert all(made.claim in s for s in systems[::2])
    assert not any(made.claim in s for s in systems[1::2])


def test_every_prompt_of_a_speaker_begins_with_the_last_one() -> None:
    model = Scripted(f"utterance {k}." for k in range(8))
    hold(model, DialogueConfig("t", rounds=4))
    for k in range(2, 8):
        earlier, later = model.calls[k - 2][0], model.calls[k][0]
        assert later[: len(earlier)] == earlier
        assert later[len(earlier)].role == "assistant"
        assert f"utterance {k - 1}." in later[-1].content, "the partner's last words"


def test_draws_differ_from_turn_to_turn_and_from_seed_to_seed() -> None:
    seeds = []
    for run_seed in (0, 1):
        model = Scripted(["x."] * 4)
        hold(model, DialogueConfig("t", rounds=2, seed=run_seed))
        seeds += [sampling.seed for _, sampling in model.calls]
    assert len(set(seeds)) == 8


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("  ", "empty utterance"), (Completion("", "content_filter", Usage(1, 0)), "content_filter")],
)
def test_a_dialogue_that_breaks_off_is_kept_with_its_reason(answer: str | Completion, reason: str) -> None:
    made = hold(Scripted(["First.", answer, "never"]), DialogueConfig("t"))
    assert made.reject == reason
    assert [turn.text for turn in made.turns] == ["First."]


def test_an_utterance_that_was_cut_off_ends_with_its_last_sentence() -> None:
    cut_off = Completion("I think so. It is said tha", "length", Usage(1, 9))
    made = hold(Scripted([cut_off, "Well."]), DialogueConfig("t", rounds=1))
    assert made.turns[0].text == "I think so."


def test_the_main_contact_s_own_culture_talks_among_itself() -> None:
    assert hold(Scripted(["a.", "b."]), DialogueConfig("t", rounds=1), "english").setting == "in"


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"rounds": 8}, {"per_culture": 0}, {"main_contact": "martian"}])
def test_wrong_settings_are_told(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)) if "main" not in next(iter(wrong)) else "martian"):
        DialogueConfig("t", **wrong)  # type: ignore[arg-type]
