"""A new method is one file and one line: here the file is this test, the line is `registered`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate, Claim
from dualsmooth.engine.cli.options import with_method_options
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.draws import Draw, Phase, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import AlphaLedger
from dualsmooth.engine.methods.method import Method, PredictProcedure, Procedure
from dualsmooth.engine.methods.options import Options
from dualsmooth.engine.methods.registry import METHODS, choose_method
from dualsmooth.engine.methods.votes import event_bound, majority_class, top_class
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import Networks
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runs.audit import audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings


@dataclass(frozen=True)
class HalfSmoothing(Method):
    """Fixed smoothing that claims a share of the radius: sound, and easy to recognise."""

    networks: Networks
    sigma: float
    share: float = 0.5

    @property
    def name(self) -> str:
        return f"half({self.sigma:g}, {self.share:g})"

    @property
    def sigmas(self) -> tuple[float, ...]:
        return (self.sigma,)

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        ledger = AlphaLedger("single", alpha, {"classifier": alpha})
        candidate = top_class((yield self.classify(Phase.CLASS_GUESS, self.sigma, budget.n0)))
        if candidate is None:
            return Claim.of(None, 0.0, self.sigma, ledger)
        counts = yield self.classify(Phase.CLASS_ESTIMATE, self.sigma, budget.n)
        bound = event_bound("classifier", counts, "=", candidate, self.sigma, alpha)
        return Claim.of(candidate, self.share * bound.radius, self.sigma, ledger, [bound])

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        counts = yield self.classify(Phase.CLASS_PREDICT, self.sigma, n)
        return Prediction(majority_class(counts, alpha), (self.sigma,), None)


@dataclass(frozen=True, kw_only=True)
class HalfOptions(Options):
    sigma: Annotated[float, "noise level"] = 0.25
    share: Annotated[float, "part of the radius to claim"] = 0.5

    def build(self, bundle: Bundle) -> HalfSmoothing:
        return HalfSmoothing(bundle, self.sigma, self.share)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "half", HalfOptions)


def test_it_is_chosen_and_certifies(tiny_bundle: Path) -> None:
    bundle, images = load_bundle(tiny_bundle), load_images("digits").images[:3]
    settings = {"budget": Budget.fixed(20, 200), "alpha": 0.01, "device": "cpu"}
    halves = certify(choose_method(bundle, method="half"), images, **settings)  # type: ignore[arg-type]
    wholes = certify(choose_method(bundle, sigma=0.25), images, **settings)  # type: ignore[arg-type]
    assert [c.method for c in halves] == ["half(0.25, 0.5)"] * 3
    assert [c.radius for c in halves] == [0.5 * c.radius for c in wholes]
    assert [c.counts for c in halves] == [c.counts for c in wholes]


@dataclass(frozen=True)
class Mistaken(HalfSmoothing):
    """A method that draws, or claims, something else."""

    drawn: Any = lambda draw: draw
    claimed: Any = lambda claim: claim

    @property
    def record(self) -> dict[str, Any]:
        return {"method": "mistaken"}

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        procedure, votes = super()._certify(budget, alpha), None
        try:
            while True:
                draw = procedure.send(votes)  # type: ignore[arg-type]
                votes = yield self.drawn(draw)
        except StopIteration as stop:
            claim: Claim = self.claimed(stop.value)
            return claim


def estimating(draw: Draw) -> Draw:
    return replace(draw, phase=Phase.CLASS_ESTIMATE)


LOOSE = AlphaLedger("single", 0.5, {"classifier": 0.5})


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"drawn": estimating}, "noise once; received sample 0 of CLASS_ESTIMATE, level 1"),
        ({"claimed": lambda _: None}, "return a Claim; received NoneType"),
        ({"claimed": lambda c: replace(c, alpha=LOOSE)}, "asked for, 0.01; received 0.5"),
        (
            {"claimed": lambda c: replace(c, predicted=10)},
            r"a class in 0 \.\. 9, or None; received 10",
        ),
        ({"claimed": lambda c: replace(c, predicted=-1)}, "a class in .* received -1"),
        ({"claimed": lambda c: replace(c, radius=float("nan"))}, r"radii in \[0, .* received nan"),
        ({"claimed": lambda c: replace(c, radius=float("inf"))}, r"radii in \[0, .* received inf"),
    ],
)
def test_what_no_certificate_can_say_is_refused(
    mistake: dict[str, Any], message: str, tiny_bundle: Path
) -> None:
    method = Mistaken(load_bundle(tiny_bundle), 0.25, **mistake)
    images, budget = load_images("digits").images[:1], Budget.fixed(20, 200)
    with pytest.raises(ArgumentError, match=f"^method must.* {message}"):
        certify(method, images, budget=budget, alpha=0.01, device="cpu")


def test_numbers_of_numpy_become_numbers_of_json(tiny_bundle: Path) -> None:
    def claimed(claim: Claim) -> Claim:
        return replace(claim, predicted=np.int64(3), radius=np.float64(0.25))  # type: ignore[arg-type]

    method = Mistaken(load_bundle(tiny_bundle), 0.25, claimed=claimed)
    images, budget = load_images("digits").images[:1], Budget.fixed(20, 200)
    (found,) = certify(method, images, budget=budget, alpha=0.01, device="cpu")
    assert Certificate.from_json(found.to_json()) == found


def test_options_that_are_no_json_are_refused_before_any_vote(tiny_bundle: Path) -> None:
    method = HalfSmoothing(load_bundle(tiny_bundle), 0.25, np.float32(0.5))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^method must have a `record` of .* float32"):
        certify(method, load_images("digits").images[:1])


def test_its_options_belong_to_it_alone(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    with pytest.raises(ArgumentError, match=r"^share belongs to --method half; received 0.9"):
        choose_method(bundle, sigma=0.25, share=0.9)
    with pytest.raises(ArgumentError, match=r"^runner_up belongs to --method fixed or dual"):
        choose_method(bundle, method="half", runner_up=True)
    with pytest.raises(ArgumentError, match=r"^budget must be fixed with half\(0.25, 0.5\)"):
        choose_method(bundle, method="half").check(Budget.decide((0.1,)), 0.01)


def test_a_command_line_takes_its_options(tiny_bundle: Path) -> None:
    """Commands read the registry when they are made, so one is made here."""
    chosen: list[Method] = []

    @with_method_options()
    def command(**options: object) -> None:
        chosen.append(choose_method(load_bundle(tiny_bundle), **options))  # type: ignore[arg-type]

    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, ["--method", "half", "--share", "0.25"])
    assert (done.exit_code, [method.name for method in chosen]) == (0, ["half(0.25, 0.25)"])
    text = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output.split())
    assert "semielastic or half" in text
    assert "part of the radius to claim [0.5]." in text
    assert "half: noise level [0.25]." in text


def test_its_runs_are_audited(tiny_bundle: Path, tmp_path: Path) -> None:
    """The run record makes the method again, and other radii than its votes give are found."""
    method, out = choose_method(load_bundle(tiny_bundle), method="half", share=0.25), tmp_path
    settings = Settings(Budget.fixed(20, 200), 0.01, device="cpu")
    certify_run(method, load_images("digits"), list(range(4)), settings, out, make=FakeSampler)
    assert audit(out).findings == []
    log = out / "certificates.jsonl"
    made = [Certificate.from_json(line) for line in log.read_text().splitlines()]
    doubled = [replace(certificate, radius=2 * certificate.radius) for certificate in made]
    log.write_text("".join(f"{certificate.to_json()}\n" for certificate in doubled))
    assert any("recorded votes give another radius" in finding for finding in audit(out).findings)
