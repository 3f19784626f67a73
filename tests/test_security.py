"""What the code must never do, looked for in the code; and that the page on security names tests there are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [*sorted((ROOT / "cp_ray").rglob("*.py")), *sorted((ROOT / "jobs").glob("*.py"))]
UNPICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
LOADERS = {"load", "full_load", "unsafe_load", "read_pickle", "unsafe_load_all", "load_all"}
"""Names under which pickles, or YAML that makes any object, are read: torch.load, numpy.load, yaml.load, …"""


def breaches(source: str) -> Iterator[str]:
    """Where source code could run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            yield from (f"{node.lineno}: {name}" for name in names if name.split(".")[0] in UNPICKLING)
        elif isinstance(node, ast.Call):
            said = f"{node.lineno}: {ast.unparse(node.func)}"
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            of = ast.unparse(node.func).split(".")[0]
            if of in ("torch", "np", "numpy", "yaml", "pd", "pandas") and name in LOADERS:
                safe = (of in ("np", "numpy") and "allow_pickle" not in given) or given.get("weights_only") == "True"
                if not safe:
                    yield said
            if given.get("allow_pickle", "False") != "False" or given.get("trust_remote_code", "False") != "False":
                yield said
            safe = given.get("use_safetensors") == "True" or "gguf_file" in given
            if name == "from_pretrained" and of.startswith("AutoModel") and not safe:
                yield said
            if name == "SentenceTransformer" and "'use_safetensors': True" not in given.get("model_kwargs", ""):
                yield said


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_pickle_is_loaded_from_any_folder(path: Path) -> None:
    assert list(breaches(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "torch.load(f)", "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)", "yaml.load(f, Loader=yaml.Loader)", "yaml.unsafe_load(f)", "pd.read_pickle(f)",
        "AutoModelForCausalLM.from_pretrained(f)", "AutoTokenizer.from_pretrained(f, trust_remote_code=True)",
        "SentenceTransformer(f)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert list(breaches(line))


@pytest.mark.parametrize(
    "line", ["torch.load(f, weights_only=True)", "np.load(f)", "yaml.safe_load(f)", "json.load(f)"]
)
def test_the_search_lets_the_rest_be(line: str) -> None:
    assert not list(breaches(line))


@pytest.mark.parametrize("page", ["security.md", "operation.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    there = {
        name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text()))
    assert named
    assert named <= there, named - there


def test_the_page_on_security_goes_through_the_whole_list() -> None:
    rows = re.findall(r"^\| LLM(\d\d) [^|]+ \| ([^|]+) \|$", (ROOT / "docs" / "security.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 11))
    assert all("`test_" in said or "Does not apply" in said for _, said in rows)
