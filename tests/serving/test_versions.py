import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from cp_ray.errors import ConfigError
from cp_ray.serving.chat import BadRequest, ModelSpec
from cp_ray.serving.versions import Release, Traffic, Versions

MODELS = (ModelSpec("german", "one"), ModelSpec("base"))


def offer(versions: Versions, version: str, adapter: str, share: float) -> Release:
    release = versions.candidate("german", version, adapter)
    versions.offer("german", release, share)
    return release


def counts(versions: Versions, n: int = 10_000) -> dict[str, int]:
    draws = random.Random(0)
    chosen = [versions.of("german").choose(draws.random()).version for _ in range(n)]
    return {version: chosen.count(version) for version in set(chosen)}


def test_a_version_gets_its_share_is_promoted_and_rolled_back() -> None:
    versions = Versions(MODELS)
    assert counts(versions) == {"1": 10_000}
    release = offer(versions, "2", "two", 0.05)
    assert (release.version, release.adapter) == ("2", "two")
    assert 400 < counts(versions)["2"] < 600
    versions.share("german", 0.5)
    assert 4_800 < counts(versions)["2"] < 5_200
    versions.promote("german")
    assert counts(versions) == {"2": 10_000}
    versions.roll_back("german")
    assert counts(versions) == {"1": 10_000}
    assert versions.of("base").stable.version == "1"


def test_a_version_on_trial_is_taken_back() -> None:
    versions = Versions(MODELS)
    offer(versions, "2", "two", 1)
    versions.roll_back("german")
    assert counts(versions) == {"1": 10_000}
    with pytest.raises(BadRequest, match="no other version"):
        versions.roll_back("german")


def test_a_choice_made_before_a_change_stays_what_it_is() -> None:
    versions = Versions(MODELS)
    before = versions.of("german")
    offer(versions, "2", "two", 1)
    versions.promote("german")
    assert before.choose(0).version == "1"


def test_a_version_that_comes_back_under_an_old_name_is_not_taken_for_the_old_one() -> None:
    versions = Versions(MODELS)
    first = offer(versions, "2", "two", 1)
    versions.roll_back("german")
    assert offer(versions, "2", "other", 1).name != first.name


@pytest.mark.parametrize("version", ["1", "2", "", "../x", "a/b", "x" * 65, "a b"])
def test_a_name_that_is_taken_or_is_none_is_refused(version: str) -> None:
    versions = Versions(MODELS)
    offer(versions, "2", "two", 0)
    with pytest.raises(BadRequest, match="version: "):
        offer(versions, version, "three", 0)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(BadRequest, match="between 0 and 1"):
        offer(Versions(MODELS), "2", "two", share)


def test_a_restart_goes_on_with_the_versions_that_answered(tmp_path: Path) -> None:
    file = tmp_path / "versions.json"
    first = Versions(MODELS, file)
    offer(first, "2", "two", 0.3)
    assert Versions(MODELS, file).of("german") == first.of("german")
    first.promote("german")
    again = Versions(MODELS, file)
    assert again.of("german") == first.of("german")
    assert again.of("german").previous is not None
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("share", ["x", None, True, -0.1, 2, math.nan])
def test_a_share_in_the_file_that_is_none_is_told(tmp_path: Path, share: Any) -> None:
    file = tmp_path / "versions.json"
    offer(Versions(MODELS, file), "2", "two", 0.3)
    kept = json.loads(file.read_text())
    kept["german"]["share"] = share
    file.write_text(json.dumps(kept))
    message = re.escape(f"share must be between 0 and 1, got {share!r})")
    with pytest.raises(ConfigError, match=f"versions.json cannot be read .*{message}; mend it"):
        Versions(MODELS, file)


@pytest.mark.parametrize("text", ["{", '{"german": {"stable": null, "previous": null, "canary": null, "share": 0}}'])
def test_a_file_that_cannot_be_read_gives_one_clear_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "versions.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"versions.json cannot be read .*; mend it, or remove it to begin anew"):
        Versions(MODELS, file)


RETRAINED = (ModelSpec("german", "anew"), ModelSpec("arabic", "arabic/anew"), ModelSpec("base"))


def test_after_a_new_training_what_is_configured_answers_and_a_roll_back_returns_to_what_did(tmp_path: Path) -> None:
    file = tmp_path / "versions.json"
    first = Versions((*MODELS, ModelSpec("arabic", "arabic")), file)
    promoted = offer(first, "2", "two", 1)
    first.promote("german")
    for _ in range(2):  # it is so however often it is started
        again = Versions(RETRAINED, file)
        now = again.of("german")
        assert now.stable == Release("1", RETRAINED[0].engine_name, "anew")
        assert now.previous == promoted
        assert again.of("arabic") == Traffic(Release("1", RETRAINED[1].engine_name, "arabic/anew"))
        assert again.adapters == {"anew", "two", "arabic/anew", None}
    again.roll_back("german")
    assert again.of("german").stable == promoted
    assert Versions(RETRAINED, file).of("german") == again.of("german")


def test_versions_of_two_trainings_have_names_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "versions.json"
    first = Versions(MODELS, file)
    offer(first, "2", "two", 1)
    first.roll_back("german")
    now = Versions(RETRAINED, file).of("german")
    assert now.previous == first.of("german").stable
    assert (now.stable.version, now.previous.version) == ("2", "1")
    assert now.stable.name != now.previous.name


def test_a_promoted_version_that_is_configured_then_stays_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "versions.json"
    first = Versions(MODELS, file)
    offer(first, "2", "two", 1)
    first.promote("german")
    assert Versions((ModelSpec("german", "two"), ModelSpec("base")), file).of("german") == first.of("german")


def test_what_was_not_changed_or_is_not_served_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "versions.json"
    all_of_them = Versions((*MODELS, ModelSpec("arabic", "arabic")), file)
    offer(all_of_them, "2", "two", 1)
    assert set(json.loads(file.read_text())) == {"german"}
    alone = Versions((ModelSpec("arabic", "arabic"),), file)
    alone.offer("arabic", alone.candidate("arabic", "2", "more"), 1)
    assert set(json.loads(file.read_text())) == {"german", "arabic"}
    assert Versions(MODELS, file).of("german") == all_of_them.of("german")
