"""Workers on machines that differ from the driver's, which the run is recorded for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dualsmooth import kernels
from dualsmooth.engine import FixedSmoothing, load_bundle, machine
from dualsmooth.engine.cluster import job, team
from dualsmooth.engine.cluster.conductor import Ready
from dualsmooth.engine.cluster.job import facts_here
from dualsmooth.engine.errors import SamplerError
from dualsmooth.engine.settings import Settings

ABOUT = {"sampler": "cpu", "batch_size": 8}


def open_workers(monkeypatch: pytest.MonkeyPatch, bundle: Path, **elsewhere: object) -> None:
    """Workers that all say the same, which differs from this machine in what is given."""
    method, settings = FixedSmoothing(load_bundle(bundle), 0.25), Settings(device="cpu")
    says, closed = facts_here(ABOUT, settings, method) | elsewhere, list[bool]()
    told = [Ready(n, says) for n in (0, 1)]
    pool = SimpleNamespace(events=lambda: told, close=lambda: closed.append(True))
    monkeypatch.setattr(team, "Processes", lambda *_: pool)
    try:
        team.Workers(method, Settings(), None, 2)
    except SamplerError:
        assert closed
        raise


@pytest.mark.parametrize(
    "name",
    ["files of dualsmooth", "dualsmooth", "numpy", "scipy", "torch", "processor", "instructions"],
)
def test_workers_agree_with_the_machine_that_the_run_names(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, name: str
) -> None:
    """An audit or a resumption would take their votes for those of the driver's machine."""
    with pytest.raises(SamplerError, match=rf"a worker would draw other .*: {name} .*'another'$"):
        open_workers(monkeypatch, tiny_bundle, **{name: "another"})


def test_workers_like_the_driver_are_used(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    open_workers(monkeypatch, tiny_bundle)


def test_a_worker_says_all_that_its_certificates_depend_on(tiny_bundle: Path) -> None:
    sampler, method = (
        SimpleNamespace(name="cpu", batch_size=8),
        FixedSmoothing(load_bundle(tiny_bundle), 0.25),
    )
    session: Any = SimpleNamespace(
        sampler=sampler, settings=Settings(device="cpu"), tried={}, method=method
    )
    facts = job.facts_of(session)
    expected = {"files of dualsmooth", "dualsmooth", "numpy", "scipy", "torch", "instructions"}
    assert expected < set(facts)


def test_code_counts_wherever_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another checkout of the same version at the same path."""
    engine, loops = tmp_path / "engine", tmp_path / "kernels"
    for file in (engine / "bounds" / "binomial.py", loops / "cpu" / "conv.c"):
        file.parent.mkdir(parents=True)
        file.write_text("alpha")
    monkeypatch.setattr(machine, "__file__", str(engine / "machine.py"))
    monkeypatch.setattr(kernels, "__path__", [str(loops)])
    seen = {machine.code_digest()}
    (engine / "bounds" / "binomial.py").write_text("2 * alpha")
    seen.add(machine.code_digest())
    (loops / "cpu" / "conv.c").write_text("2 * alpha")
    seen.add(machine.code_digest())
    (engine / "bounds" / "binomial.py").rename(engine / "binomial.py")
    seen.add(machine.code_digest())
    (tmp_path / "loops.so").write_text("built from the former conv.c")
    built = {"direct_conv": SimpleNamespace(_name=str(tmp_path / "loops.so"))}
    monkeypatch.setattr(machine, "compiled", built.get)
    seen.add(machine.code_digest())
    (tmp_path / "loops.so").write_text("built from conv.c")
    seen.add(machine.code_digest())
    assert len(seen) == 6
    (engine / "bounds" / "binomial.pyc").write_text("made by Python")
    assert machine.code_digest() in seen


def test_loops_that_one_machine_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler may refuse one file and take the others: convolutions then sum otherwise."""
    built = {"noise_votes", "direct_conv", "winograd_conv", "int8_conv"}
    built |= {"direct_conv_avx2", "winograd_conv_avx2"}
    monkeypatch.setattr(machine, "compiled", lambda name: name in built or None)
    assert machine.machine()["instructions"].split()[1:] == ["no_bf16_conv"]
    built.remove("direct_conv")
    assert machine.machine()["instructions"].split()[1:] == ["no_direct_conv", "no_bf16_conv"]
    built.clear()  # another sampler
    assert machine.machine()["instructions"].split()[1:] == []
