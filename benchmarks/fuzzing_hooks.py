"""For schemathesis: names that are served, in every other place where it would make one up.

Most requests would else end with an unknown model. It runs in the environment of `benchmarks.fuzzing --schemathesis`.
"""

from typing import Any

import schemathesis

_SERVED = "german"


def map_body(_: Any, body: Any) -> Any:
    """`model` and `culture` of bodies."""
    if isinstance(body, dict):
        for name in ("model", "culture"):
            if isinstance(body.get(name), str) and len(body[name]) % 2 == 0:
                body[name] = _SERVED
    return body


def map_path_parameters(_: Any, parameters: Any) -> Any:
    """The model in paths."""
    for name, value in (parameters or {}).items():
        if isinstance(value, str) and len(value) % 2 == 0:
            parameters[name] = _SERVED
    return parameters


for hook in (map_body, map_path_parameters):
    schemathesis.hook(hook)
