"""Dialogues over batches and a ledger; as a program, one that is killed at a moment of the test's choice."""

import asyncio
import os
import signal
import sys
from typing import Any

from cp_ray.llm.batch import BatchEndpoint, ProviderName
from cp_ray.llm.batch_records import BatchRecords
from cp_ray.llm.call import Completion, Sampling, request_key
from cp_ray.llm.ledger import Ledger
from cp_ray.records import Message

FAST: dict[str, Any] = {"quiet_s": 0.1, "poll_s": 0.05, "settle_s": 0.3}


def talk(
    provider: ProviderName, url: str, root: str, *, dialogues: int = 30, turns: int = 3, **options: Any
) -> list[list[Completion]]:
    """Each dialogue's answers; every one is in the ledger before the next is asked for."""

    async def run() -> list[list[Completion]]:
        endpoint = BatchEndpoint(provider, url, "scripted", options.pop("key", None), root, **(FAST | options))
        ledger = Ledger(root, "dialogue", "scripted")

        async def dialogue(number: int) -> list[Completion]:
            chat, answers = [Message("system", "You are German."), Message("user", f"Question {number}?")], []
            for _ in range(turns):
                sampling, asked = Sampling(0.5, 50, number), list(chat)
                key = request_key("scripted", asked, sampling)
                answer, _ = await ledger.get_or_call(key, lambda a=asked, s=sampling: endpoint(a, s))  # type: ignore[misc]
                answers.append(answer)
                chat += [Message("assistant", answer.text), Message("user", "And then?")]
            return answers

        try:
            return await asyncio.gather(*(dialogue(number) for number in range(dialogues)))
        finally:
            ledger.close()
            await endpoint.close()

    return asyncio.run(run())


def die(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(moment: str) -> None:
    """Arrange for the end of this process."""
    write = BatchRecords.write
    if moment == "before it is created":
        setattr(BatchEndpoint, "_create", die)  # noqa: B010
    elif moment == "before its id is recorded":
        setattr(BatchRecords, "write", lambda self, sent: die() if sent.id else write(self, sent))  # noqa: B010
    elif moment == "while polling":
        setattr(BatchEndpoint, "_until_ended", die)  # noqa: B010
    elif moment == "before its answers are used":
        setattr(Ledger, "_append", die)  # noqa: B010
    else:
        raise ValueError(moment)


if __name__ == "__main__":
    provider, url, root, moment = sys.argv[1:]
    die_at(moment)
    talk(provider, url, root, dialogues=6, turns=2)  # type: ignore[arg-type]
