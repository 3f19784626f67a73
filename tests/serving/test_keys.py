import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cp_ray.errors import ConfigError
from cp_ray.serving.keys import ANYBODY, Key, Keys, new_key, read_keys

KEY, SHA256 = new_key()


def write(folder: Path, content: Any) -> str:
    path = folder / "keys.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_the_holder_of_a_key_is_known_and_nobody_else(tmp_path: Path) -> None:
    other, sha256 = new_key()
    keys = read_keys(
        write(
            tmp_path,
            {"keys": [{"name": "school", "sha256": SHA256, "models": ["german"]}, {"name": "b", "sha256": sha256}]},
        )
    )
    school = keys.holder(f"Bearer {KEY}")
    assert school is not None
    assert (school.name, school.allows("german"), school.allows("arabic"), school.admin) == (
        "school", True, False, False
    )  # fmt: skip
    found = keys.holder(f"bearer  {other} ")
    assert found is not None
    assert found.name == "b"
    for wrong in (
        "",
        "Bearer",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Basic {KEY}",
        KEY,
        f"Bearer {SHA256}",
        "\xff",
    ):
        assert keys.holder(wrong) is None


def test_the_file_that_operation_md_shows_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operation.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(keys:.*?)```", page, re.DOTALL)
    _, other = new_key()
    keys = read_keys(write(tmp_path, shown.replace("3c9c…", SHA256).replace("71be…", other)))
    school = keys.holder(f"Bearer {KEY}")
    assert school == Key("school", SHA256, 60, 20_000, ("german", "arabic"), "german")
    assert "operator" in shown
    assert all(field.name in shown for field in fields(Key))


def test_every_key_is_compared_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [{"name": f"k{i}", "sha256": hashlib.sha256(str(i).encode()).hexdigest()} for i in range(5)]
    keys = read_keys(write(tmp_path, {"keys": entries}))
    compared: list[str] = []
    monkeypatch.setattr(
        "cp_ray.serving.keys.hmac.compare_digest",
        lambda a, b: compared.append(b) or a == b,  # type: ignore[func-returns-value]
    )
    for presented in ("0", "4", "nobody"):
        compared.clear()
        keys.holder(f"Bearer {presented}")
        assert compared == [entry["sha256"] for entry in entries]


def test_without_keys_everybody_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CP_RAY_KEYS", raising=False)
    assert read_keys(None).holder("") is ANYBODY
    assert Keys(()).open


def test_keys_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CP_RAY_KEYS", f"keys: [{{name: school, sha256: {SHA256}}}]")
    assert read_keys(None).holder(f"Bearer {KEY}") is not None


@pytest.mark.parametrize("content", ["", "  \n", "keys: []", "keys:", "{}"])
def test_where_keys_are_meant_to_be_there_is_no_server_without_them(
    content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CP_RAY_KEYS", content)
    with pytest.raises(ConfigError, match=r"CP_RAY_KEYS (must hold a list|holds none)"):
        read_keys(None)
    monkeypatch.delenv("CP_RAY_KEYS")
    with pytest.raises(ConfigError, match="keys_required: is on and there are no keys"):
        read_keys(None, required=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("admin", "false"), ("admin", 0), ("admin", None), ("models", "german"), ("models", None), ("models", [1]),
        ("models", {"german": True}), ("culture", 5), ("culture", None), ("culture", ["german"]),
        ("tokens_per_minute", None), ("tokens_per_minute", True), ("requests_per_minute", "60"), ("name", ""),
    ],
)  # fmt: skip
def test_a_field_of_another_kind_is_refused_and_allows_nothing(tmp_path: Path, field: str, value: Any) -> None:
    entry = {"name": "school", "sha256": SHA256} | {field: value}
    with pytest.raises(ConfigError, match=rf"keys.yaml entry 1: {field} must be [^\n]*, got {re.escape(repr(value))};"):
        read_keys(write(tmp_path, {"keys": [entry]}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "cannot be read"),
        ("", "must hold a list under `keys`"),
        ({"keys": []}, "nobody could ask"),
        ({"keys": ["x"]}, "entry 1: must be an object"),
        ({"keys": [{"name": "a", "sha256": "x"}]}, "64 digits"),
        ({"keys": [{"sha256": SHA256}]}, "needs a name"),
        ({"keys": [{"name": "a", "sha256": SHA256, "key": "secret"}]}, "unknown field 'key'"),
        ({"keys": [{"name": "a", "sha256": SHA256, "requests_per_minute": 0}]}, "at least 1, got 0"),
        ({"keys": [{"name": "a", "sha256": SHA256}, {"name": "b", "sha256": SHA256}]}, "same sha256"),
    ],
)
def test_a_wrong_file_gives_one_clear_line_that_repeats_no_key(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_keys(write(tmp_path, content))
    assert "secret" not in str(caught.value)
