import json
import re
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from cp_ray.errors import BaseModelError, ConfigError
from cp_ray.packed_linear import PackedPart, can_pack
from cp_ray.records import Message
from cp_ray.serving.chat import BadRequest, ChatRequest, ChatResult, ContextTooLong, Load, Piece
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
    return Engine(str(base), adapters, prefix_bytes=0, dtype="float32")


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


def test_an_answer_ends_where_the_chat_template_ends_it(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    forgetful = shutil.copytree(base, tmp_path / "forgetful")
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    end = tokenizer.eos_token_id
    tokenizer.eos_token = "<|im_start|>"
    tokenizer.save_pretrained(forgetful)
    (forgetful / "generation_config.json").write_text("{}")
    assert Engine(str(forgetful), {"base": None})._ends == {end, tokenizer.eos_token_id}


def test_a_system_prompt_that_the_template_does_not_take_is_put_before_the_question(base: Path, tmp_path: Path) -> None:
    strict = shutil.copytree(base, tmp_path / "strict")
    template = strict / "chat_template.jinja"
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    engine = Engine(str(strict), {"base": None}, dtype="float32")
    system, user = Message("system", "Be brief."), Message("user", "Why?")
    folded, by_hand = answers(
        engine,
        ChatRequest("base", (system, user), max_tokens=8),
        ChatRequest("base", (Message("user", "Be brief.\n\nWhy?"),), max_tokens=8),
    )
    assert folded == by_hand


def test_what_is_wrong_with_one_request_leaves_the_others_alone(engine: Engine) -> None:
    fine = ask("hi")
    long, rude, unknown = ask("x" * CONTEXT), ChatRequest("german", (Message("assistant", "I"),)), ask("hi", "klingon")
    results = engine.generate([long, fine, rude, unknown])
    assert isinstance(results[0], ContextTooLong)
    assert re.fullmatch(rf"messages: \d+ tokens do not fit the model's context of {CONTEXT}", str(results[0]))
    (text,) = engine.generate([ChatRequest("german", (), text="x" * CONTEXT)])
    assert str(text) == f"prompt: {CONTEXT} tokens do not fit the model's context of {CONTEXT}"
    assert results[1] == answers(engine, fine)[0]
    assert isinstance(results[2], BadRequest)
    assert "user first" in str(results[2])
    assert "known: base, german, arabic" in str(results[3])


def test_an_answer_stops_where_the_context_ends(engine: Engine) -> None:
    result = answers(engine, ask("x" * 200, max_tokens=1000))[0]
    assert result.prompt_tokens + result.completion_tokens <= CONTEXT
    assert result.finish_reason == "length"


def test_a_chat_that_goes_on_is_answered_alike_with_and_without_what_was_kept(
    base: Path, adapters: dict[str, Path | None], engine: Engine
) -> None:
    keeping = Engine(str(base), adapters, dtype="float32")
    chats = {model: [Message("user", f"I am {model}. " * 5)] for model in adapters}
    for turn in range(3):
        requests = [ChatRequest(m, tuple(chat), max_tokens=5, temperature=0.8) for m, chat in chats.items()]
        extra = ask(f"new {turn}")
        results = answers(keeping, *requests, extra)
        assert results == answers(engine, *requests, extra)
        if turn:
            assert all(r.cached_tokens > r.prompt_tokens / 2 for r in results[:3])
        for chat, result in zip(chats.values(), results, strict=False):
            chat.extend([Message("assistant", result.text), Message("user", f"on {turn}")])


def test_of_another_tenant_s_chats_the_engine_tells_nothing(base: Path, adapters: dict[str, Path | None]) -> None:
    keeping = Engine(str(base), adapters, dtype="float32")
    secret, digits = "my PIN is 4711", ("4", "5")
    answers(keeping, ask(secret, tenant="school"))
    guessed = answers(keeping, *(ask(f"my PIN is {digit}", tenant="thief") for digit in digits))
    assert [result.cached_tokens for result in guessed] == [0, 0]
    own = answers(keeping, ask(secret, tenant="school"))[0]
    assert own.cached_tokens == own.prompt_tokens - 1


def run(engine: Engine, *requests: ChatRequest, before: int = 0, loads: list[Load] | None = None) -> list[list[Piece]]:
    """The pieces of requests of which the first is added `before` steps ahead of the others; `loads`: of each step."""
    got: list[list[Piece]] = []
    loads = [] if loads is None else loads
    for k, request in enumerate(requests):
        pieces: list[Piece] = []
        row = engine.prepare(request)
        row.deliver = pieces.append  # type: ignore[assignment]
        engine.add(row)
        got.append(pieces)
        if k == 0:
            for _ in range(before):
                engine.step()
    more = True
    while more:
        more = engine.step()
        loads.append(engine.load)
    return got


def test_a_request_joins_and_leaves_between_two_steps(engine: Engine) -> None:
    long, short = ask("tell me all", max_tokens=30), ask("short", "arabic", max_tokens=3)
    loads: list[Load] = []
    first, second = run(engine, long, short, before=10, loads=loads)
    assert ["".join(p.text for p in first), "".join(p.text for p in second)] == [
        r.text for r in answers(engine, long, short)
    ]
    assert [load.rows for load in loads] == sorted((load.rows for load in loads), reverse=True)
    assert (loads[0].rows, loads[-1]) == (2, Load(0, 0, 0, 0))


def test_a_prompt_and_the_next_tokens_of_answers_are_one_pass(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    logits = engine._logits

    def counted(ids: list[int], *more: Any) -> Any:
        passes.append(len(ids))
        return logits(ids, *more)

    monkeypatch.setattr(engine, "_logits", counted)
    rows = [engine.prepare(ask(text, model, max_tokens=9)) for text, model in (("one", "german"), ("two", "arabic"))]
    for row in rows:
        engine.add(row)
        engine.step()
    assert passes[1] == 1 + len(rows[1].prompt) - rows[1].cached
    assert [len(row.drawn) for row in rows] == [2, 1]
    while engine.step():
        pass
    assert passes[2:] == [2] * 7 + [1]


def test_a_long_prompt_is_computed_in_pieces_beside_answers_that_go_on(
    base: Path, adapters: dict[str, Path | None], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cp_ray.serving.engine._BESIDE_TOKENS", 16)
    talking, long, other = ask("hi", max_tokens=40), ask("x" * 150), ask("y" * 140, "arabic")
    got = run(engine, talking, long, other, before=2)
    monkeypatch.undo()
    assert ["".join(p.text for p in pieces) for pieces in got] == [
        r.text for r in answers(engine, talking, long, other)
    ]


def test_prompts_are_computed_in_the_order_in_which_they_came(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_ALONE_TOKENS", "_BESIDE_TOKENS", "_SHARED_TOKENS"):
        monkeypatch.setattr(f"cp_ray.serving.engine.{name}", 16)
    began: list[str] = []
    first = engine.prepare(ask("first", max_tokens=3))
    engine.add(first)
    while not first.drawn:
        engine.step()
    for text in ("a", "b", "c"):
        row = engine.prepare(ask(text * 90, max_tokens=2))
        row.deliver = lambda _, text=text: began.append(text)  # type: ignore[misc]
        engine.add(row)
    while engine.step():  # the first one leaves meanwhile, and another takes its slot
        pass
    assert "".join(dict.fromkeys(began)) == "abc"


def test_chats_are_admitted_by_tokens(base: Path) -> None:
    small = Engine(str(base), {"base": None}, max_tokens=300, prefix_bytes=0, dtype="float32")
    requests = [ask("x" * 60, "base", max_tokens=30) for _ in range(5)]
    loads: list[Load] = []
    run(small, *requests, loads=loads)
    assert all(load.held <= 300 and load.rows <= 2 for load in loads)
    assert max(load.rows for load in loads) == 2
    alone = run(small, ask("x" * 200, "base", max_tokens=50))[0]
    assert alone[-1].finish_reason


def test_a_cancelled_request_costs_nothing_from_the_next_step_on(engine: Engine) -> None:
    rows = [engine.prepare(ask(f"{k}" * 20, max_tokens=30)) for k in range(3)]
    told: dict[int, int] = {}
    for k, row in enumerate(rows):
        row.deliver = lambda _, k=k: told.update({k: told.get(k, 0) + 1})  # type: ignore[misc]
        engine.add(row)
    for _ in range(4):
        engine.step()
    before = told[1]
    engine.cancel(rows[1])
    waits = engine.prepare(ask("waits"))
    engine.add(waits)
    engine.cancel(waits)
    while engine.step():
        pass
    assert told[1] == before
    assert not waits.drawn
    assert rows[0].finish_reason
    assert rows[2].finish_reason


def test_adapters_leave_for_others_and_come_back(base: Path, adapters: dict[str, Path | None], engine: Engine) -> None:
    narrow = Engine(str(base), adapters, max_adapters=1, prefix_bytes=0, dtype="float32")
    requests = [ask(f"question {k}", model) for k in range(3) for model in ("german", "base", "arabic")]
    assert answers(narrow, *requests) == answers(engine, *requests)
    assert len(narrow.adapters.loaded) == 1
    assert narrow.adapters.nbytes < 1.1 * engine.adapters.nbytes / 2


def test_an_adapter_that_comes_while_others_are_served(base: Path, engine: Engine, tmp_path: Path) -> None:
    growing = Engine(str(base), {"base": None}, prefix_bytes=0, dtype="float32")
    late = make_adapter(base, tmp_path / "late", 7, r=9)
    growing.adapters.know("late", late)
    assert answers(growing, ask("hi", "late"))[0].text == expected(base, late, ask("hi", "late"))
    growing.adapters.forget("late")
    assert "not served" in str(growing.generate([ask("hi", "late")])[0])


def test_the_base_never_answers_in_the_place_of_an_adapter_that_has_gone(
    base: Path, adapters: dict[str, Path | None]
) -> None:
    narrow = Engine(str(base), adapters, max_adapters=1, prefix_bytes=0, dtype="float32")
    row = narrow.prepare(ask("hi", "german"))
    narrow.adapters.forget("german")
    answers(narrow, ask("hi", "arabic"))  # takes its place
    narrow.add(row)
    assert narrow.step(), "it waits, until it is told that whoever asked has left"
    assert not row.drawn
    narrow.cancel(row)
    assert not narrow.step()


def test_requests_that_wait_for_an_adapter_share_it(base: Path, adapters: dict[str, Path | None]) -> None:
    narrow = Engine(str(base), adapters, max_adapters=1, prefix_bytes=0, dtype="float32")
    rows = [narrow.prepare(ask(f"{k}", "arabic")) for k in range(3)]
    assert rows[0].fetched is not None
    assert len({id(row.fetched) for row in rows}) == 1
    seen = weakref.ref(rows[0].fetched)
    for row in rows:
        narrow.add(row)
    while narrow.step():
        pass
    assert seen() is None  # once it is on the base nobody keeps a second copy


def test_log_probabilities_are_those_of_the_model(base: Path, engine: Engine) -> None:
    from transformers import AutoModelForCausalLM

    result = answers(engine, ask("tell me", "base", logprobs=3, max_tokens=4))[0]
    assert len(result.logprobs) == 4
    row = engine.prepare(ask("tell me", "base"))
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    with torch.inference_mode():
        logprobs = torch.log_softmax(model(torch.tensor([row.prompt])).logits[0, -1], -1)
    top = logprobs.topk(3)
    assert [value for _, value in result.logprobs[0].top] == pytest.approx(top.values.tolist(), abs=1e-4)
    assert result.logprobs[0].logprob == pytest.approx(top.values[0].item(), abs=1e-4)
    assert "".join(t.text for t in result.logprobs) == result.text or "\ufffd" in result.text
    assert answers(engine, ask("tell me", "base", max_tokens=4))[0].logprobs == ()


def test_labels_are_scored_without_an_answer(base: Path, engine: Engine) -> None:
    from transformers import AutoModelForCausalLM

    result = answers(engine, ask("Is it so?", "base", labels=("Yes", "No")))[0]
    row = engine.prepare(ask("Is it so?", "base"))
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    with torch.inference_mode():
        logprobs = torch.log_softmax(model(torch.tensor([row.prompt])).logits[0, -1], -1)
    yes, no = (engine._tokenizer(text).input_ids[0] for text in ("Yes", "No"))
    assert result.labels == pytest.approx((logprobs[yes].item(), logprobs[no].item()), abs=1e-4)
    assert (result.text, result.completion_tokens) == ("", 0)
    clash = engine.generate([ask("x", labels=("No", "Nor"))])[0]
    assert "different tokens" in str(clash)


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_queries_keys_and_values_of_one_product_are_those_of_three(
    base: Path, adapters: dict[str, Path | None], monkeypatch: pytest.MonkeyPatch, dtype: str, near: float
) -> None:
    if not can_pack(getattr(torch, dtype)):
        pytest.skip(f"oneDNN does not multiply {dtype} on this CPU")
    requests = [ask(text, model, labels=("yes", "no")) for model in adapters for text in ("hi", "a longer one" * 4)]
    one = Engine(str(base), adapters, dtype=dtype)
    parts = [m for m in one._model.modules() if isinstance(m, PackedPart)]
    assert len(parts) == 2 * 3, "of two layers"
    monkeypatch.setattr("cp_ray.packed_linear.can_pack", lambda dtype: False)
    three = Engine(str(base), adapters, dtype=dtype)
    assert not any(isinstance(m, PackedPart) for m in three._model.modules())
    found, expected = ([r.labels for r in answers(engine, *requests)] for engine in (one, three))
    for own, other in zip(found, expected, strict=True):
        assert own == pytest.approx(other, rel=0.3 * near, abs=near)
    assert found[0] != pytest.approx(found[2], abs=0.2), "an adapter's are others"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_that_overflows_fails_its_own_requests_and_leaves_nothing_behind(
    base: Path, adapters: dict[str, Path | None], tmp_path: Path, dtype: str
) -> None:
    wild = make_adapter(base, tmp_path / "wild", 3, std=1e18)
    engine = Engine(str(base), {**adapters, "wild": wild}, dtype=dtype)
    calm = [ask(text, model) for text in ("how are they", "hi") for model in ("german", "base")]
    alone = [answers(engine, one)[0].text for one in calm]
    for _ in range(2):  # what is next takes the places of what has failed
        broken, *rest = engine.generate([ask("x" * 60, "wild"), *calm])
        assert isinstance(broken, BadRequest)
        assert "'wild' has come to numbers that are not finite" in str(broken)
        texts = [one.text for one in rest if isinstance(one, ChatResult)]
        assert texts == alone if dtype == "float32" else len(texts) == len(alone)
        assert all(texts), "a token of NaN is the first of the vocabulary"
    (broken,) = engine.generate([ask("hi", "wild", labels=("yes", "no"))])
    assert isinstance(broken, BadRequest)
    assert [answers(engine, one)[0].text for one in calm] == alone


def test_a_choice_has_no_more_tokens_than_an_answer_may_have(engine: Engine) -> None:
    tokens = engine.prepare(ask("hi", max_tokens=100, choices=("yes", "x" * 30))).limit
    assert answers(engine, ask("hi", max_tokens=tokens, choices=("x" * 30,)))[0].text == "x" * 30
    with pytest.raises(
        BadRequest, match=rf"^structured_outputs: [^\n]* at most {tokens - 1} tokens here, got {tokens};"
    ):
        engine.prepare(ask("hi", max_tokens=tokens - 1, choices=("yes", "x" * 30)))


def test_choices_of_one_request_differ_and_can_be_had_again(engine: Engine) -> None:
    hot = [ask("hi", temperature=1.5, seed=1, choice=k) for k in range(3)]
    texts = [r.text for r in answers(engine, *hot)]
    assert len(set(texts)) == 3
    assert [r.text for r in answers(engine, *hot)] == texts


def test_a_text_goes_on_without_the_chat_template(base: Path, engine: Engine) -> None:
    request = ChatRequest("base", (), temperature=0, max_tokens=5, text="Once upon <|im_end|> a time")
    row = engine.prepare(request)
    assert len(row.prompt) == len("Once upon <|im_end|> a time")  # control tokens are text
    assert engine._tokenizer.decode(row.prompt) == request.text
    assert answers(engine, request)[0].completion_tokens == 5
    assert "must not be empty" in str(engine.generate([ChatRequest("base", (), text="")])[0])


def test_an_answer_follows_a_json_schema(base: Path) -> None:
    pytest.importorskip("llguidance")
    engine = Engine(str(base), {"base": None}, dtype="float32")
    schema = {
        "type": "object",
        "properties": {"answer": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
        "required": ["answer", "sure"],
        "additionalProperties": False,
    }
    for seed in range(4):
        request = ask("q", "base", schema=json.dumps(schema), temperature=1.0, max_tokens=100, seed=seed)
        free = ask("q", "base", temperature=1.0, max_tokens=20, seed=seed)
        result, beside = answers(engine, request, free)
        answer = json.loads(result.text)
        assert set(answer) == {"answer", "sure"}
        assert answer["answer"] in ("yes", "no")
        assert result.finish_reason == "stop"
        assert beside == answers(engine, free)[0]
    bad = engine.generate([ask("q", "base", schema=json.dumps({"type": "nonsense"}))])[0]
    assert isinstance(bad, BadRequest)
    assert "response_format" in str(bad)


def test_a_schema_that_cannot_be_followed_fails_its_own_request_alone(base: Path) -> None:
    pytest.importorskip("llguidance")
    engine = Engine(str(base), {"base": None}, dtype="float32")
    kinds = [{"type": "array", "items": {"type": "string", "pattern": f"^.*x{k}$"}} for k in range(600)]
    entangled, beside = engine.generate([ask("q", "base", schema=json.dumps({"anyOf": kinds})), ask("hi", "base")])
    assert isinstance(entangled, BadRequest)
    assert "cannot go on by this schema" in str(entangled)
    assert beside == answers(engine, ask("hi", "base"))[0]


def test_a_base_whose_weights_are_a_pickle_is_refused(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    pickled = shutil.copytree(base, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="cannot load"):
        Engine(str(pickled), {"base": None})


@pytest.mark.parametrize("name", ["max_rows", "max_tokens", "max_adapters"])
def test_limits_are_checked(base: Path, name: str) -> None:
    limits: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=name):
        Engine(str(base), {"base": None}, **limits)


def test_a_flood_of_one_tenant_adds_no_step_to_another_s_answer(engine: Engine) -> None:
    polite = ask("a question", tenant="polite")

    def steps_of(request: ChatRequest) -> tuple[int, str]:
        told: list[Piece] = []
        row = engine.prepare(request)
        row.deliver = lambda piece: told.append(piece) if isinstance(piece, Piece) else None
        engine.add(row)
        steps = 0
        while not row.finish_reason:
            engine.step()
            steps += 1
        return steps, "".join(piece.text for piece in told)

    alone = steps_of(polite)
    flood = [engine.prepare(ask(f"{'o' * k} flood", tenant="flood", max_tokens=100)) for k in range(40)]
    for row in flood:
        engine.add(row)
    for _ in range(5):  # some are answered, some prompts are computed, some wait
        engine.step()
    drawn = sum(len(row.drawn) for row in flood)
    assert steps_of(polite) == alone
    assert sum(len(row.drawn) for row in flood) == drawn
    while not all(row.drawn for row in flood):  # one after the other does not hold them back for ever
        steps_of(polite)
    assert 0 < max(row.passed for row in flood) <= 100
    while engine.step():
        pass
    assert all(row.finish_reason for row in flood)
    texts = [engine._tokenizer.decode(row.drawn, skip_special_tokens=True) for row in flood[:3]]
    assert texts == [r.text for r in answers(engine, *(row.request for row in flood[:3]))]


def test_who_leads_does_not_wait_for_a_batch_that_is_full(base: Path) -> None:
    small = Engine(str(base), {"base": None}, max_rows=2, prefix_bytes=0, dtype="float32")
    flood = [small.prepare(ask(f"{k} flood", "base", tenant="flood", max_tokens=200)) for k in range(6)]
    for row in flood:
        row.passed = 1000  # held back for long
        small.add(row)
    for _ in range(3):
        small.step()
    polite = small.prepare(ask("a question", "base", tenant="polite"))
    small.add(polite)
    for _ in range(12):
        small.step()
    assert polite.finish_reason
    assert not any(row.finish_reason for row in flood)
