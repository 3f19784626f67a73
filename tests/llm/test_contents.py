import shutil
from pathlib import Path

import pytest

from cp_ray.errors import BaseModelError
from cp_ray.llm import contents
from cp_ray.llm.contents import contents_of
from cp_ray.pipeline import fingerprint
from cp_ray.recipe import load_recipe, parse_recipe
from cp_ray.steps.evaluate import evaluate
from tests.tiny import make_base

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


def overwrite(base: Path) -> None:
    """One weight in the middle is another; nothing has another size."""
    file = base / "model.safetensors"
    weights = bytearray(file.read_bytes())
    weights[len(weights) // 2] ^= 1
    file.write_bytes(weights)


def test_whatever_makes_another_model_is_seen(base: Path, tmp_path: Path) -> None:
    found = [contents_of(str(base))]
    overwrite(base)
    found.append(contents_of(str(base)))
    for name, old, new in (
        ("config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'),
        ("tokenizer.json", "<|im_start|>", "<|im_begin|>"),
        ("chat_template.jinja", "user first", "user begins"),
    ):
        text = (base / name).read_text()
        assert old in text
        (base / name).write_text(text.replace(old, new))
        found.append(contents_of(str(base)))
    (base / "generation_config.json").unlink()
    found.append(contents_of(str(base)))
    assert None not in found
    assert len(set(found)) == len(found)


def test_a_copy_is_the_same_and_what_is_not_loaded_is_of_no_matter(base: Path, tmp_path: Path) -> None:
    held = contents_of(str(base))
    copy = shutil.copytree(base, tmp_path / "copy", copy_function=shutil.copy)
    (copy / "README.md").write_text("# A model")
    (copy / "pytorch_model.bin").write_bytes(b"the same in another format")
    assert contents_of(str(copy)) == held


def test_names_stand_for_the_embedded_model_and_for_those_of_the_hub() -> None:
    assert contents_of("smollm2") is None
    assert contents_of("Qwen/Qwen3-0.6B") is None


def test_a_file_that_cannot_be_read_is_told_in_one_line(base: Path) -> None:
    (base / "other.safetensors").symlink_to("/proc/self/mem")  # whose beginning nobody may read
    with pytest.raises(BaseModelError, match="cannot be read") as raised:
        contents_of(str(base))
    assert "\n" not in str(raised.value)


def test_other_weights_in_the_same_folder_do_their_steps_again_and_are_read_once(base: Path, tmp_path: Path) -> None:
    def prints(base_model: str) -> dict[str, str]:
        given = ["--root", str(tmp_path / "run"), "--base-model", base_model]
        made = parse_recipe(load_recipe(str(ROOT / "jobs" / "demo.py")), given, "test")[1]
        asked = parse_recipe(evaluate, [*given, "--models", "base", "--tasks", "survey,forgetting"], "test")[1]
        return {step.name: fingerprint(step) for step in [*made, *asked]}

    read = contents._read.cache_info().misses
    before = prints(str(base))
    assert contents._read.cache_info().misses - read == len([p for p in base.iterdir() if p.suffix in contents._READ])
    assert prints(str(base)) == before
    overwrite(base)
    after = prints(str(base))
    assert {name for name in before if before[name] != after[name]} == {
        "train", "predict", "evaluate", "serve", "report",
        "survey_choices", "survey_scores", "forgetting_scores", "evaluation",
    }  # fmt: skip
