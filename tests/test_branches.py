"""Shared prompts give exactly what separate rows give."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.branch_probe import check_branches
from cp_ray.branches import (
    Branches,
    answer_logprobs,
    collate,
    collate_trees,
    encode,
    grow,
    hidden_states,
    seen,
    token_logprobs,
)
from cp_ray.errors import BaseModelError
from cp_ray.evals.scorer import Scorer
from cp_ray.records import Message
from cp_ray.trunk import crown, trunk
from tests.tiny import make_model, make_tokenizer


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def tokenizer(embedded_base: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_base)


ROWS = [
    Branches((5, 6, 7, 8), ((10, 11, 2), (12, 2), (10, 13, 14, 2)), (3.0, 1.0, 0.5)),
    Branches((9, 6), ((20, 2),), (2.0,)),
    Branches((5, 6, 7, 30, 31, 32, 33), ((2,), (40, 41, 42, 43, 44, 2)), (1.0, 4.0)),
]


def separate_loss(model: Any, rows: list[Branches]) -> torch.Tensor:
    """The same, row by row, with the model's ordinary forward pass."""
    total = torch.zeros(())
    for row in rows:
        for answer, weight in zip(row.answers, row.weights, strict=True):
            ids = torch.tensor([[*row.prompt, *answer]])
            logprobs = torch.log_softmax(model(ids).logits.float(), -1)[0, len(row.prompt) - 1 : -1]
            total = total - weight * logprobs.gather(1, ids[0, len(row.prompt) :, None]).sum()
    return total


def shared_loss(model: Any, rows: list[Branches], depth: int | None = None) -> torch.Tensor:
    batch = collate(rows, pad_id=0)
    if depth is None:
        states = hidden_states(model, batch)
    else:
        decoder = model.get_decoder()
        below = trunk(decoder, depth, batch.input_ids, batch.positions, seen(model, batch))
        states = crown(decoder, depth, below, batch.positions, seen(model, batch))
    return -(token_logprobs(model, states, batch) * batch.weight).sum()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_those_of_separate_rows(model: Any) -> None:
    apart, together = separate_loss(model, ROWS), shared_loss(model, ROWS)
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)
    wanted, got = gradients(model, apart), gradients(model, together)
    assert wanted.keys() == got.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("granite", {"logits_scaling": 8.0}),
        ("hyperclovax", {"logits_scaling": 0.3, "head_dim": 8}),
        (
            "minicpm3",
            {
                "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8,
                "qk_rope_head_dim": 8, "v_head_dim": 8,
            },
        ),
        ("cohere", {}),
        ("cohere2", {"head_dim": 8}),
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 5.0}),
        ("gemma3_text", {"head_dim": 8, "final_logit_softcapping": 5.0}),
        ("vaultgemma", {"head_dim": 8, "final_logit_softcapping": 5.0}),
        ("nanochat", {}),
    ],
)  # fmt: skip
def test_what_a_family_does_to_its_logits_is_done(family: str, settings: dict[str, Any]) -> None:
    model = make_model(family, **settings)
    with torch.no_grad():
        assert shared_loss(model, ROWS).item() == pytest.approx(separate_loss(model, ROWS).item(), rel=1e-5)


WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {},
    "phi3": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {"head_dim": 8, "use_sliding_window": True, "max_window_layers": 2},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, "num_hidden_layers": 6},
    "olmo3": {},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
}


@pytest.mark.parametrize("family", WINDOWS)
def test_layers_see_no_further_than_their_window(family: str) -> None:
    """With one, and with so wide a one that it does not matter."""
    losses = []
    for window in (4, 100):
        model = make_model(family, sliding_window=window, **WINDOWS[family])
        with torch.no_grad():
            losses.append(separate_loss(model, ROWS).item())
            assert shared_loss(model, ROWS).item() == pytest.approx(losses[-1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_trunk_and_crown_keep_to_the_window(family: str) -> None:
    model = make_model(family, sliding_window=4, **WINDOWS[family])
    with torch.no_grad():
        assert shared_loss(model, ROWS, 3).item() == pytest.approx(shared_loss(model, ROWS).item(), rel=1e-6)


ALIKE = [
    ROWS[0],
    Branches((5, 6, 7, 9, 4), ((10, 11, 12, 2), (10, 11, 2)), (1.0, 2.0)),
    ROWS[1],
    Branches((5, 6, 7, 8), ((10, 13, 15, 2), (12, 2)), (1.0, 1.0)),
    Branches((5, 6, 7, 8, 10, 13), ((14, 2), (2,)), (1.5, 0.5)),
    ROWS[2],
]


def test_rows_that_begin_alike_are_computed_once_with_the_loss_and_the_gradients_of_each(model: Any) -> None:
    trees = [grow(ALIKE[:4]), grow(ALIKE[4:])]
    assert sum(len(tree.tokens) for tree in trees) < 0.8 * sum(row.tokens for row in ALIKE)
    batch = collate_trees(trees, pad_id=0)
    together = -(token_logprobs(model, hidden_states(model, batch), batch) * batch.weight).sum()
    apart = separate_loss(model, ALIKE)
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)
    wanted, got = gradients(model, apart), gradients(model, together)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-5)


CHAINS = st.lists(st.integers(1, 3), min_size=1, max_size=5).map(tuple)
TREES = st.lists(
    st.builds(lambda prompt, answers: Branches(prompt, tuple(answers), (1.0,) * len(answers)), CHAINS,
              st.lists(CHAINS, min_size=1, max_size=4)),
    min_size=1, max_size=6,
)  # fmt: skip


@given(rows=TREES)
def test_a_tree_has_each_beginning_once_and_a_token_sees_its_own(model: Any, rows: list[Branches]) -> None:
    tree = grow(rows)
    chains = [(row.prompt + answer[:-1], path)
              for row, paths in zip(rows, tree.paths, strict=True)
              for answer, path in zip(row.answers, paths, strict=True)]  # fmt: skip
    assert len(tree.tokens) == len({chain[: k + 1] for chain, _ in chains for k in range(len(chain))})
    mask: Any = seen(model, collate_trees([tree], 0))
    seen_by = (mask[0, 0] == 0).tolist()
    for chain, path in chains:
        assert tuple(tree.tokens[place] for place in path) == chain
        assert [tree.depths[place] for place in path] == list(range(len(chain)))
        for k, place in enumerate(path):
            assert [other for other, is_seen in enumerate(seen_by[place]) if is_seen] == list(path[: k + 1])
    for r, row in enumerate(rows):
        assert tuple(tree.tokens[place] for place in tree.places(r)) == grow([row]).tokens


def test_a_branch_does_not_see_its_neighbours(model: Any) -> None:
    batch = collate(ROWS[:1], pad_id=0)
    other = Branches(ROWS[0].prompt, ((50, 51, 2), *ROWS[0].answers[1:]), ROWS[0].weights)
    changed = collate([other], pad_id=0)
    with torch.no_grad():
        one, two = (answer_logprobs(token_logprobs(model, hidden_states(model, b), b), b) for b in (batch, changed))
    torch.testing.assert_close(one[1:], two[1:])
    assert abs(float(one[0] - two[0])) > 1e-4


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_trunk_and_crown_are_the_whole_model(model: Any, depth: int) -> None:
    with torch.no_grad():
        assert shared_loss(model, ROWS, depth).item() == pytest.approx(shared_loss(model, ROWS).item(), rel=1e-6)


def test_padding_changes_nothing(model: Any) -> None:
    with torch.no_grad():
        alone = sum(shared_loss(model, [row]).item() for row in ROWS)
        assert shared_loss(model, ROWS).item() == pytest.approx(alone, rel=1e-5)


def test_tokens_are_those_that_are_fed() -> None:
    assert [row.tokens for row in ROWS] == [4 + 2 + 1 + 3, 2 + 1, 7 + 0 + 5]
    assert collate(ROWS, pad_id=0).input_ids.shape == (3, 12)


class TestChatTemplates:
    """Which tokens are the assistant's, on real and on made-up templates."""

    CHAT = (Message("system", "You are German."), Message("user", "Is it so?\nOptions: Yes; No"))

    def test_an_answer_is_its_text_and_the_end_of_the_turn(self, tokenizer: Any) -> None:
        row = encode(tokenizer, self.CHAT, [("Strongly agree", 2.0), ("No", 1.0)])
        assert tokenizer.decode(row.answers[0]) == "Strongly agree<|im_end|>"
        assert tokenizer.decode(row.answers[1]) == "No<|im_end|>"
        assert tokenizer.decode(row.prompt).endswith("<|im_start|>assistant\n")
        assert row.weights == (2.0, 1.0)

    @pytest.mark.parametrize(
        ("template", "said"),
        [
            ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "end-of-turn"),
            (
                "{{ messages|length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
                "differently once an answer follows",
            ),
        ],
    )
    def test_a_template_that_cannot_be_masked_is_refused(self, tokenizer: Any, template: str, said: str) -> None:
        import copy

        odd = copy.deepcopy(tokenizer)
        odd.chat_template = template
        with pytest.raises(BaseModelError, match=said):
            encode(odd, self.CHAT, [("No", 1.0)])


KEEPING_A_STATE: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "qwen3_next": {
        "head_dim": 8, "layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_key_heads": 2,
        "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_experts": 0,
        "mlp_only_layers": [0, 1, 2, 3],
    },
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8,
        "num_local_experts": 0, "shared_intermediate_size": 32,
    },
}  # fmt: skip


class TestProbe:
    """What cannot be computed as branches is refused when it is loaded."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
    def test_attention_passes(self, family: str, dtype: torch.dtype) -> None:
        check_branches(make_model(family, **WINDOWS.get(family, {})).to(dtype))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("family", KEEPING_A_STATE)
    def test_layers_that_keep_a_state_are_refused(self, family: str, dtype: torch.dtype) -> None:
        model = make_model(family, **KEEPING_A_STATE[family]).to(dtype)
        with pytest.raises(BaseModelError, match=f"^base model: answers to one prompt .* {family} are up to 0[^\n]*$"):
            check_branches(model)

    def test_a_head_that_nobody_knows_of_is_refused(self) -> None:
        model = make_model("llama")
        plain = model.forward
        model.forward = lambda **given: SimpleNamespace(logits=plain(**given).logits / 2)
        with pytest.raises(BaseModelError, match="those of llama are up to"):
            check_branches(model)

    def test_a_decoder_that_takes_no_mask_of_ours_is_refused(self) -> None:
        with pytest.raises(BaseModelError, match=r"^base model: mamba cannot compute several answers [^\n]*$"):
            check_branches(make_model("mamba", state_size=8))

    def test_it_is_asked_before_scoring(self, tmp_path: Path) -> None:
        make_model("lfm2", **KEEPING_A_STATE["lfm2"], vocab_size=300).save_pretrained(tmp_path)
        make_tokenizer().save_pretrained(tmp_path)
        with pytest.raises(BaseModelError, match="those of lfm2"):
            Scorer(str(tmp_path), {})
