import random
from pathlib import Path

import pytest

from cp_ray.errors import ConfigError
from cp_ray.serving.chat import BadRequest, ModelSpec
from cp_ray.serving.versions import Release, Versions

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
    file.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        Versions(MODELS, file)
