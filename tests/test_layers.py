"""Imports run one way, and the light modules stay light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    ["jobs", "cp_ray.cli", "cp_ray.serve"],
    ["cp_ray.comparison"],
    ["cp_ray.ablation", "cp_ray.sweep", "cp_ray.steps", "cp_ray.estimate", "cp_ray.calls"],
    [
        "cp_ray.teacher",
        "cp_ray.evals",
        "cp_ray.exports",
        "cp_ray.recipe",
        "cp_ray.training.hosted",
        "cp_ray.training.merge",
    ],
    ["cp_ray.pipeline", "cp_ray.rollout", "cp_ray.stages", "cp_ray.training", "cp_ray.serving", "cp_ray.cluster"],
    ["cp_ray.quality", "cp_ray.folder"],
    [
        "cp_ray.branches",
        "cp_ray.branch_probe",
        "cp_ray.causal",
        "cp_ray.trunk",
        "cp_ray.lora",
        "cp_ray.paraphrase",
        "cp_ray.survey",
        "cp_ray.progress",
        "cp_ray.evals.distances",
    ],
    ["cp_ray.likelihood", "cp_ray.language"],
    ["cp_ray.embedding", "cp_ray.llm", "cp_ray.near", "cp_ray.near_cells", "cp_ray.diversity", "cp_ray.chat"],
    ["cp_ray.devices", "cp_ray.english", "cp_ray.chat_probe", "cp_ray.chat_template"],
    ["cp_ray.records", "cp_ray.arrow", "cp_ray.cultures", "cp_ray.errors", "cp_ray"],
]
SOURCES = [*sorted((ROOT / "cp_ray").rglob("*.py")), *sorted((ROOT / "jobs").glob("*.py"))]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> int:
    found = [
        (len(name), k)
        for k, layer in enumerate(LAYERS)
        for name in layer
        if f"{module}.".startswith(f"{name}.") and name != "cp_ray"
    ]
    return max(found)[1] if found else len(LAYERS) - 1  # the longest name says the most


def imports_of(path: Path) -> list[str]:
    """Modules of ours that a file imports while it runs; those for the type checker alone do not count."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cp_ray"):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("cp_ray")]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_imports_nothing_from_above(path: Path) -> None:
    above = [m for m in imports_of(path) if layer_of(m) < layer_of(name_of(path))]
    assert above == []


@pytest.mark.parametrize("path", sorted((ROOT / "cp_ray" / "stages").glob("*.py")), ids=name_of)
def test_stages_know_neither_each_other_nor_the_run(path: Path) -> None:
    known = [m for m in imports_of(path) if re.match(r"cp_ray\.(stages\.(?!text|prompts)|rollout|pipeline|folder)", m)]
    assert known == []


@pytest.mark.parametrize("module", ["cp_ray", "cp_ray.cli", "cp_ray.steps", "cp_ray.steps.evaluate", "jobs.demo"])
def test_importing_it_loads_neither_ray_nor_torch(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('ray', 'torch', 'transformers') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_unpickles_or_evaluates(path: Path) -> None:
    names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
    assert not names & {"eval", "exec", "pickle", "cloudpickle", "marshal"}
