"""API keys: who may ask, how much, and for what. Only their hashes are kept.

    keys:
      - name: school
        sha256: 3c9c…          # of the key; `cp-ray key school` makes one and says both
        requests_per_minute: 60
        tokens_per_minute: 20000
        models: [german, arabic]   # all if left out
        culture: german            # for `model: auto`
        admin: false               # may see metrics and change versions

The keys are random, so a fast hash is enough: there is nothing to guess. What is there but blank,
such as `models:`, is refused: it would allow all.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cp_ray.errors import ConfigError

__all__ = ["ANYBODY", "Key", "Keys", "entry_text", "new_key", "read_keys"]

_VARIABLE = "CP_RAY_KEYS"
"""Environment variable with the file's content, where there is no file."""
_SHA256 = re.compile("[0-9a-f]{64}")
_SHOWN = 40
"""Characters of what breaks a rule that are repeated."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a key allows."""

    name: str
    sha256: str = ""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and answers."""
    models: tuple[str, ...] | None = None
    """Their ids; None: all."""
    culture: str = ""
    """Its holder's, for requests that name none."""
    admin: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("keys: each needs a name, got ''; name its holder")

    def allows(self, model: str) -> bool:
        """Whether it may ask this model."""
        return self.models is None or model in self.models


ANYBODY = Key("anybody", admin=True)
"""Who asks a server that has no keys; it is to listen to its own machine alone."""


class Keys:
    """The keys of a server."""

    def __init__(self, keys: Sequence[Key]) -> None:
        """None: everybody may ask."""
        self._keys = tuple(keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    @property
    def open(self) -> bool:
        """Whether there are no keys."""
        return not self._keys

    def holder(self, authorization: str) -> Key | None:
        """Whose key an Authorization header carries; None: nobody's.

        Takes as long whether the key is there or not, and whichever it is: a hash, and a comparison with every key.
        """
        if self.open:
            return ANYBODY
        scheme, _, presented = authorization.partition(" ")
        digest = hashlib.sha256(presented.strip().encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.sha256) and scheme.lower() == "bearer":
                found = key
        return found


def new_key() -> tuple[str, str]:
    """A key of 256 random bits, and its SHA-256."""
    key = f"cp-{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()


_OTHERS = """\
# requests_per_minute: 60
# tokens_per_minute: 20000    # of prompts and answers
# models: [german, arabic]    # all if left out
# culture: german             # for requests that name none
# admin: true                 # may see /metrics and change versions
"""
"""What may stand beside a key's name and hash."""


def entry_text(name: str, sha256: str) -> str:
    """An entry of the file of keys, with all that it may hold beside as comments.

    Raises:
        ConfigError: the name is empty.
    """
    import yaml

    if not name.strip():
        raise ConfigError(f"name: must not be empty, got {name!r}; name the key's holder, such as school")
    named = yaml.safe_dump({"name": name, "sha256": sha256}, sort_keys=False, allow_unicode=True, width=1_000_000)
    return f"  - {textwrap.indent(named + _OTHERS, '    ').lstrip()}"


def read_keys(path: str | None, *, required: bool = False) -> Keys:
    """The keys of a file, else of the environment variable CP_RAY_KEYS, else none.

    Args:
        path: YAML or JSON, as in this module's docstring.
        required: whether there must be some.

    Raises:
        ConfigError: they cannot be read, an entry breaks a rule, or there are none where some were meant.
    """
    import yaml

    where = path or _VARIABLE
    if not path and _VARIABLE not in os.environ:
        if required:
            raise ConfigError(
                f"keys_required: is on and there are no keys; name their file in `keys`, or set {_VARIABLE}"
            )
        return Keys(())
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8") if path else os.environ[_VARIABLE]
        content: Any = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"keys: {where} cannot be read ({type(error).__name__}); give a YAML file") from error
    if not isinstance(content, dict) or not isinstance(content.get("keys"), list):
        raise ConfigError(f"keys: {where} must hold a list under `keys`, got {json.dumps(content, default=str)[:40]}")
    keys = [_key(where, number, entry) for number, entry in enumerate(content["keys"], 1)]
    if not keys:
        raise ConfigError(f"keys: {where} holds none, so nobody could ask; add one, or leave it out")
    for what in ("name", "sha256"):
        several = [getattr(key, what) for key in keys]
        if len(set(several)) < len(several):
            raise ConfigError(f"keys: {where}: two entries have the same {what}; give each its own")
    return Keys(keys)


def _key(where: str, number: int, entry: Any) -> Key:
    known = [field.name for field in fields(Key)]
    if not isinstance(entry, dict):
        raise ConfigError(f"keys: {where} entry {number}: must be an object with {', '.join(known)}")
    unknown = sorted(str(name) for name in entry if name not in known)
    if unknown:
        # Its value may be a key in plain text: it is not repeated.
        raise ConfigError(f"keys: {where} entry {number}: unknown field {unknown[0]!r}; known: {', '.join(known)}")
    if not isinstance(entry.get("name"), str) or not _SHA256.fullmatch(str(entry.get("sha256", ""))):
        raise ConfigError(f"keys: {where} entry {number}: needs a name, and sha256 as 64 digits of 0-9a-f")
    for field in entry:
        fits, rule = _RULES[field]
        if not fits(entry[field]):
            got = repr(entry[field])[:_SHOWN]
            raise ConfigError(
                f"keys: {where} entry {number}: {field} must be {rule}, got {got}; correct it, or leave it out"
            )
    return Key(**{**entry, **({"models": tuple(entry["models"])} if "models" in entry else {})})


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_text, "a name"),
    "sha256": (_is_text, "64 digits of 0-9a-f"),
    "requests_per_minute": (_is_count, "a whole number of at least 1"),
    "tokens_per_minute": (_is_count, "a whole number of at least 1"),
    "models": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of ids, such as [german]"),
    "culture": (_is_text, "a culture's id"),
    "admin": (lambda value: isinstance(value, bool), "true or false, without quotation marks"),
}
"""What each field of an entry must be."""
