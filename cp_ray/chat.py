"""Prompts and the answers to them as token ids, by a tokenizer's own chat template.

The one door for training, serving and evaluation, so that a model is asked as it was taught. An answer's tokens are
found by rendering the chat up to the answer and with it, whatever the template: they run from the first one that the
model has to generate to the one that ends the turn.

A prompt is tokenised by itself, since that is what a model is fed; an answer's tokens go on from there. Where a
tokenizer would merge the prompt's last characters with the answer's first, the two are tokenised apart: no generation
could bring about the merged token.

Messages are text: what looks like a control token in one is tokenised as the characters that it consists of.
"""

from collections.abc import Sequence
from typing import Any

from cp_ray.chat_probe import chat_template
from cp_ray.chat_template import Prompt
from cp_ray.errors import ConfigError
from cp_ray.records import Message

__all__ = ["encode_answers", "encode_prompt", "end_of_turn"]


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


def end_of_turn(tokenizer: Any) -> int | None:
    """The token that ends an answer, where generation has to stop; None if the template has none."""
    template = chat_template(tokenizer)
    return template.ids(template.ending)[-1] if template.ending else None
