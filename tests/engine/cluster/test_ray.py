"""Ray actors: the bytes of one process, also with an actor or a whole node killed."""

import builtins
import importlib.util
import ipaddress
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from dualsmooth.engine.cluster import ray as ray_pool
from dualsmooth.engine.cluster.conductor import Event, Ready
from dualsmooth.engine.cluster.job import Job
from dualsmooth.engine.cluster.ray import _connect, warn_if_reachable
from dualsmooth.engine.errors import ArgumentError, StoppedError
from dualsmooth.engine.settings import Settings
from tests.engine.conftest import timeless

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra cluster)"
)

RUN = """
import os, signal, sys
from functools import partial
from pathlib import Path
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine import Budget, DualSmoothing, load_bundle
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.runs.log import RunLog
from dualsmooth.engine.settings import Settings

folder, bundle, fault = sys.argv[1:]
settings = Settings(Budget.fixed(10, 200), precision="fp32", device="cpu", slots=2, threads=1)

def run(name, address, fake=partial(FakeSampler, pause=0.02)):
    certify_run(DualSmoothing(load_bundle(bundle)), load_images("digits"), list(range(24)),
                settings, Path(folder) / name, make=fake, workers=2 if address else None,
                ray=address)

run("alone", None, FakeSampler)
done = []
append = RunLog.append

def after_five(act):
    def appended(log, *certificates):
        append(log, *certificates)
        done.extend(certificates)
        if len(done) >= 5 and act:
            act.pop()()
    RunLog.append = appended

if fault == "node":
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    after_five([lambda: cluster.remove_node(node, allow_graceful=False)])
    run("ray", cluster.address)
else:
    if fault == "actor":
        def kill():
            import psutil
            children = psutil.Process().children(recursive=True)
            actors = [c for c in children if "Actor" in " ".join(c.cmdline()[:1])]
            assert actors
            os.kill(actors[0].pid, signal.SIGKILL)
        after_five([kill])
    run("ray", "local")
"""


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["none", "actor", "node"])
def test_ray_gives_the_bytes_of_one_process(tiny_bundle: Path, tmp_path: Path, fault: str) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(tmp_path), str(tiny_bundle), fault]
    subprocess.run(command, check=True, timeout=540)
    assert len(timeless(tmp_path / "alone")) == 24
    assert timeless(tmp_path / "ray") == timeless(tmp_path / "alone")


@needs_ray
def test_an_address_where_nothing_answers() -> None:
    with pytest.raises(ArgumentError, match="ray must be the address of a cluster"):
        _connect("127.0.0.1:1")


class Actors:
    """A stand-in for Ray on a CUDA cluster: the sampler that each actor would open, in order."""

    class exceptions:
        RayError = KeyError

    def __init__(self, devices: float = 1.0) -> None:
        self.asked, self.devices = list[str](), devices

    def put(self, job: Job) -> Job:
        return job

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}},
                {"Alive": True, "Resources": {"CPU": 1.0, "GPU": self.devices}},
                {"Alive": False, "Resources": {"CPU": 64.0}}]  # fmt: skip

    def remote(self, actor: object) -> Any:
        return SimpleNamespace(options=lambda **about: SimpleNamespace(remote=self._start))

    def _start(self, job: Job) -> Any:
        self.asked.append(job.settings.backend)
        chosen = f"picked.stem.{'cp'[len(self.asked) % 2]}"
        name = f"cuda:{chosen if job.settings.backend == 'auto' else job.settings.backend}"
        return SimpleNamespace(facts=SimpleNamespace(remote=lambda: lambda: {"sampler": name}))

    def wait(self, waiting: list[Any], **about: object) -> Any:
        return waiting, []

    def get(self, answer: Any, timeout: float) -> dict[str, str]:
        found: dict[str, str] = answer()
        return found


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_actors_take_the_backends_of_the_first(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """On devices, where they are chosen by timing: each would choose its own."""
    actors, settings = Actors(), Settings(device=device)
    monkeypatch.setattr(ray_pool, "_connect", lambda address: actors)
    monkeypatch.setattr(ray_pool, "ActorDeadlines", lambda ray: MagicMock(overdue=list))
    pool = ray_pool.RayPool(Job(cast(Any, None), settings), 3, "local")
    assert len(actors.asked) == (1 if device == "cuda" else 3)
    told = list[Event]()
    while len(told) < 3:
        told += pool.events()
    names = {event.facts["sampler"] for event in told if isinstance(event, Ready)}
    if device == "cuda":
        assert names == {"cuda:picked.stem.p"}
        assert actors.asked == ["auto", "picked.stem.p", "picked.stem.p"]
    else:
        assert len(names) == 2


@pytest.mark.parametrize(
    ("device", "threads", "devices", "told"),
    [
        ("cpu", 2, 0.0, ""),
        ("cpu", 3, 0.0, "with 3 CPU for a worker; the largest has 2 (fewer: --threads)\n"),
        ("cuda", 3, 1.0, ""),
        ("cuda", 1, 0.0, "with 1 GPU for a worker; the largest has 0\n"),
    ],
)
def test_a_cluster_too_small_for_a_worker_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    device: str, threads: int, devices: float, told: str,
) -> None:  # fmt: skip
    """Ray itself waits in silence, for what may never come."""
    monkeypatch.setattr(ray_pool, "_connect", lambda address: Actors(devices))
    job = Job(cast(Any, None), Settings(device=device, threads=threads))
    ray_pool.RayPool(job, 1, "local")
    said = capsys.readouterr().err
    assert said == (f"dualsmooth: waiting for a node of Ray {told}" if told else "")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ArgumentError, match=r"pip install 'ray>="):
        _connect("local")


@pytest.mark.parametrize(
    ("address", "warns"),
    [
        ("127.0.0.1:6379", False),
        ("localhost:6379", False),
        ("auto", False),
        ("10.0.0.5:6379", True),
        ("ray://head.example:10001", True),
    ],
)
def test_reachable_addresses_are_warned_of(
    capsys: pytest.CaptureFixture[str], address: str, warns: bool
) -> None:
    warn_if_reachable(address)
    assert ("has no authentication" in capsys.readouterr().err) == warns


def test_a_local_ray_asks_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Ray: what it would be started with."""
    started: dict[str, object] = {}

    class Ray(ModuleType):
        class exceptions:
            RayError = KeyError

        @staticmethod
        def init(**options: object) -> None:
            if started:
                raise RuntimeError("Timed out\nwaiting for a file")
            started.update(options, mode=os.environ["RAY_AUTH_MODE"])
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does

    def found(name: str, *rest: Any) -> object:
        return Ray("ray") if name == "ray" else honest(name, *rest)

    honest = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", found)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(ray_pool, "installed_version", lambda _: "2.60.0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "known")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _connect("local")
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        monkeypatch.delitem(sys.modules, "ray", raising=False)
        with pytest.raises(
            StoppedError, match=r"machine: RuntimeError: Timed out waiting for a file$"
        ):
            _connect("local")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert started["mode"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert started["include_dashboard"] is False
    assert ipaddress.ip_address(str(started["_node_ip_address"])).is_loopback


@pytest.mark.parametrize("version", ["2.49.2", "2.51.0", "1.99"])
def test_a_ray_without_tokens_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(ray_pool, "installed_version", lambda _: version)
    with pytest.raises(ArgumentError, match=rf"must be Ray 2\.52 or newer.*received .?{version}"):
        _connect("local")


def test_a_ray_that_was_imported_without_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "installed_version", lambda _: "2.60.0")
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ArgumentError, match="set RAY_AUTH_MODE=token before Ray is imported"):
        _connect("local")
