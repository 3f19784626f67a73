"""In what numbers a base model is computed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cp_ray.llm.embedded import compute_dtype, load_base, load_shape, load_tokenizer
from tests.tiny import make_base


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> Path:
    folder = tmp_path_factory.mktemp("half")
    for part in load_base(str(whole)):
        part.save_pretrained(folder)
    load_base(str(whole))[0].to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_a_tokenizer_without_an_end_is_padded_with_some_token(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "endless")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = tmp_path / "endless" / name
        if file.exists():
            given = json.loads(file.read_text())
            file.write_text(json.dumps({k: v for k, v in given.items() if k not in ("eos_token", "pad_token")}))
    tokenizer = load_tokenizer(str(tmp_path / "endless"))
    assert tokenizer.eos_token_id is None
    assert tokenizer.pad_token_id == 0


@pytest.mark.parametrize(
    ("has", "draws", "wanted"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, False, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, False, torch.float32),
        ({"amx_bf16": False, "avx512_bf16": True}, True, torch.bfloat16),
        ({}, True, torch.float32),  # on ARM torch tells of other things
    ],
)
def test_a_cpu_computes_in_what_it_is_faster_in(
    monkeypatch: pytest.MonkeyPatch, whole: Path, half: Path, has: dict[str, bool], draws: bool, wanted: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert compute_dtype("cpu", draws=draws) is wanted
    assert load_base(str(half), draws=draws)[0].dtype is wanted
    assert load_base(str(whole), draws=draws)[0].dtype is torch.float32, "weights of 32 bits are never cut"
    assert load_shape(str(half)).dtype is compute_dtype("cpu")
