"""What Ray's LLM serving imports of httpx, which comes with vLLM; its successor is here."""

from httpx2 import *  # noqa: F403
