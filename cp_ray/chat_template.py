"""A tokenizer's chat template: prompts, and the tokens of answers to them.

Token ids come from rendered text, of which no more is known than what `cp_ray.chat_probe` found out about the template.
No text of a chat is searched for markers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from cp_ray.errors import BaseModelError
from cp_ray.records import Message

__all__ = ["Chat", "ChatTemplate", "Prompt", "render"]

Chat = list[dict[str, str]]
"""Messages as templates take them: `role` and `content`."""

_CUT = "\ufdd0"
"""Put where tokens must not merge, and taken out again; Unicode keeps it free for such uses."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat up to where the assistant is to answer."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template, and what came out when it was probed."""

    tokenizer: Any
    source: str
    control: re.Pattern[str]
    """Finds the first character of each control token."""
    folds: bool
    """Whether it takes no system prompt."""
    aside: str
    """What it writes at the end of a prompt alone, not once an answer follows: an empty thought (Gemma 4)."""
    opener: str
    """What it writes before an answer alone, not at the end of a prompt: a role's header, a channel (gpt-oss)."""
    closing: str
    """What it writes after the last answer."""
    ending: str
    """What an answer ends with: `closing`, or the next turn's beginning, up to the token that ends the turn."""
    fault: str
    """Why answers' tokens cannot be told; empty where they can."""

    def chat(self, messages: Sequence[Message]) -> Chat:
        """Messages as the template takes them, cut where they would become control tokens."""
        chat = [{"role": m.role, "content": self.control.sub(rf"\g<0>{_CUT}", m.content)} for m in messages]
        return _folded(chat) if self.folds else chat

    def prompt(self, chat: Chat) -> Prompt:
        """What a model is fed to answer `chat`.

        Raises:
            BaseModelError: the template does not take it.
        """
        text = render(self.tokenizer, self.source, chat, answer_next=True) + self.opener
        return Prompt(text, tuple(self.ids(text)))

    def answer(self, chat: Chat, prompt: Prompt, said: str) -> tuple[int, ...]:
        """The tokens that follow `prompt`, that of `chat`, where the assistant says `said` and ends its turn.

        Raises:
            BaseModelError: the template does not let them be told.
        """
        if self.fault or not prompt.ids:
            raise BaseModelError(f"base model: its chat template {self.fault or 'writes nothing before an answer'}")
        whole = render(self.tokenizer, self.source, [*chat, {"role": "assistant", "content": said}], answer_next=False)
        before = prompt.text.removesuffix(self.aside)
        text = whole[len(before) : len(whole) - len(self.closing)]
        if whole != before + text + self.closing or text.strip() != said.strip():
            raise BaseModelError(
                f"base model: its chat template changes the answer {said[:40]!r} or what is before it, so its tokens "
                "cannot be told apart; leave out thoughts and tool calls, or use a model whose template keeps them"
            )
        ids = self.ids(prompt.text + text + self.ending)
        if ids[: len(prompt.ids)] != list(prompt.ids):
            return tuple(self.ids(_CUT + text + self.ending))
        return tuple(ids[len(prompt.ids) :])

    def ids(self, text: str) -> list[int]:
        """Tokens of rendered text, none of them across a cut."""
        first, *others = text.split(_CUT)
        return self._plain(first) + [id for piece in others for id in self._after(piece)]

    def _plain(self, text: str) -> list[int]:
        # A token for the beginning of a text is the template's to write, or is not meant.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return ids

    def _after(self, piece: str) -> list[int]:
        """Tokens of a piece from the middle of a text; at the beginning of one, some tokenizers would add a space."""
        for before in "\n", "a", ".":
            own, both = self._plain(before), self._plain(before + piece)
            if both[: len(own)] == own:
                return both[len(own) :]
        raise BaseModelError(f"base model: its tokenizer cannot take {piece[:40]!r} apart from what is before it")


def render(tokenizer: Any, source: str, chat: Chat, *, answer_next: bool) -> str:
    """The text of a chat; with `answer_next`, up to where the assistant is to answer.

    Raises:
        BaseModelError: the template does not take it.
    """
    try:
        text: str = tokenizer.apply_chat_template(
            chat,
            chat_template=source,
            tokenize=False,
            add_generation_prompt=answer_next,
            # Models that may think first are told not to, each by its own name for it.
            enable_thinking=False,
            thinking=False,
        )
    except TemplateError as error:
        roles, why = ", ".join(message["role"] for message in chat), " ".join(str(error).split())
        raise BaseModelError(f"base model: its chat template does not take a chat of {roles} ({why})") from error
    return text


def _folded(chat: Chat) -> Chat:
    """System prompts in front of the user's message that follows, a blank line between."""
    folded: Chat = []
    for message in chat:
        if folded and folded[-1]["role"] == "system" and message["role"] in ("system", "user"):
            message = {"role": message["role"], "content": f"{folded.pop()['content']}\n\n{message['content']}"}
        folded.append(message)
    return [m | {"role": "user"} if m["role"] == "system" else m for m in folded]
