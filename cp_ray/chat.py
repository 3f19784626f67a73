"""Chats as token ids, by a tokenizer's own chat template, and which of them are the assistant's.

The one door for training, serving and evaluation, so that a model is asked as it was taught. An answer's tokens are
found by rendering the chat up to the answer and with it, whatever the template: they run from the first one that the
model has to generate to the one that ends the turn.

A prompt is tokenised by itself, since that is what a model is fed; an answer's tokens go on from there. Where a
tokenizer would merge the prompt's last characters with the answer's first, the two are tokenised apart: no generation
could bring about the merged token.

Messages are text: what looks like a control token in one is tokenised as the characters that it consists of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cp_ray.chat_probe import chat_template
from cp_ray.chat_template import ChatTemplate, Prompt
from cp_ray.errors import ConfigError
from cp_ray.records import Message

__all__ = ["Encoded", "Labelled", "encode_answers", "encode_chats", "encode_prompt", "end_of_turn"]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A chat's token ids, and where in them the assistant speaks."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """[start, end) of each answer to be learnt, the token that ends its turn included."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Chats as rows for training."""

    rows: tuple[Labelled, ...]
    left_out: int
    """Answers that are in no row, being too long with what goes before them."""


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> Prompt:
    """What a model is fed to answer a chat.

    A template that takes no system prompt gets it in front of the user's message that follows, as the cards of such
    models (Gemma) advise. Models that may think before they answer are told not to. Today is always the same day.

    Raises:
        BaseModelError: the template does not take these messages.
    """
    template = chat_template(tokenizer)
    return template.prompt(template.chat(messages))


def encode_answers(
    tokenizer: Any, messages: Sequence[Message], answers: Sequence[str]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Token ids of a prompt, and of each answer to it up to and including the token that ends the turn.

    Raises:
        ConfigError: there is no message to answer.
        BaseModelError: the template does not take these messages, or does not let an answer's tokens be told.
    """
    if not messages:
        raise ConfigError("messages: there must be one before the assistant's answer, got none")
    template = chat_template(tokenizer)
    chat = template.chat(messages)
    prompt = template.prompt(chat)
    said = template.chat([Message("assistant", answer) for answer in answers])
    return prompt.ids, [template.answer(chat, prompt, message["content"]) for message in said]


def encode_chats(tokenizer: Any, chats: Sequence[Sequence[Message]], max_tokens: int) -> Encoded:
    """Chats as rows in which all that the assistant says is labelled, each answer once.

    A chat is one row where its template lets it. Some render an answer otherwise once the chat goes on (Qwen3 leaves
    out an empty thought, Mistral moves the system prompt): there an answer begins a row of its own, after what the
    model is fed to give it, so that it is learnt where it will be given.

    Nothing is cut. An answer that does not end within `max_tokens` is left out and counted; those before it stay.

    Raises:
        ConfigError: a chat has no answer or nothing before it, or no answer of all chats fits.
        BaseModelError: the template does not take a chat, or does not let an answer's tokens be told.
    """
    template = chat_template(tokenizer)
    encoded = [_rows(template, messages, max_tokens) for messages in chats]
    rows = tuple(row for one in encoded for row in one.rows)
    left_out = sum(one.left_out for one in encoded)
    if not rows:
        raise ConfigError(
            f"max_tokens: {max_tokens} leaves nothing to train on, none of {left_out} answers fits with what goes "
            "before it; raise it, or give shorter chats"
        )
    return Encoded(rows, left_out)


def end_of_turn(tokenizer: Any) -> int | None:
    """The token that ends an answer, where generation has to stop; None if the template has none."""
    template = chat_template(tokenizer)
    return template.ids(template.ending)[-1] if template.ending else None


def _rows(template: ChatTemplate, messages: Sequence[Message], max_tokens: int) -> Encoded:
    """One chat, as in `encode_chats`."""
    chat = template.chat(messages)
    answers = [k for k, message in enumerate(chat) if message["role"] == "assistant"]
    if not answers or answers[0] == 0:
        roles = ", ".join(m.role for m in messages)
        raise ConfigError(f"messages: need an answer of the assistant, and one before it, got {roles or 'none'}")
    rows: list[Labelled] = []
    left_out = 0
    for k in answers:
        prompt = template.prompt(chat[:k])
        ids = prompt.ids + template.answer(chat[:k], prompt, chat[k]["content"])
        if len(ids) > max_tokens:
            left_out += 1
            continue
        span = (len(prompt.ids), len(ids))
        if rows and prompt.ids[: len(rows[-1].ids)] == rows[-1].ids:
            rows[-1] = Labelled(ids, (*rows[-1].spans, span))
        else:
            rows.append(Labelled(ids, (span,)))
    return Encoded(tuple(rows), left_out)
