"""Models are computed on a GPU where Ray has one. There is none here: Ray is told that there is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cp_ray.devices import best_device, call_on_device
from cp_ray.evals.scorer import Scorer
from tests.tiny import make_adapter, make_base

ON_A_GPU = """
import json, ray, pyarrow as pa, ray.data
from cp_ray import devices, embedding, quality
from cp_ray.evals import choose
from cp_ray.records import Item, Message, Opinion
from cp_ray.arrow import to_table
from cp_ray.stages import check, dedup, leakage

class Probe:
    def __init__(self, *_): pass
    def __call__(self, table): return pa.table({"gpus": [len(ray.get_gpu_ids())] * len(table)})

embedding.Embedder = quality._Measure = check._Check = leakage._Nearest = choose._Chooser = dedup._Keeper = Probe
ray.init(address="local", _node_ip_address="127.0.0.1", num_cpus=2, num_gpus=1, include_dashboard=False,
         logging_level=40)
rows = ray.data.from_arrow(pa.table({"text": ["a", "b"]}))
made = {
    "embed": embedding.embed(rows, "text"),
    "more workers than GPUs": embedding.embed(rows, "text", workers=2),
    "check": check.check(rows, None),
    "leakage": leakage.leakage(rows, [], None),
    "quality": quality.measure(rows, None, workers=2),
    "dedup": dedup.dedup(to_table([], Opinion), None),
}
found = {name: [row["gpus"] for row in dataset.take_all()] for name, dataset in made.items()}
items = [Item(f"t/{k}", "german", "t", (Message("user", "?"),), ("yes", "no")) for k in "ab"]
tables = choose.choose(items, choose.LocalModels("smollm2"), {}, workers=2)
found["choose"] = [gpus for table in tables for gpus in table["gpus"].to_pylist()]
found["one call"] = [devices.call_on_device(lambda n: n * len(ray.get_gpu_ids()), k) for k in (1, 1)]
print(json.dumps(found))
"""


@pytest.mark.long
def test_whatever_holds_a_model_asks_for_a_gpu_where_there_is_one() -> None:
    done = subprocess.run([sys.executable, "-c", ON_A_GPU], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name: set(gpus) for name, gpus in found.items()} == {name: {1} for name in found}
    assert len(found) == 8


def test_a_single_call_is_made_here_where_there_is_no_gpu(ray_cluster: None) -> None:
    made: list[int] = []

    def doubled(k: int, *, more: int) -> int:
        made.append(k)
        return 2 * k + more

    assert call_on_device(doubled, 7, more=1) == 15
    assert made == [7], "another process would have had a list of its own"


@pytest.mark.parametrize(("sees", "device"), [(False, "cpu"), (True, "cuda")])
def test_a_process_that_sees_a_gpu_loads_models_there(monkeypatch: pytest.MonkeyPatch, sees: bool, device: str) -> None:
    def load(name: str, *, device: str) -> None:
        raise RuntimeError(f"{name} on {device}")

    monkeypatch.setattr("torch.cuda.is_available", lambda: sees)
    monkeypatch.setattr("cp_ray.evals.scorer.load_base", load)
    assert best_device() == device
    with pytest.raises(RuntimeError, match=f"a base on {device}"):
        Scorer("a base", {})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and adapters of two cultures."""
    folder = tmp_path_factory.mktemp("models")
    base = make_base(folder / "base")
    for seed, name in enumerate(("german", "greek")):
        make_adapter(base, folder / name, seed)
    return folder


@pytest.mark.parametrize("case", ["training", "judging", "serving"])
def test_what_is_computed_on_a_gpu_meets_nothing_that_is_elsewhere(models: Path, case: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.accelerated", case, str(models)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
