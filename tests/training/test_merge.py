"""Merged models, against PEFT's own with the adapter beside the base."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cp_ray.cli import main
from cp_ray.errors import BaseModelError, ConfigError, CpRayError, RunFolderError
from cp_ray.llm.embedded import load_base
from cp_ray.peft_folder import rank_of
from cp_ray.training import merge as merging
from cp_ray.training.merge import merge
from tests.tiny import make_base

CARD = "---\nbase_model: x\nlibrary_name: peft\n---\n# German people: a culture adapter\n\nNot for decisions.\n"
IDS = torch.tensor([[5, 17, 42, 99, 3, 200]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def make_adapter(base: Path, folder: Path, **changes: Any) -> Path:
    """A PEFT folder, its weights random and its card ours; it says which base it is for."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | changes
    model = get_peft_model(model, LoraConfig(**options))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(IDS).logits.float()
    return found


def adapted(base: Path, adapter: Path) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    return logits(PeftModel.from_pretrained(plain, str(adapter)))


def told(kind: type[CpRayError], *arguments: Any, **options: Any) -> str:
    with pytest.raises(kind) as raised:
        merge(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "r": 7}, {"use_dora": True}], ids=["lora", "rs", "dora"])
def test_a_merged_model_answers_as_base_and_adapter_do(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    adapter = make_adapter(base, tmp_path / "step" / "adapters" / "german", **options)
    merge(tmp_path / "step", tmp_path / "new" / "merged")
    model, tokenizer = load_base(str(tmp_path / "new" / "merged"))
    plain, before = load_base(str(base))
    torch.testing.assert_close(logits(model), adapted(base, adapter), atol=1e-4, rtol=0)
    assert (logits(model) - logits(plain)).abs().max() > 0.1
    chat = [{"role": "user", "content": "Is it so?"}]
    assert tokenizer.apply_chat_template(chat) == before.apply_chat_template(chat)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["merged"], "nothing is left beside it"
    assert not list((tmp_path / "new" / "merged").glob("adapter*"))


def test_the_weights_keep_the_base_s_dtype(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    half: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    shutil.copytree(base, tmp_path / "half")
    half.save_pretrained(tmp_path / "half")
    adapter = make_adapter(tmp_path / "half", tmp_path / "adapter")
    merge(adapter, tmp_path / "merged")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    wanted = adapted(tmp_path / "half", adapter)
    assert (logits(model) - wanted).abs().max() < 0.05 * (logits(half) - wanted).abs().max()


def test_the_card_says_what_became_of_the_adapter(base: Path, tmp_path: Path) -> None:
    merge(make_adapter(base, tmp_path / "adapter"), tmp_path / "merged")
    card = (tmp_path / "merged" / "README.md").read_text()
    assert card.startswith(f"---\nbase_model: {base}\nlibrary_name: transformers\n")
    assert "# German people: a culture adapter\n\nNot for decisions.\n\n## Merged\n" in card
    assert "library_name: peft" not in card
    assert "(LORA, rank 4)" in card


def test_an_adapter_of_another_base_is_told(base: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    def other(**changes: Any) -> Path:
        config = LlamaConfig.from_pretrained(base)
        for name, value in changes.items():
            setattr(config, name, value)
        folder = tmp_path / "-".join(changes)
        shutil.copytree(base, folder)
        LlamaForCausalLM(config).save_pretrained(folder)
        return folder

    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    to = tmp_path / "merged"
    assert "cannot be put into" in told(BaseModelError, adapter, to, base=str(other(intermediate_size=32)))
    for layers in (1, 3):
        wrong = other(num_hidden_layers=layers)
        assert "it was made for another base" in told(BaseModelError, adapter, to, base=str(wrong))
        shutil.rmtree(wrong)
    assert not to.exists()


def test_what_is_no_adapter_is_told(base: Path, tmp_path: Path) -> None:
    to = tmp_path / "merged"
    assert "give a PEFT folder" in told(BaseModelError, tmp_path / "nowhere", to)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text("{}")
    assert "is a whole model, which needs no merge" in told(BaseModelError, tmp_path / "whole", to)
    adapter = make_adapter(base, tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert f"{adapter} cannot be put into" in told(BaseModelError, adapter, to)
    weights.rename(adapter / "adapter_model.bin")
    assert ".bin files are pickles" in told(BaseModelError, adapter, to)
    weights.write_bytes(whole)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    assert "does not name its base; give --base" in told(BaseModelError, adapter, to)
    merge(adapter, to, base=str(base))
    (adapter / "adapter_config.json").write_text("[]")
    assert "adapter_config.json must hold an object; give a PEFT folder" in told(BaseModelError, adapter, to)
    with pytest.raises(BaseModelError, match=r"adapter_config\.json must hold an object"):
        rank_of("german", adapter)


def test_nothing_half_written_is_left(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    (tmp_path / "out" / "full").mkdir(parents=True)
    (tmp_path / "out" / "full" / "mine").write_text("x")
    assert "something is in" in told(RunFolderError, adapter, tmp_path / "out" / "full")
    assert "cannot be written" in told(RunFolderError, adapter, tmp_path / "out" / "full" / "mine" / "x")

    def disk_is_full(*_: Any) -> str:
        assert any((tmp_path / "out").glob(".new.*/model.safetensors")), "so far it has come"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merging, "_card", disk_is_full)
    assert "No space left on device" in told(RunFolderError, adapter, tmp_path / "out" / "new")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["full", "mine"]


def test_the_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    merged = str(tmp_path / "merged")
    for arguments, status in (
        ([str(adapter), "--to", merged, "--format", "onnx"], 2),
        ([str(adapter), "--to", merged], 0),
        ([str(adapter), "--to", merged], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["merge", *arguments])
        assert int(ended.value.code or 0) == status
    out, err = capsys.readouterr()
    assert out == f"{merged}\n"
    wrong, full = (line for line in err.splitlines() if line.startswith("cp-ray: "))
    assert wrong == "cp-ray: format: must be safetensors or gguf, got 'onnx'"
    assert full.startswith("cp-ray: to: something is in")


# GGUF is made by llama.cpp's converter, which no package that we depend on brings. What surrounds it is tested with
# another program in its place; the whole way where it is installed.


def converter(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of the converter's name, alone on the PATH with the shell."""
    folder.mkdir()
    program = folder / "convert_hf_to_gguf.py"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")


def test_without_a_converter_it_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = told(ConfigError, tmp_path / "nowhere", tmp_path / "merged", form="gguf")
    assert "convert_hf_to_gguf.py, which is not on the PATH" in said


def test_a_converter_gets_a_merged_model(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    converter(tmp_path / "bin", f'echo "$@" > {tmp_path}/asked; cp "$1/model.safetensors" "$3"', monkeypatch)
    merge(adapter, tmp_path / "merged", form="gguf")
    assert sorted(p.name for p in (tmp_path / "merged").iterdir()) == ["README.md", "model.gguf"]
    assert "library_name: gguf" in (tmp_path / "merged" / "README.md").read_text()
    assert (tmp_path / "asked").read_text().endswith("model.gguf --outtype auto\n")
    merge(adapter, tmp_path / "plain")
    same = (tmp_path / "plain" / "model.safetensors").read_bytes() == (tmp_path / "merged" / "model.gguf").read_bytes()
    assert same, "the stand-in copied the merged weights"


@pytest.mark.parametrize(
    ("script", "why"),
    [("echo Loading >&2; echo ' No such  tokenizer' >&2; exit 1", "No such tokenizer"), ("true", "status 0")],
)
def test_a_converter_that_fails_is_told(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    converter(tmp_path / "bin", script, monkeypatch)
    said = told(BaseModelError, make_adapter(base, tmp_path / "adapter"), tmp_path / "merged", form="gguf")
    assert said.endswith(f"could not convert the model ({why}); merge to safetensors instead")
    assert not (tmp_path / "merged").exists()


@pytest.mark.skipif(not any(map(shutil.which, merging._CONVERTERS)), reason="llama.cpp's converter is not installed")
def test_a_gguf_file_answers_as_the_merged_model_does(embedded_base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    adapter = make_adapter(embedded_base, tmp_path / "adapter", target_modules=["q_proj"])
    merge(adapter, tmp_path / "merged")
    merge(adapter, tmp_path / "file", form="gguf")
    whole: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    file: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "file", gguf_file="model.gguf", dtype=torch.float32)
    torch.testing.assert_close(logits(file), logits(whole), atol=1e-3, rtol=0)
