"""Ensembles: plain averages, the consensus rule row by row, and votes that ignore batch mates."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.ensemble import Consensus, SoftVoting, ensemble_of
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.eager import TorchSampler
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.settings import Settings
from dualsmooth.kernels.cpu import noise_votes

KWARGS: dict[str, Any] = {"widths": [8], "hidden": 16, "image_size": [9, 7], "in_channels": 3}
SHAPE, CLASSES = (9, 7, 3), 10
NAMES = tuple("zyxwvutsrq")


def member(seed: int) -> nn.Module:
    """Untrained; members differ a little, so that some rows agree; own batch norm statistics."""
    torch.manual_seed(0)
    module = create("small_convnet", KWARGS)
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = torch.randn(8) * 0.1
            part.running_var = torch.rand(8) + 0.5
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2.0 + 0.5 * torch.randn(parameter.shape))
        list(module.parameters())[-1].zero_()
    return module.eval()


def members(count: int) -> list[nn.Module]:
    return [member(seed) for seed in range(count)]


def batch(rows: int, seed: int = 0) -> torch.Tensor:
    """Noise in the memory layout of the samplers."""
    draws = torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return draws.permute(0, 3, 1, 2)


def bundle_of(seed: int) -> Bundle:
    network = network_from_module(member(seed), "small_convnet", KWARGS)
    return Bundle.from_modules({"classifier": network}, num_classes=CLASSES, input_shape=SHAPE)


def test_soft_voting_is_the_mean_of_logits() -> None:
    """Of logits, not of probabilities or votes."""
    x, parts = batch(40), members(3)
    with torch.no_grad():
        each = torch.stack([part(x) for part in parts])
        torch.testing.assert_close(SoftVoting(parts)(x), each.mean(0))
        assert not torch.equal(each.mean(0).argmax(1), each.softmax(2).mean(0).argmax(1))


def test_consensus_row_by_row() -> None:
    x, parts = batch(300), members(5)
    with torch.no_grad():
        each = torch.stack([part(x) for part in parts])
        got = Consensus(parts, agree=3, rows=8)(x).argmax(1)
    votes, expected = each.argmax(2), each.mean(0).argmax(1)
    sure = (votes[:3] == votes[0]).all(0)
    assert 50 < int(sure.sum()) < 250
    assert torch.equal(got, torch.where(sure, votes[0], expected))
    assert not torch.equal(votes[0][sure], expected[sure])  # another classifier than soft voting


class OnDevice(torch.Tensor):
    """A tensor that says it is on a CUDA device."""

    is_cuda = True


def test_where_every_member_runs_the_votes_are_the_same() -> None:
    network, x = Consensus(members(5), agree=2, rows=8), batch(300)
    seen: list[int] = []
    network.rest.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    with torch.no_grad():
        plain = network(x)
        assert set(seen) == {8}
        seen.clear()
        torch.testing.assert_close(
            network(x.as_subclass(OnDevice)).as_subclass(torch.Tensor), plain
        )
    assert seen == [300]


class ShapeDependent(nn.Module):
    """Logits that depend on the number of rows, as a library's rounding may."""

    def __init__(self, classes: int, own: int) -> None:
        super().__init__()
        self.classes, self.own = classes, own

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = x.flatten(1)[:, : self.classes] * (1.0 + self.own)
        return base + torch.eye(self.classes)[len(x) % self.classes] * 3.0


class Ragged(Consensus):
    """The broken variant: sub-batches as long as there are unsure rows."""

    def _late(self, x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        late: torch.Tensor = self.rest(x[part])
        return late


def moved(network: nn.Module, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of ten rows at the start of a batch, and among other mates in other places."""
    x, mates = batch(rows), batch(rows, seed=9)
    places = torch.randperm(rows, generator=torch.Generator().manual_seed(4))[:10]
    mates[places] = x[:10]
    with torch.no_grad():
        return network(x)[:10], network(mates)[places]


@pytest.mark.parametrize("rows", [1, 7, 32, 100])
def test_logits_do_not_depend_on_batch_mates(rows: int) -> None:
    """Bit for bit: mates permuted and replaced, with another number of unsure rows."""
    for network in (Consensus(members(4), 2, rows), SoftVoting(members(3))):
        assert torch.equal(*moved(network.eval(), 64))
    own = [nn.Flatten(), *(ShapeDependent(189, i) for i in range(3))]
    assert torch.equal(*moved(Consensus(own, 2, rows), 64))


def test_ragged_sub_batches_fail_that_test() -> None:
    own = [nn.Flatten(), *(ShapeDependent(189, i) for i in range(3))]
    assert not torch.equal(*moved(Ragged(own, 2, 32), 64))


def test_rows_without_finite_logits_are_invalid() -> None:
    class Bad(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x[:, 0, 0, :1] > 0, torch.nan, torch.ones(len(x), 4))

    with torch.no_grad():
        logits = Consensus([Bad(), Bad(), Bad()], 2)(batch(50))
    assert torch.equal(logits.isnan().any(1), batch(50)[:, 0, 0, 0] > 0)


SEGMENTS = [Segment(0, 9, 0.5, 2, 0, 41), Segment(1, 8, 1.0, 3, 5, 77)]


def votes(kind: Any, network: nn.Module, segments: list[Segment], threads: int = 1) -> np.ndarray:
    made = kind({"m": network}, {"m": CLASSES}, SHAPE, seed=7, batch_size=32, threads=threads)
    for slot in range(2):
        made.load(slot, np.random.default_rng(slot).random(SHAPE).astype(np.float32))
    counted: np.ndarray = made.count("m", segments)
    made.close()
    return counted


@pytest.mark.parametrize("kind", [TorchSampler, CpuSampler])
def test_samplers_fold_and_fuse_the_members_and_count_alike(kind: Any) -> None:
    if kind is CpuSampler and not noise_votes.available():
        pytest.skip("the compiled loops were not built")
    for network in (Consensus(members(4), 2, 8).eval(), SoftVoting(members(3)).eval()):
        base = votes(kind, network, SEGMENTS)
        assert_array_equal(base.sum(1), [41, 77])
        assert_array_equal(votes(kind, network, SEGMENTS[::-1], 3)[::-1], base)
        alone = [votes(kind, network, [part])[0] for part in SEGMENTS]
        assert_array_equal(np.stack(alone), base)
        plain = votes(TorchSampler, nn.Sequential(network), SEGMENTS)  # not folded, not fused
        assert np.abs(plain - base).sum() <= 4


def norms(network: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


def test_members_of_a_consensus_are_folded() -> None:
    network = Consensus(members(4)).eval()
    sampler = TorchSampler({"m": network}, {"m": CLASSES}, SHAPE, seed=0)
    assert norms(sampler._networks["m"]) == 0
    assert norms(network) == 4


def test_certify_and_predict_use_the_same_rule() -> None:
    """Two members agree on class 0 with little weight; the others would outvote them."""

    class Constant(nn.Module):
        def __init__(self, *logits: float) -> None:
            super().__init__()
            self.logits = nn.Buffer(torch.tensor(logits))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits + 0.0 * x[:, 0, 0, :1]

    parts = [Constant(1.0, 0.0), Constant(1.0, 0.0), Constant(0.0, 9.0), Constant(0.0, 9.0)]
    for network, expected in ((Consensus(parts, 2), 0), (SoftVoting(parts), 1)):
        bundle = Bundle.from_classifier(network.eval(), num_classes=2, input_shape=(2, 2, 1))
        method = FixedSmoothing(bundle, 0.5)
        images = np.zeros((1, 2, 2, 1), np.uint8)
        budget = Budget.fixed(10, 100)
        assert certify(method, images, budget=budget, device="cpu")[0].predicted == expected
        with Session.open(method, Settings(budget, device="cpu")) as session:
            assert next(session.predict(images))[1].predicted == expected


@pytest.mark.parametrize("agree", [None, 2])
def test_ensembles_are_saved_and_loaded(agree: int | None, tmp_path: Path) -> None:
    named = replace(bundle_of(0), classes=NAMES)
    joined = ensemble_of([named, *(bundle_of(seed) for seed in (1, 2))], agree=agree, rows=4)
    save_bundle(joined, tmp_path / "b")
    loaded = load_bundle(tmp_path / "b")
    assert (loaded.digest, loaded.classes) == (joined.digest, NAMES)
    network = SoftVoting(members(3)) if agree is None else Consensus(members(3), 2, 4)
    with torch.no_grad():
        assert torch.equal(loaded.build("classifier")(batch(20)), network(batch(20)))


def test_every_number_that_changes_votes_changes_the_digest() -> None:
    bundles = [bundle_of(seed) for seed in range(4)]
    made = [ensemble_of(bundles), ensemble_of(bundles[::-1]), ensemble_of(bundles[:3])]
    made += [ensemble_of(bundles, agree=k, rows=r) for k, r in ((2, 4), (3, 4), (2, 8))]
    assert len({bundle.digest for bundle in made}) == len(made)


def test_every_role_of_a_dual_bundle_is_joined(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    joined = ensemble_of([bundle, bundle])
    x = torch.rand(3, 1, 8, 8)
    for role in bundle.networks:
        with torch.no_grad():
            torch.testing.assert_close(joined.build(role)(x), bundle.build(role)(x))


def test_unregistered_modules_make_an_unsaved_ensemble(tmp_path: Path) -> None:
    network = nn.Sequential(member(0)).eval()
    bundle = Bundle.from_classifier(network, num_classes=CLASSES, input_shape=SHAPE)
    joined = ensemble_of([bundle, bundle_of(1)])
    assert joined.build("classifier")(batch(2)).shape == (2, CLASSES)
    with pytest.raises(ArgumentError, match="must be a registered architecture to be saved"):
        save_bundle(joined, tmp_path / "b")


def test_bad_ensembles_are_named(tiny_bundle: Path) -> None:
    b = bundle_of(0)
    for call, argument in (
        (lambda: SoftVoting([]), "members"),
        (lambda: Consensus(members(2), 2), "agree"),
        (lambda: Consensus(members(3), 1), "agree"),
        (lambda: Consensus(members(3), 2, 0), "rows"),
        (lambda: ensemble_of([]), "bundles"),
        (lambda: ensemble_of([bundle_of(0), load_bundle(tiny_bundle)]), "bundles"),
        (lambda: ensemble_of([replace(b, classes=n) for n in (NAMES, NAMES[::-1])]), "bundles"),
        (lambda: replace(b, classes=NAMES[1:]), "classes"),
        (lambda: create("soft_voting", {"members": ["lenet"]}), "members"),
        (lambda: create("soft_voting", {"members": [{"architecture": "lenet"}]}), "members"),
        (lambda: create("soft_voting", {"members": [{"architecture": "x", "kwargs": {}}]}), "arch"),
    ):
        with pytest.raises(ArgumentError, match=f"^{argument}"):
            call()


class Other(nn.Module):
    """A member that returns something else, which sums would take, or not."""

    def __init__(self, returned: Any) -> None:
        super().__init__()
        self.network, self.returned = member(0), returned

    def forward(self, x: torch.Tensor) -> Any:
        return self.returned(self.network(x))


@pytest.mark.parametrize("join", [lambda m: SoftVoting(m[1:]), lambda m: Consensus(m, 2)])
@pytest.mark.parametrize(
    "returned", [lambda y: y[:, :1], lambda y: y[0], lambda y: y[:1], lambda y: (y,)]
)
def test_members_that_give_other_logits_are_refused(join: Any, returned: Any) -> None:
    network = join([member(0), member(0), Other(returned)]).eval()
    bundle = Bundle.from_classifier(network, num_classes=CLASSES, input_shape=SHAPE)
    with pytest.raises(FileError, match=r"received ArgumentError: members (each )?must"):
        bundle.build("classifier")


def test_members_may_return_a_mapping_as_other_networks_may() -> None:
    network = SoftVoting([member(1), Other(lambda y: {"logits": y})]).eval()
    bundle = Bundle.from_classifier(network, num_classes=CLASSES, input_shape=SHAPE)
    x = batch(3)
    assert torch.equal(bundle.build("classifier")(x), SoftVoting([member(1), member(0)])(x))


def test_what_images_are_prepared_like_is_kept() -> None:
    made = [replace(bundle_of(0), preparation={"resize": [size]}) for size in (8, 8, 9)]
    assert ensemble_of(made[:2]).preparation == {"resize": [8]}
    with pytest.raises(ArgumentError, match="bundles must have the same preparation"):
        ensemble_of(made)


def test_a_bundle_file_with_bad_members_is_one_line(tmp_path: Path) -> None:
    save_bundle(ensemble_of([bundle_of(0), bundle_of(1)]), tmp_path / "b")
    index = tmp_path / "b" / "bundle.json"
    index.write_text(index.read_text().replace('"widths"', '"width"'))
    with pytest.raises(FileError, match=r"kwargs must fit small_convnet"):
        load_bundle(tmp_path / "b").build("classifier")
