"""Which clusters are joined, and what a step may ask of them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from cp_ray.cluster import UNREAD, check_guarded, check_one_machine, check_room, connected
from cp_ray.errors import ConfigError, PlacementError
from cp_ray.recipe import Options
from cp_ray.steps import teacher
from cp_ray.steps.model_options import ModelOptions
from jobs.demo import demo


@contextmanager
def head(answer: grpc.StatusCode) -> Iterator[int]:
    """What a Ray head answers whoever knocks; its port."""

    def reply(_: bytes, context: Any) -> bytes:
        if answer != grpc.StatusCode.OK:
            context.abort(answer, "InvalidAuthToken")
        return b""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, call: Any) -> Any:
            known = call.method == "/ray.rpc.NodeInfoGcsService/CheckAlive"
            return grpc.unary_unary_rpc_method_handler(reply) if known else None

    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=(Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0)


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own: a connection that is there already would be used, and other tests have one."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)


def test_an_open_cluster_that_others_reach_is_refused(unconnected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with head(grpc.StatusCode.OK) as port:
        check_guarded(f"127.0.0.1:{port}")
        check_guarded(f"localhost:{port}")
        monkeypatch.setenv("RAY_ADDRESS", f"0.0.0.0:{port}")  # not a loopback address, and it reaches this machine
        with pytest.raises(ConfigError, match="asks for no token, so anybody may run code on it"), connected():
            pass


def test_a_cluster_that_asks_for_a_token_wants_us_to_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with head(grpc.StatusCode.UNAUTHENTICATED) as port:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        check_guarded(f"0.0.0.0:{port}")
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(ConfigError, match="asks for a token; set RAY_AUTH_MODE=token"):
            check_guarded(f"0.0.0.0:{port}")


def test_where_no_cluster_answers_it_is_said_at_once(unconnected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with head(grpc.StatusCode.OK) as port:
        pass
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at 127.0.0.1:{port}"), connected():
        pass
    monkeypatch.setenv("RAY_ADDRESS", f"ray://127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="use `ray job submit`"), connected():
        pass


def test_the_address_of_ray_s_own_service_is_the_one_we_knock_at() -> None:
    from ray.core.generated import gcs_service_pb2

    service = gcs_service_pb2.DESCRIPTOR.services_by_name["NodeInfoGcsService"]
    assert service.full_name == "ray.rpc.NodeInfoGcsService"
    assert "CheckAlive" in service.methods_by_name


def test_ray_still_heeds_what_keeps_it_from_what_nobody_reads() -> None:
    from ray._private import log_monitor
    from ray.dashboard.modules.reporter import reporter_consts

    assert float(UNREAD["LOG_NAME_UPDATE_INTERVAL_S"]) == log_monitor.LOG_NAME_UPDATE_INTERVAL_S
    assert int(UNREAD["RAY_LOG_MONITOR_MANY_FILES_THRESHOLD"]) == log_monitor.RAY_LOG_MONITOR_MANY_FILES_THRESHOLD
    assert int(UNREAD["REPORTER_UPDATE_INTERVAL_MS"]) == reporter_consts.REPORTER_UPDATE_INTERVAL_MS


def test_our_own_cluster_is_on_loopback_alone() -> None:
    code = """
import contextlib, psutil
from cp_ray.cluster import connected
with connected():
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            for c in process.net_connections("tcp"):
                if c.status == psutil.CONN_LISTEN:
                    print(c.laddr.ip.removeprefix("::ffff:"))
"""
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert set(said.split()) == {"127.0.0.1"}, "Ray's own address is what others would reach"


@pytest.mark.long
def test_a_second_cluster_of_a_process_does_not_take_the_first_one_s_server_for_its_own() -> None:
    code = """
from cp_ray.cluster import connected
from cp_ray.serving.app import _free_port, _running_port
for serves in (True, False):
    with connected():
        from ray import serve
        if serves:
            serve.start(http_options={"host": "127.0.0.1", "port": _free_port()})
        print(_running_port() is not None)
"""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "False"]


def test_a_step_asks_for_what_it_must_have_at_once() -> None:
    def needs(gpus: int = 0, **more: Any) -> dict[str, Any]:
        options = Options(cultures="german", **more)
        return {step.name: step.needs for step in demo(options, models=ModelOptions(workers=3, gpus=gpus))}

    embedded = needs()
    assert embedded["train.german"] == {"CPU": 3}
    assert needs(gpus=2)["train.german"] == {"GPU": 2}
    assert embedded["dialogue"] == {"CPU": 1.25}, "the server and a worker that asks it"
    assert embedded["seeds"] == {"CPU": 1}
    assert needs(teacher_url="http://t/v1", teacher_model="m")["dialogue"] == {"CPU": 0.25}
    assert teacher(Options()).cpus == 1


def test_what_the_cluster_cannot_give_is_said(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    check_room("train", {"CPU": 4})
    with pytest.raises(
        PlacementError, match=r"^train asks for 5 CPUs and the cluster has 4; ask for less or add nodes$"
    ):
        check_room("train", {"CPU": 5})
    with pytest.raises(PlacementError, match="asks for 2 GPUs and the cluster has 0;"):
        check_room("train", {"GPU": 2})
    scaled = {
        "max_workers": 3,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}},
            "cpu-worker": {"resources": {"CPU": 8}, "max_workers": 6},
            "gpu-worker": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 2},
        },
    }
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(scaled))
    check_room("train", {"CPU": 40, "GPU": 2})
    with pytest.raises(PlacementError, match="asks for 4 GPUs and the cluster has 0, which grows to 2 at most"):
        check_room("train", {"GPU": 4})
    scaled["available_node_types"]["unknown-worker"] = {"resources": {}, "max_workers": 1}  # type: ignore[index]
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(scaled))
    check_room("train", {"GPU": 4})  # nobody knows what such a machine has
    (tmp_path / "ray_bootstrap_config.yaml").unlink()
    monkeypatch.setenv("RAY_CLUSTER_NAME", "park")
    check_room("train", {"GPU": 4})  # an operator brings what it likes


def test_what_answers_on_loopback_is_refused_where_workers_are_on_other_machines(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    check_one_machine("teacher-url: the embedded teacher")
    there = [{"NodeManagerAddress": f"10.0.0.{k}", "Alive": k != 2} for k in range(4)]
    monkeypatch.setattr(ray, "nodes", lambda: there)
    with pytest.raises(ConfigError, match="embedded teacher answers on its own machine alone, and this cluster has 3;"):
        check_one_machine("teacher-url: the embedded teacher")
