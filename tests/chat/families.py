"""Small tokenizers and chat templates of our own that behave as those of the families in use.

`templates/NAME.jinja` is a template, and `templates/NAME.txt` what becomes of `CHAT` by it: a row, or several with a
line of = between them; what the assistant says stands between « and ».
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cp_ray.records import Message

CHAT = (
    Message("system", "Be German."),
    Message("user", "Is it so?"),
    Message("assistant", "Yes. "),
    Message("user", "Why?"),
    Message("assistant", "\nIt is."),
)
"""White space where some templates trim it, and where some tokenizers merge it with what is before."""

TEMPLATES = Path(__file__).parent / "templates"

_WORDS = ["\n\n", " Yes", " It", " is", " so", "Yes", "It", "ing", "ist", ".\n", "? "]
"""Merged into one token each, wherever the tokenizer lets them."""


@dataclass(frozen=True)
class Family:
    """A tokenizer's traits."""

    name: str
    kind: Literal["bytes", "gpt2", "prefix", "first", "spaces"]
    """`bytes`: of bytes, line breaks by themselves (Llama 3, Qwen); `gpt2`: of bytes, the last of several line breaks
    apart where something follows; `prefix`: of characters, a space put before every text and behind every control token
    (Llama 2); `first`: before a text alone (Mistral v3); `spaces`: nowhere (Gemma)."""
    special: tuple[str, ...]
    bos: str | None = None
    eos: str | None = None
    strips: bool = False
    """Control tokens swallow the white space behind them."""
    plain: tuple[str, ...] = ()
    """Added tokens that are not called special."""

    @property
    def control(self) -> tuple[str, ...]:
        return tuple(t for t in (*self.special, *self.plain, self.bos, self.eos) if t)

    @functools.cached_property
    def tokenizer(self) -> Any:
        return _tokenizer(self, (TEMPLATES / f"{self.name}.jinja").read_text())

    @property
    def expected(self) -> list[str]:
        """The rows of `CHAT`, as the tokenizer sees them."""
        return [self.seen(row) for row in (TEMPLATES / f"{self.name}.txt").read_text()[:-1].split("\n=====\n")]

    def seen(self, text: str) -> str:
        """The text of its tokens: with the white space that the tokenizer swallows or adds."""
        control = "|".join(map(re.escape, self.control))
        if self.strips:
            text = re.sub(rf"({control})\s*([«»]?)\s+", r"\1\2", text)
        if self.kind == "prefix":
            text = re.sub(rf"((?:^|{control})[«»]?)(?!{control}|[«»]|$)", r"\1 ", text)
        return text

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, control tokens included, nothing stripped."""
        return b"".join(self._bytes(token) for token in self.tokenizer.convert_ids_to_tokens(list(ids))).decode()

    def _bytes(self, token: str) -> bytes:
        if token in self.control:
            return token.encode()
        if self.kind in ("bytes", "gpt2"):
            return bytes(_BYTE_OF[char] for char in token)
        if re.fullmatch("<0x..>", token):
            return bytes([int(token[3:5], 16)])
        return token.replace("▁", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in tokenizers of bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + k): b for k, b in enumerate(rest)}


_BYTE_OF = _byte_alphabet()
_CHAR_OF = {byte: char for char, byte in _BYTE_OF.items()}


def _tokenizer(family: Family, template: str) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AddedToken, PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    if family.kind in ("bytes", "gpt2"):
        words = ["".join(_CHAR_OF[b] for b in word.encode()) for word in _WORDS]
        raw = Tokenizer(models.BPE(*_vocabulary(sorted(_BYTE_OF), words)))
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if family.kind == "bytes":
            lines = pre_tokenizers.Split(Regex(r"\s*\n+| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), "isolated")
            bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            raw.pre_tokenizer = pre_tokenizers.Sequence([lines, bare])
    else:
        alphabet = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁", *map(chr, range(0x21, 0x7F))]
        words = [word.replace(" ", "▁") for word in _WORDS if "\n" not in word or family.kind == "spaces"]
        alphabet += ["\n"] * (family.kind == "spaces")
        raw = Tokenizer(models.BPE(*_vocabulary(alphabet, words), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        if family.kind == "first":
            raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        else:
            steps = [normalizers.Prepend("▁")] * (family.kind == "prefix") + [normalizers.Replace(" ", "▁")]
            raw.normalizer = normalizers.Sequence(steps)
    raw.add_special_tokens(
        [AddedToken(t, rstrip=family.strips, normalized=False, special=True) for t in family.control]
    )
    raw.add_tokens([AddedToken(t, normalized=False, special=False) for t in family.plain])
    if family.bos and ":" not in family.bos:  # which would mean something else there
        # As published: a beginning of text for whoever lets the tokenizer add one.
        single, pair = f"{family.bos} $A", f"{family.bos} $A $B"
        known = [(family.bos, raw.token_to_id(family.bos))]
        raw.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=known)
    tokenizer = fast(tokenizer_object=raw, bos_token=family.bos, eos_token=family.eos)
    tokenizer.chat_template = template
    return tokenizer


def _vocabulary(alphabet: Sequence[str], words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary with all beginnings of the words, and the merges that lead to them."""
    merges = dict.fromkeys((word[:k], word[k]) for word in words for k in range(1, len(word)))
    tokens = dict.fromkeys([*alphabet, *(one + other for one, other in merges)])
    return {token: id for id, token in enumerate(tokens)}, list(merges)


_CHATML = ("<|im_start|>", "<|im_end|>")
_LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_TURNS = ("<start_of_turn>", "<end_of_turn>")
_INST = ("[INST]", "[/INST]")
_V7 = (*_INST, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
_DEEPSEEK = ("<｜User｜>", "<｜Assistant｜>")
_SENTENCE: dict[str, Any] = {"bos": "<｜begin▁of▁sentence｜>", "eos": "<｜end▁of▁sentence｜>"}
_COHERE = tuple(f"<|{name}_TOKEN|>" for name in ("START_OF_TURN", "SYSTEM", "USER", "CHATBOT"))
_GLM = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")
_S: dict[str, Any] = {"bos": "<s>", "eos": "</s>"}
_THINK = ("<think>", "</think>")

FAMILIES = [
    Family("chatml", "bytes", _CHATML, None, "<|im_end|>"),
    Family("chatml-added", "bytes", (), eos="<|endoftext|>", plain=_CHATML),
    Family("chatml-flagless", "bytes", _CHATML, None, "<|im_end|>"),
    Family("smollm", "gpt2", _CHATML, bos="<|im_start|>", eos="<|im_end|>"),
    Family("smollm3", "bytes", _CHATML, bos="<|begin_of_text|>", eos="<|im_end|>", plain=_THINK),
    Family("qwen2", "bytes", _CHATML, None, "<|im_end|>"),
    Family("qwen3", "bytes", _CHATML, None, "<|im_end|>", plain=_THINK),
    Family("qwen3-thinking", "bytes", _CHATML, None, "<|im_end|>", plain=_THINK),
    Family("nemotron-h", "bytes", _CHATML, None, "<|im_end|>"),
    Family("yi", "prefix", _CHATML, bos="<|startoftext|>", eos="<|im_end|>"),
    Family("internlm2", "first", _CHATML, bos="<s>", eos="</s>"),
    Family("lfm2", "bytes", _CHATML, bos="<|startoftext|>", eos="<|im_end|>"),
    Family("olmo2", "bytes", (), bos="<|endoftext|>", eos="<|endoftext|>"),
    Family("olmo3", "bytes", _CHATML, eos="<|endoftext|>"),
    Family("llama2", "prefix", (), **_S),
    Family("llama3", "bytes", _LLAMA3, bos="<|begin_of_text|>", eos="<|eot_id|>"),
    Family("llama3-flagless", "bytes", _LLAMA3, bos="<|begin_of_text|>", eos="<|end_of_text|>"),
    Family("llama3.2", "bytes", _LLAMA3, bos="<|begin_of_text|>", eos="<|eot_id|>"),
    Family("llama4", "bytes", ("<|header_start|>", "<|header_end|>"), bos="<|begin_of_text|>", eos="<|eot|>"),
    Family("mistral-v0.1", "prefix", (), **_S),
    Family("mistral-v1", "prefix", (), **_S),
    Family("mistral-v3", "first", _INST, **_S),
    Family("mistral-v3-tekken", "bytes", _INST, **_S),
    Family("mistral-last-user", "first", _INST, **_S),
    Family("mistral-v7", "first", _V7, **_S),
    Family("mistral-v7-tekken", "bytes", _V7, **_S),
    Family("gemma", "spaces", _TURNS, bos="<bos>", eos="<eos>"),
    Family("gemma3", "spaces", _TURNS, bos="<bos>", eos="<end_of_turn>"),
    Family("gemma4", "spaces", ("<|turn>", "<|channel>", "<channel|>"), bos="<bos>", eos="<turn|>"),
    Family("phi3-mini", "prefix", _PHI, bos="<s>", eos="<|endoftext|>", strips=True),
    Family("phi3-small", "bytes", _PHI, bos="<|endoftext|>", eos="<|endoftext|>"),
    Family("phi3.5", "prefix", _PHI, bos="<s>", eos="<|endoftext|>", strips=True),
    Family("phi4", "bytes", (*_CHATML, "<|im_sep|>"), bos="<|endoftext|>", eos="<|im_end|>"),
    Family("phi4-mini", "bytes", _PHI, bos="<|endoftext|>", eos="<|endoftext|>"),
    Family("zephyr", "prefix", (), **_S),
    Family("stablelm2", "bytes", (), eos="<|endoftext|>"),
    Family("falcon3", "gpt2", (), eos="<|endoftext|>"),
    Family("granite", "gpt2", ("<|start_of_role|>", "<|end_of_role|>"), eos="<|end_of_text|>"),
    Family("deepseek-v2", "bytes", (), **_SENTENCE),
    Family("deepseek-v3", "bytes", _DEEPSEEK, **_SENTENCE, plain=_THINK),
    Family("deepseek-v3.1", "bytes", _DEEPSEEK, **_SENTENCE, plain=_THINK),
    Family("command-r", "bytes", _COHERE, bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>"),
    Family(
        "command-r7b",
        "bytes",
        (*_COHERE, "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
    ),
    Family("openchat", "prefix", ("<|end_of_turn|>",), **_S),
    Family("vicuna", "prefix", (), **_S),
    Family("alpaca", "bytes", (), **_S),
    Family("glm4", "bytes", _GLM, eos="<|endoftext|>"),
    Family("glm-edge", "bytes", _GLM, eos="<|endoftext|>"),
    Family("glm4.5", "bytes", _GLM, eos="<|endoftext|>", plain=_THINK),
    Family("gpt-oss", "bytes", ("<|start|>", "<|message|>", "<|channel|>", "<|end|>"), eos="<|return|>"),
    Family("exaone", "bytes", ("[|system|]", "[|user|]", "[|assistant|]"), bos="[BOS]", eos="[|endofturn|]"),
    Family("jamba", "prefix", ("<|bom|>", "<|eom|>", *_PHI[:3]), bos="<|startoftext|>", eos="<|endoftext|>"),
    Family("kimi-k3", "bytes", ("<|open|>", "<|close|>", "<|sep|>"), eos="<|end_of_msg|>"),
    Family("seed-oss", "bytes", (), bos="<seed:bos>", eos="<seed:eos>"),
]

REFUSED = {
    Family("falcon", "bytes", (), eos="<|endoftext|>"): "end-of-turn token",
    Family("minicpm", "prefix", (), **_S): "end-of-turn token",
    Family("deepseek-r1", "bytes", _DEEPSEEK, **_SENTENCE, plain=_THINK): "begins a thought",
    Family("olmo3-think", "bytes", _CHATML, eos="<|endoftext|>"): "begins a thought",
    Family("yandexgpt", "prefix", ("[SEP]",), **_S): "differently once an answer follows",
}
"""Those whose answers cannot be told, and what is said of them."""


def named(name: str) -> Family:
    """One of them."""
    return next(family for family in [*FAMILIES, *REFUSED] if family.name == name)
