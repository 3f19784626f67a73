"""What the Hugging Face hub has of a model, asked once.

The hub's client tries a call again for half a minute, and `transformers` makes two such calls before it says that a
model cannot be had. One call without a second try tells as much.
"""

from typing import Any

from cp_ray.errors import BaseModelError

__all__ = ["HINT", "fetchable", "first_line"]

HINT = "give a folder with a model, a Hugging Face id, or 'smollm2'"

_TIMEOUT_S = 10.0


def fetchable(name: str) -> bool:
    """Can a model's files be fetched now? False: they are in the cache, and the hub cannot be reached.

    Args:
        name: a Hugging Face id, such as `Qwen/Qwen3-0.6B`.

    Raises:
        BaseModelError: there is no such model, it is gated, or it cannot be had without the hub.
    """
    import httpx2  # whose errors the hub's client lets through
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    asked: Any = get_hf_file_metadata
    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
        asked(hf_hub_url(name, "config.json"), timeout=_TIMEOUT_S)
    except HFValidationError as error:
        raise BaseModelError(f"base model: {name!r} is neither a folder nor a Hugging Face id; {HINT}") from error
    except GatedRepoError as error:
        raise BaseModelError(
            f"base model: {name!r} is gated; ask for access at {constants.ENDPOINT}/{name}, then put your token into "
            "HF_TOKEN or run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise BaseModelError(
            f"base model: no folder {name!r}, and no such model at {constants.ENDPOINT}, or a private one (then put "
            f"your token into HF_TOKEN); {HINT}"
        ) from error
    except EntryNotFoundError as error:
        raise BaseModelError(f"base model: {name!r} has no config.json and is none for transformers; {HINT}") from error
    except (httpx2.HTTPError, OfflineModeIsEnabled) as error:
        if cached:
            return False
        why = "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else first_line(error)
        raise BaseModelError(
            f"base model: no folder {name!r}, it is not in the cache, and {constants.ENDPOINT} cannot be reached "
            f"({why}); fetch it where there is a network (`hf download {name}`), or {HINT}"
        ) from error
    return True


def first_line(error: Exception) -> str:
    """Of what an error says; its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
