"""What models cost: the user's table first, then the published prices that the package `genai-prices` carries."""

import json
from collections.abc import Mapping
from pathlib import Path

from cp_ray.errors import ConfigError
from cp_ray.llm.budget import Price

__all__ = ["price_of", "read_prices"]

_THOUSAND = 1000


def price_of(model: str, table: Mapping[str, Price]) -> Price | None:
    """The price of a model, or None if it is not known; a user's table goes before published prices."""
    if model in table:
        return table[model]
    from genai_prices import Usage, calc_price

    # Asked for a thousand tokens, since some prices rise with the length of a prompt.
    try:
        prompt = calc_price(Usage(input_tokens=_THOUSAND, output_tokens=0), model_ref=model).input_price
        completion = calc_price(Usage(input_tokens=0, output_tokens=_THOUSAND), model_ref=model).output_price
    except LookupError:
        return None
    return Price(float(prompt) * _THOUSAND, float(completion) * _THOUSAND)


def read_prices(path: str | None) -> dict[str, Price]:
    """A user's price table: JSON, `{"model": {"prompt": 0.15, "completion": 0.6}}` in USD per million tokens.

    Raises:
        ConfigError: the file cannot be read as one.
    """
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last one's of brackets without end
        raise ConfigError(f"prices: {path} cannot be read ({error}); give a JSON file") from error
    if not isinstance(found, dict):
        raise ConfigError(f"prices: {path} must hold an object of models, got {type(found).__name__}")
    return {model: _price(path, model, given) for model, given in found.items()}


def _price(path: str, model: str, given: object) -> Price:
    rule = 'must be {"prompt": USD, "completion": USD} per million tokens'
    if not isinstance(given, dict) or set(given) != {"prompt", "completion"}:
        raise ConfigError(f"prices: {path}: {model!r} {rule}, got {given!r}")
    for value in given.values():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6:
            raise ConfigError(f"prices: {path}: {model!r} {rule}, got {value!r}")
    return Price(float(given["prompt"]), float(given["completion"]))
