from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cp_ray.records import Message
from cp_ray.serving import engine as engine_module
from cp_ray.serving.chat import BadRequest, ChatRequest, ChatResult, ContextTooLong
from cp_ray.serving.engine import Engine
from tests.tiny import CONTEXT, make_adapter, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        "base": None,
        "german": make_adapter(base, root / "german", 1),
        "arabic": make_adapter(base, root / "arabic", 2),
    }


@pytest.fixture(scope="module")
def engine(base: Path, adapters: dict[str, Path | None]) -> Engine:
    return Engine(str(base), adapters, prefix_bytes=0)


def ask(text: str, model: str = "german", **options: Any) -> ChatRequest:
    return ChatRequest(model, (Message("user", text),), **({"temperature": 0.0, "max_tokens": 12} | options))


def answers(engine: Engine, *requests: ChatRequest) -> list[ChatResult]:
    results = engine.generate(requests)
    good = [r for r in results if isinstance(r, ChatResult)]
    assert len(good) == len(results)
    return good


def expected(base: Path, adapter: Path | None, request: ChatRequest) -> str:
    """What transformers and PEFT generate for one request alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    chat = [{"role": m.role, "content": m.content} for m in request.messages]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        out = model.eval().generate(**inputs, do_sample=False, max_new_tokens=request.max_tokens)
    decoded: str = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return decoded


def test_a_mixed_wave_gives_what_each_adapter_gives_alone_in_peft(
    base: Path, adapters: dict[str, Path | None], engine: Engine
) -> None:
    requests = [ask(text, model) for model in adapters for text in ("hi", "a longer question about the sea", "x" * 90)]
    texts = [r.text for r in answers(engine, *requests)]
    assert texts == [expected(base, adapters[r.model], r) for r in requests]
    assert len(set(texts)) > 5


def test_sampling_does_not_depend_on_neighbours_or_order(engine: Engine) -> None:
    requests = [ask(f"question {'o' * i}", m, temperature=1.0, seed=i) for i in range(6) for m in ("german", "arabic")]
    together = answers(engine, *requests)
    assert answers(engine, *reversed(requests)) == together[::-1]
    assert [answers(engine, r)[0] for r in requests] == together


def test_the_seed_and_the_prompt_decide_the_draw(engine: Engine) -> None:
    hot: dict[str, Any] = {"temperature": 1.5, "max_tokens": 8}
    first, again, seed, prompt = answers(
        engine, ask("hi", **hot, seed=1), ask("hi", **hot, seed=1), ask("hi", **hot, seed=2), ask("ho", **hot, seed=1)
    )
    assert first == again
    assert len({first.text, seed.text, prompt.text}) == 3


def test_rows_end_at_their_own_lengths(engine: Engine) -> None:
    lengths = [1, 7, 3]
    results = answers(engine, *(ask("hi there", max_tokens=n) for n in lengths))
    assert [r.completion_tokens for r in results] == lengths
    assert {r.finish_reason for r in results} == {"length"}
    assert all(results[1].text.startswith(r.text[:1]) for r in results)


def test_a_stop_string_ends_the_answer_before_it(engine: Engine) -> None:
    whole = answers(engine, ask("tell me"))[0].text
    stop = whole[4:6]
    cut = answers(engine, ask("tell me", stop=("never there", stop)))[0]
    assert cut.text == whole[: whole.find(stop)]
    assert cut.finish_reason == "stop"
    assert cut.completion_tokens < 12


def test_the_end_token_ends_the_answer_and_is_not_shown(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answers(engine, ask("tell me"))[0].text
    end = engine._tokenizer(whole[0], add_special_tokens=False).input_ids[0]
    monkeypatch.setattr(engine, "_ends", {end})
    result = answers(engine, ask("tell me"))[0]
    assert (result.text, result.finish_reason, result.completion_tokens) == ("", "stop", 1)


def test_what_is_wrong_with_one_request_leaves_the_others_alone(engine: Engine) -> None:
    fine = ask("hi")
    long, rude, unknown = ask("x" * CONTEXT), ChatRequest("german", (Message("assistant", "I"),)), ask("hi", "klingon")
    results = engine.generate([long, fine, rude, unknown])
    assert isinstance(results[0], ContextTooLong)
    assert f"context of {CONTEXT}" in str(results[0])
    assert results[1] == answers(engine, fine)[0]
    assert isinstance(results[2], BadRequest)
    assert "user first" in str(results[2])
    assert "known: base, german, arabic" in str(results[3])


def test_an_answer_stops_where_the_context_ends(engine: Engine) -> None:
    result = answers(engine, ask("x" * 200, max_tokens=1000))[0]
    assert result.prompt_tokens + result.completion_tokens <= CONTEXT
    assert result.finish_reason == "length"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of prompt tokens that each prefill really computed, by row."""
    seen: list[int] = []
    groups = engine_module._groups

    def counting(rows: list[Any]) -> Iterator[list[Any]]:
        seen.extend(len(row.fresh) for row in rows)
        return groups(rows)

    monkeypatch.setattr(engine_module, "_groups", counting)
    return seen


def test_a_chat_that_goes_on_is_answered_alike_with_and_without_what_was_kept(
    base: Path, adapters: dict[str, Path | None], engine: Engine, computed: list[int]
) -> None:
    keeping = Engine(str(base), adapters)
    chats = {model: [Message("user", f"I am {model}. " * 5)] for model in adapters}
    for turn in range(3):
        requests = [ChatRequest(m, tuple(chat), max_tokens=5, temperature=0.8) for m, chat in chats.items()]
        extra = ask(f"new {turn}")
        results = answers(keeping, *requests, extra)
        kept = computed[:3]
        computed.clear()
        assert results == answers(engine, *requests, extra)
        if turn:
            assert all(fresh < whole / 2 for fresh, whole in zip(kept, computed[:3], strict=True))
        computed.clear()
        for chat, result in zip(chats.values(), results, strict=False):
            chat.extend([Message("assistant", result.text), Message("user", f"on {turn}")])
