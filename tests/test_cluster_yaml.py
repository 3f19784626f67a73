"""What a cluster is made from: cluster.yaml by Ray's own schema, the image, the manifests, what a job uploads.

KubeRay's schema does not install from a registry: of its manifests the structure is looked at, the pods' share by hand.
"""

import json
import re
import shutil
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).parent.parent
MANIFESTS = {"RayJob": ROOT / "jobs" / "rayjob.yaml", "RayService": ROOT / "serve" / "rayservice.yaml"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_cluster_file_fits_ray_s_own_schema() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = read(ROOT / "cluster.yaml")
    jsonschema.validate(cluster, schema)
    kinds = cluster["available_node_types"]
    assert kinds[cluster["head_node_type"]]["resources"] == {"CPU": 0}, "the head does no work"
    assert all(kind["max_workers"] <= cluster["max_workers"] for name, kind in kinds.items() if "worker" in name)


def test_nobody_joins_or_submits_without_a_token() -> None:
    cluster = read(ROOT / "cluster.yaml")
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    for command in starts:
        assert re.search(r"set -a;.*RAY_AUTH_MODE=token;.*ray start", command), "set for what `ray start` starts"
        assert "RAY_AUTH_TOKEN" not in command, "a token in an argument is seen by all"
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "--ray-client-server-port=0" in starts[0]
    for kind, path in MANIFESTS.items():
        spec = read(path)["spec"]["rayClusterSpec" if kind == "RayJob" else "rayClusterConfig"]
        assert spec["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_has_what_the_operator_needs(kind: str) -> None:
    manifest = read(MANIFESTS[kind])
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    spec = manifest["spec"]["rayClusterSpec" if kind == "RayJob" else "rayClusterConfig"]
    assert spec["rayVersion"] == pinned()["ray"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    image = read(ROOT / "cluster.yaml")["docker"]["image"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == image
        assert set(container) <= {"name", "image", "workingDir", "envFrom", "resources"}, "keys come from a Secret"
        assert list(container["envFrom"][0]) == ["secretRef"]
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_service_serves_what_the_server_understands() -> None:
    from ray.serve.schema import ServeDeploySchema

    from cp_ray.serving.spec import parse

    for given in (read(MANIFESTS["RayService"])["spec"]["serveConfigV2"], (ROOT / "serve/config.yaml").read_text()):
        schema = ServeDeploySchema.model_validate(yaml.safe_load(given))
        spec, settings = parse(schema.applications[0].args)
        assert settings.num_gpus == 1
        assert [model.id for model in spec.models][:2] == ["base", "german"]


def test_the_job_of_the_manifest_is_one_that_this_version_runs() -> None:
    from cp_ray.recipe import load_recipe, parse_recipe

    program, file, *arguments = read(MANIFESTS["RayJob"])["spec"]["entrypoint"].split()
    assert program == "python"
    options, steps = parse_recipe(load_recipe(str(ROOT / file)), arguments, "job")
    assert options.root == "s3://BUCKET/runs/park"
    assert steps[-1].name == "report"


def test_the_image_is_made_from_what_was_tested_together() -> None:
    made = (ROOT / "Dockerfile").read_text()
    assert f"torch=={pinned()['torch']}" in made
    assert "--constraint constraints.txt ." in made
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"]
    assert f"FROM python:{python}-" in made
    for line in re.findall(r"--no-deps (.+)$", made, re.MULTILINE):
        assert line in (ROOT / "Makefile").read_text()


def test_what_a_job_uploads_is_small_and_whole(tmp_path: Path) -> None:
    create_package(str(ROOT), tmp_path / "this.zip", include_gitignore=True)
    assert (tmp_path / "this.zip").stat().st_size < 2_000_000
    names = zipfile.ZipFile(tmp_path / "this.zip").namelist()
    assert {"jobs/demo.py", "cp_ray/cli.py", "constraints.txt"} <= set(names)
    package = {str(p.relative_to(ROOT)) for p in (ROOT / "cp_ray").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert package <= set(names)


def test_what_lies_about_is_not_uploaded(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    kept = ["jobs/demo.py", "cp_ray/cli.py", "cp_ray/survey/data/counts.csv"]
    left = [
        ".git/objects/ab", ".venv/lib/torch.so", "runs/demo/rows.parquet", "runs-east/run.json", "tests/test_x.py",
        "jobs/base.safetensors", "cp_ray/__pycache__/cli.pyc", ".env", "jobs/.env.local", ".mypy_cache/x.json",
    ]  # fmt: skip
    for name in [*kept, *left]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, tree)
    create_package(str(tree), tmp_path / "tree.zip", include_gitignore=True)
    found = {name for name in zipfile.ZipFile(tmp_path / "tree.zip").namelist() if not name.endswith("/")}
    assert found == {*kept, ".gitignore", ".rayignore"}
