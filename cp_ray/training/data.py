"""From examples to rows: what shares a prompt together, whose it is, and what is kept to validate with.

A prompt with more answers than `max_tokens` has room for is several rows, each with some of the answers: every answer
counts as it did, and none is left out for being one of many.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cp_ray.arrow import to_table
from cp_ray.branches import Branches, common, encode
from cp_ray.errors import ConfigError
from cp_ray.records import Example, Message
from cp_ray.training.config import AdapterConfig, TrainConfig
from cp_ray.training.rows import Blocks, Held, Rows, Tokenised, heads

__all__ = ["Data", "Learnt", "Prompt", "divide", "make_data", "make_prompts", "tokenise"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with its answers, each distinct one once, for one adapter."""

    index: int
    """Among all prompts of the run."""
    stem: int
    """The first prompt, by its index, of those that begin like this one."""
    adapter: int
    validation: bool
    """Kept to validate with."""
    shares: bool
    """Its answers are options of a survey question, and their weights a distribution."""
    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    weights: tuple[float, ...]
    """One an answer: the examples that it stands for."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """How many examples of each kind an adapter is trained on."""

    answers: int
    """To questions of the survey, those made of two included."""
    opinions: int


@dataclass(frozen=True, slots=True)
class Data:
    """All rows of a run; the order is the same in every process."""

    train: Rows
    validation: Rows
    too_long: int
    """Examples left out for being longer than `max_tokens`, each with its prompt."""

    def learnt(self, config: TrainConfig, name: str) -> Learnt:
        """What an adapter of the run is trained on."""
        k = [adapter.name for adapter in config.adapters].index(name)
        counts = [0, 0]
        for row in self.train:
            if row.adapter == k:
                counts[not row.shares] += _examples(row.weight, row.shares, config)
        return Learnt(*counts)


def make_prompts(examples: Sequence[Example], config: TrainConfig) -> list[Prompt]:
    """The prompts of all adapters, adapter by adapter, in the order of their examples' ids.

    Raises:
        ConfigError: an adapter has no rows, all of its rows weigh nothing, or an example does not end with the
            assistant's message.
    """
    found = list[Prompt]()
    for k, adapter in enumerate(config.adapters):
        ids = {culture.id for culture in adapter.cultures}
        own = [e for e in examples if e.culture in ids]
        kept_back, before = _validation_questions(own, config), len(found)
        trained = [e for e in own if not {e.question_id, e.other_question_id} & kept_back]
        validated = [e for e in own if e.question_id in kept_back and e.kind != "mixed"]
        found += _by_prompt(trained, config, k, len(found), validation=False)
        found += _by_prompt(validated, config, k, len(found), validation=True)
        if len(found) == before:
            raise _nothing_of(adapter, own)
    return found


def tokenise(prompts: Iterable[Prompt], tokenizer: Any, config: TrainConfig) -> pa.Table:
    """A table of `Tokenised`, a prompt's rows one behind the other.

    Raises:
        BaseModelError: the tokenizer's chat template cannot be used.
    """
    rows = (row for prompt in prompts for row in _tokenised(prompt, tokenizer, config))
    return to_table(rows, Tokenised)


def divide(known: pa.Table, blocks: Blocks, config: TrainConfig) -> Data:
    """What is trained on, and what is validated with.

    Args:
        known: `heads` of all blocks, in whatever order.
        blocks: of `Tokenised`.
        config: the run's.

    Raises:
        ConfigError: an adapter has nothing to train on that is short enough, or nothing by which to stop early.
    """
    import pyarrow.compute as pc

    fits = pc.less_equal(known["tokens"], config.max_tokens)
    short = known.filter(fits).sort_by([("index", "ascending"), ("part", "ascending")])
    left_out = Rows(known.filter(pc.invert(fits)), blocks)
    too_long = sum(_examples(row.weight, row.shares, config) for row in left_out)
    parts = [short.filter(pc.equal(short["validation"], part)) for part in (False, True)]
    trained, validated = (set(part["adapter"].unique().to_pylist()) for part in parts)
    for k, adapter in enumerate(config.adapters):
        if k not in trained:
            raise ConfigError(
                f"max_tokens: no row of {adapter.name} has at most {config.max_tokens} tokens, of those to train on; "
                "give more"
            )
        if adapter.patience is not None and k not in validated:
            raise ConfigError(
                f"validation: {adapter.name} is to stop early, and has no short enough question to validate with "
                "beside those it is trained on; give it more, or no patience"
            )
    return Data(Rows(parts[0], blocks), Rows(parts[1], blocks), too_long)


def make_data(examples: Sequence[Example], config: TrainConfig, tokenizer: Any) -> Data:
    """All of it in this process, from examples to rows.

    Raises:
        ConfigError, BaseModelError: as `make_prompts`, `tokenise` and `divide`.
    """
    block = tokenise(make_prompts(examples, config), tokenizer, config)
    return divide(heads(block, 0), Held((block,)), config)


def _tokenised(prompt: Prompt, tokenizer: Any, config: TrainConfig) -> Iterator[Tokenised]:
    """A prompt's rows. One that is longer than `max_tokens` is an answer, or a distribution, that is so by itself."""
    whole = encode(tokenizer, prompt.messages, list(zip(prompt.answers, prompt.weights, strict=True)))
    # The answers of a distribution are renormalised over each other.
    together = prompt.shares and config.objective == "distribution"
    for part, row in enumerate([whole] if together else _cut(whole, config.max_tokens)):
        yield Tokenised(
            prompt.index, part, prompt.stem, prompt.adapter, prompt.validation, prompt.shares, row.tokens,
            math.fsum(row.weights), row.prompt, row.answers, row.weights,
        )  # fmt: skip


def _cut(row: Branches, most: int) -> Iterator[Branches]:
    """Rows of at most `most` tokens, in the order of the answers; an answer that is too long has one to itself."""
    start = 0
    tokens = len(row.prompt)
    for k, answer in enumerate(row.answers):
        if k > start and tokens + len(answer) - 1 > most:
            yield Branches(row.prompt, row.answers[start:k], row.weights[start:k])
            start, tokens = k, len(row.prompt)
        tokens += len(answer) - 1
    yield Branches(row.prompt, row.answers[start:], row.weights[start:])


def _examples(weight: float, shares: bool, config: TrainConfig) -> int:
    """How many there are in a row of this weight."""
    return round(weight if shares else weight / config.opinion_weight)


def _by_prompt(
    examples: Sequence[Example], config: TrainConfig, adapter: int, first: int, *, validation: bool
) -> list[Prompt]:
    """Examples by prompt, in the order of their ids, each answer weighted with how often it was given.

    For a distribution the options that nobody chose stand beside the others, with a weight of 0.
    """
    found: dict[tuple[tuple[Message, ...], bool], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for example in sorted(examples, key=lambda e: e.id):
        *prompt, answer = example.messages
        if answer.role != "assistant":
            raise ConfigError(f"examples: {example.id} must end with the assistant's message, got {answer.role!r}")
        weight = config.opinion_weight if example.kind == "opinion" else 1.0
        # A step of rows that weigh nothing has no mean loss.
        if weight > 0:
            answers = found[tuple(prompt), example.kind != "opinion"]
            answers[answer.content] += weight
            if config.objective == "distribution":
                for option in example.options:
                    answers.setdefault(option, 0.0)
    stems = _stems([messages for messages, _ in found])
    return [
        Prompt(
            first + k, first + stem, adapter, validation, shares, messages, *zip(*sorted(answers.items()), strict=True)
        )
        for k, (stem, ((messages, shares), answers)) in enumerate(zip(stems, found.items(), strict=True))
    ]


def _stems(prompts: Sequence[tuple[Message, ...]]) -> list[int]:
    """Of each prompt the first of those with which it shares half of its text or more, beyond what all begin with."""
    texts = ["\n".join(f"{message.role}: {message.content}" for message in prompt) for prompt in prompts]
    every = common(min(texts), max(texts)) if texts else 0
    runs: list[list[int]] = []
    for k in sorted(range(len(texts)), key=lambda k: texts[k]):
        shared = common(texts[runs[-1][0]], texts[k]) if runs else 0
        if runs and 2 * (shared - every) >= len(texts[k]) - every:
            runs[-1].append(k)
        else:
            runs.append([k])
    stems = {k: min(run) for run in runs for k in run}
    return [stems[k] for k in range(len(texts))]


def _validation_questions(own: Sequence[Example], config: TrainConfig) -> frozenset[str]:
    """A share of an adapter's questions: whoever is trained beside it, and the same for all who have the same ones."""
    questions = sorted(
        {e.question_id for e in own}, key=lambda q: hashlib.sha256(f"{config.seed}/{q}".encode()).digest()
    )
    # A share of few questions would be none, and nobody would stop early or keep the best weights.
    kept = max(1, round(config.validation * len(questions))) if config.validation else 0
    return frozenset(questions[: min(kept, len(questions) - 1)])  # one at least is trained on


def _nothing_of(adapter: AdapterConfig, own: Sequence[Example]) -> ConfigError:
    if not own:
        return ConfigError(
            f"examples: there are none of {adapter.name} to train on; look at what the steps before set aside"
        )
    return ConfigError(
        f"opinion_weight: is 0 and {adapter.name} has only opinions to train on; give it more, or add answers"
    )
