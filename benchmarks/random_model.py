"""A chat model of a known shape with random weights, for speed alone: nothing is downloaded.

    python -m benchmarks.random_model --shape llama-8b --to /tmp/llama-8b
    python -m benchmarks.training_peer --gpu --base /tmp/llama-8b --answers 1

Its tokenizer knows single bytes, so a text has about four times the tokens that a trained one would make of it; rates
are in tokens and do not mind.
"""

import argparse
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {
    "llama-8b": {"vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
                 "num_attention_heads": 32, "num_key_value_heads": 8},
    "llama-1b": {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                 "num_attention_heads": 32, "num_key_value_heads": 8},
    "tiny": {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2},
}  # fmt: skip
"""As published in the models' configurations; `tiny` has a few thousand weights."""

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--to", type=Path, required=True)
    given = parser.parse_args()
    make(given.shape, given.to)


def make(shape: str, folder: Path, *, dtype: Any = None) -> None:
    """Write configuration, weights (bfloat16 unless `dtype` says otherwise) and tokenizer to a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(SHAPES[shape])
    kind: Any = LlamaForCausalLM  # untyped
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = kind._from_config(LlamaConfig(max_position_embeddings=8192, **sizes), dtype=dtype or torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def random_adapters(
    base: str, root: Path, count: int, *, std: float = 0.03, rank: int = 16, layers: int | None = None
) -> dict[str, Path]:
    """PEFT folders by name (`a0`, `a1`, …): random weights on all linear layers, other ones in each.

    `layers` adapts only the topmost so many.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(base)
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear")
    if layers is not None:
        every = loaded.model.layers
        # PEFT takes some layers with names alone.
        names = {name.rpartition(".")[2] for name, m in every.named_modules() if isinstance(m, torch.nn.Linear)}
        lora.target_modules = sorted(names)
        lora.layers_to_transform = list(range(len(every) - layers, len(every)))
    model: Any = get_peft_model(loaded, lora)
    weights = [weight for name, weight in model.named_parameters() if "lora_" in name]
    found = {}
    for k in range(count):
        torch.manual_seed(k)
        for weight in weights:
            torch.nn.init.normal_(weight, std=std)
        found[f"a{k}"] = root / f"a{k}"
        model.save_pretrained(found[f"a{k}"])
    return found


def tokenizer() -> Any:
    """Of single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={letter: k for k, letter in enumerate(letters)}, merges=[]))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    kind: Any = PreTrainedTokenizerFast  # untyped
    return kind(tokenizer_object=plain, eos_token="<|end|>", pad_token="<|pad|>", chat_template=TEMPLATE)


if __name__ == "__main__":
    main()
