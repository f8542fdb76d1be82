import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models.architectures.resnet import CIFAR10_MEAN, CIFAR10_STD
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.sources.constants import CIFAR10, IMAGENET
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.models.sources.load import load_bundle
from tests.engine.data.test_spec import Attack


def trained() -> nn.Module:
    """A network whose batch statistics are not the defaults."""
    torch.manual_seed(0)
    network = create("cifar_resnet20", {"num_classes": 7})
    network.train()(torch.rand(4, 3, 32, 32))
    return network.eval()


def checkpoint(path: Path, prefix: str = "1.", **changes: object) -> Path:
    state = {prefix + name: value for name, value in trained().state_dict().items()}
    content = {"epoch": 90, "arch": "cifar_resnet20", "state_dict": state, "optimizer": {}}
    torch.save({**content, **changes}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "1.", "module.", "1.module.", "module.1."])
def test_prefixes(tmp_path: Path, prefix: str) -> None:
    bundle = load_bundle(checkpoint(tmp_path / "checkpoint.pth.tar", prefix))
    assert (bundle.num_classes, bundle.input_shape, bundle.sigmas) == (7, (32, 32, 3), ())
    x = torch.rand(2, 3, 32, 32)
    built = bundle.build(bundle.classifier_at(0.25))
    assert torch.equal(built(x), trained()(x))


def behind(prefix: str, **others: torch.Tensor) -> dict[str, torch.Tensor]:
    """The network's tensors behind a prefix, beside others (`__` stands for a dot)."""
    state = {prefix + name: value for name, value in trained().state_dict().items()}
    return state | {name.replace("__", ".").lstrip("_"): value for name, value in others.items()}


HALVES = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.25, 0.125])


@pytest.mark.parametrize(
    ("prefix", "mean", "std"),
    [
        ("1.", "0.means", "0.sds"), ("module.1.", "module.0.mean", "module.0.std"),
        ("1.module.", "0.mu", "0.sigma"), ("", "normalize.mean", "normalize.std"),
        ("module.", "module.normalize_layer.means", "module.normalize_layer.stds"),
        ("_orig_mod.", "_orig_mod.normalizer._mean", "_orig_mod.normalizer._std"),
        ("model.", "mean", "std"), ("model.", "model.norm.mean", "model.norm.std"),
    ],
)  # fmt: skip
def test_the_file_s_mean_and_std_are_used(tmp_path: Path, prefix: str, mean: str, std: str) -> None:
    state = behind(prefix) | {mean: HALVES[0].view(1, 3, 1, 1), std: HALVES[1]}
    bundle = load_bundle(checkpoint(tmp_path / "a.pth", state_dict=state))
    kwargs = {"num_classes": 7, "mean": HALVES[0].tolist(), "std": HALVES[1].tolist()}
    right = create("cifar_resnet20", kwargs).eval()
    right.load_state_dict(trained().state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(bundle.build("classifier")(x), right(x))
    assert not torch.equal(right(x), trained()(x))


def test_cifar_10_s_own_mean_and_std_change_nothing(tmp_path: Path) -> None:
    mean, std = torch.tensor(CIFAR10_MEAN), torch.tensor(CIFAR10_STD)
    state = behind("1.") | {"0.means": mean, "0.sds": std}
    path = checkpoint(tmp_path / "a.pth", state_dict=state)
    assert load_bundle(path).digest == load_bundle(checkpoint(tmp_path / "b.pt")).digest


@pytest.mark.parametrize(
    ("state", "rule"),
    [
        (behind("1.", _0__means=torch.ones(3)), r"one mean and one std; received 0\.means"),
        (behind("1.", _0__means=torch.ones(3), _0__sds=torch.zeros(3)), r"0\.sds must be the one"),
        (behind("1.", _0__mean=torch.full((3,), 125.0), _0__std=torch.ones(3)), r"0\.mean must be"),
        (behind("1.", _0__mean=torch.ones(2), _0__std=torch.ones(3)), r"0\.mean must be the one"),
        (behind("1.", _0__weight=torch.ones(3, 3, 1, 1)), r"no other tensors; received 0\.weight"),
        (behind("1.", _2__means=torch.ones(3)), r"no other tensors; received 2\.means"),
        (behind("1.", _2__weight=torch.ones(7, 7)), r"no other tensors; received 2\.weight"),
        (behind("1.", _2__num_batches_tracked=torch.tensor(1)), r"2\.num_batches_tracked"),
        (behind("1.", normalize__mean=torch.ones(3)), r"received normalize\.mean"),
        (behind("", _0__mean=torch.ones(3), _0__std=torch.ones(3)), r"other tensors; received 0\."),
        (behind("", rotation__weight=torch.ones(4, 64)), r"received rotation\.weight"),
        (behind("model."), r"must have mean and std beside its network"),
        (behind("2."), r"a ResNet with the tensor fc\.bias; received 2\.conv1.*timm:NAME:"),
        (behind("") | behind("module."), r"one network; received fc\.bias, module\.fc\.bias"),
        (behind("", fc__weight_g=torch.ones(7, 1)), r"weights themselves; received fc\.weight_g"),
        (behind("", fc__parametrizations__weight__original0=torch.ones(7)), "themselves"),
        (behind("", fc__bias=torch.zeros(1).expand(10**9)), r"fc\.bias must hold its values"),
        (behind("", fc__bias=torch.full((7,), torch.nan)), r"fc\.bias must be finite"),
        (behind("", fc__bias=torch.full((7,), 1e300, dtype=torch.float64)), "finite in float32"),
        (behind("", fc__bias=torch.zeros(7, dtype=torch.complex64)), "received torch.complex64"),
        (behind("", fc__bias=torch.zeros(7, dtype=torch.int8)), "received torch.int8"),
        (behind("", bn1__running_var=-torch.ones(16)), r"bn1\.running_var must not be negative"),
        (behind("", fc__bias=torch.zeros(7, device="meta")), "_rebuild_meta_tensor_no_storage"),
        (behind("", fc__bias=torch.zeros(7).to_sparse()), "GLOBAL torch"),
    ],
)
def test_what_is_not_used_is_refused_by_name(
    tmp_path: Path, state: dict[str, torch.Tensor], rule: str
) -> None:
    path = checkpoint(tmp_path / "bad.pth", state_dict=state)
    with pytest.raises(FileError, match=rule) as caught:
        load_bundle(path)
    assert "\n" not in str(caught.value)


def test_a_network_of_another_kind_is_told_by_its_tensors(tmp_path: Path) -> None:
    """And not by the entries that a training script puts beside them."""
    state = {"module.linear.bias": torch.zeros(10)}
    torch.save({"net": state, "acc": 93.0, "epoch": 199}, tmp_path / "a.pth")
    with pytest.raises(FileError, match=r"received tensors linear\.bias \(.*; another network"):
        load_bundle(tmp_path / "a.pth")


def test_other_layouts_and_number_types(tmp_path: Path) -> None:
    expected = load_bundle(checkpoint(tmp_path / "a.pth")).digest
    plain = trained().state_dict()
    double = {name: t.double() if t.is_floating_point() else t for name, t in plain.items()}
    beside = {
        "best": np.float64(71.3), "seen": np.int64(3), "history": np.zeros(3), "sigma": 0.25,
        "args": argparse.Namespace(out=Path("x"), lr=np.float32(0.1)), "rng": torch.rand(3),
    }  # fmt: skip
    optimizer = torch.optim.Adam(trained().parameters()).state_dict()
    for content in (
        {"state_dict": trained().state_dict(keep_vars=True)}, {"state_dict": double},
        {"state_dict": plain, **beside}, {"ema_state_dict": plain}, {"net": plain},
        {"model": plain, "optimizer": optimizer},
    ):  # fmt: skip
        for zipped in (True, False):
            content = {"arch": "cifar_resnet20", **content}
            torch.save(content, tmp_path / "b.pth", _use_new_zipfile_serialization=zipped)
            assert load_bundle(tmp_path / "b.pth").digest == expected
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in plain.items()}
    path = checkpoint(tmp_path / "c.pth", state_dict=half)
    built = load_bundle(path).build("classifier").state_dict()
    assert torch.equal(built["fc.weight"], half["fc.weight"].float())


def test_one_network_or_none(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "bad.pth", ema_state_dict=trained().state_dict())
    with pytest.raises(FileError, match="one network; received ema_state_dict, state_dict"):
        load_bundle(path)
    path = checkpoint(tmp_path / "bad.pth", normalizer={"mean": [0.5] * 3})
    with pytest.raises(FileError, match="call them mean and std beside the state_dict"):
        load_bundle(path)


def test_mean_and_std_beside_the_tensors_are_used(tmp_path: Path) -> None:
    beside: dict[str, Any] = {"mean": [0.5, 0.4, 0.3], "std": torch.tensor([0.25])}
    (network,) = load_bundle(checkpoint(tmp_path / "a.pth", **beside)).networks.values()
    assert network.kwargs["mean"] == pytest.approx([0.5, 0.4, 0.3])
    assert network.kwargs["std"] == [0.25] * 3
    bad: Any
    for bad, rule in (
        ({"mean": [0.5] * 3}, "one mean and one std; received mean"),
        ({"mean": [127.5] * 3, "std": [63.0] * 3}, "tensor mean must be the one mean"),
        ({"mean": "none", "std": [1.0]}, "tensor mean must be one dense float32 tensor"),
    ):
        with pytest.raises(FileError, match=rule):
            load_bundle(checkpoint(tmp_path / "b.pth", **bad))


def test_mean_and_std_may_be_given_where_the_file_has_none(tmp_path: Path) -> None:
    """As Salman et al.'s networks need it: they subtract a mean and divide by nothing."""
    bare = checkpoint(tmp_path / "a.pth")
    (network,) = load_bundle(bare, std=[1.0]).networks.values()
    assert (network.kwargs["mean"], network.kwargs["std"]) == (list(CIFAR10_MEAN), [1.0] * 3)
    own = checkpoint(tmp_path / "b.pth", mean=[0.5], std=[0.5])
    with pytest.raises(ArgumentError, match=r"std must be left out: .*b\.pth has its own"):
        load_bundle(own, std=[1.0])
    bad: Any
    for bad, rule in (
        ({"mean": [125.0] * 3}, r"mean must be in \[-1, 1\].*; received .125.0"),
        ({"std": [0.0]}, "std must be above 0"),
        ({"std": [0.2, 0.2]}, "one for each of the 3 channels"),
    ):
        with pytest.raises(ArgumentError, match=rule):
            load_bundle(bare, **bad)
    with pytest.raises(ArgumentError, match=r"std must be left out; received \[1\.0\]"):
        load_bundle("digits-dual", std=[1.0])


def test_published_layouts(tmp_path: Path) -> None:
    plain, usual = trained().state_dict(), load_bundle(checkpoint(tmp_path / "a.pth")).digest
    double = {name: t.double() if t.is_floating_point() else t for name, t in plain.items()}
    for content, mean in (
        ({"net": plain, "epoch": 440}, [0.0] * 3),  # MACER: nothing in front of the network
        (
            {"epoch": 150, "arch": "cifar_resnet20", "state_dict": behind("1."), "optimizer": {}},
            None,
        ),
        ({"state_dict": behind("1.module.")}, None),
        ({"arch": "cifar_resnet20", "state_dict": double}, None),
    ):
        torch.save(content, tmp_path / "b.pth")
        found = load_bundle(tmp_path / "b.pth")
        assert found.networks["classifier"].kwargs.get("mean") == mean
        assert (found.digest == usual) is (mean is None)


@pytest.mark.parametrize("entry", [None, "state_dict"])
def test_small_resnets_without_a_layer_in_front_are_given_mean_and_std(
    tmp_path: Path, entry: str | None
) -> None:
    """Other code than Cohen et al.'s normalizes by other numbers for the same images, or not."""
    path, state = tmp_path / "b.pth", behind("module.")  # out of DataParallel
    torch.save({entry: state, "best_acc": 93.0} if entry else state, path)
    halves: tuple[dict[str, Any], ...] = ({}, {"mean": [0.5]})
    for half in halves:
        with pytest.raises(FileError, match=r"or be given them; received tensors module\.\* alone"):
            load_bundle(path, **half)
    usual = load_bundle(checkpoint(tmp_path / "a.pth")).digest
    assert load_bundle(path, mean=CIFAR10["mean"], std=CIFAR10["std"]).digest == usual


@pytest.mark.parametrize(
    ("depth", "parameters"), [(18, 11.69), (34, 21.80), (50, 25.56), (101, 44.55), (152, 60.19)]
)
def test_resnets_of_torchvision(tmp_path: Path, depth: int, parameters: float) -> None:
    with torch.device("meta"):
        whole = create(f"resnet{depth}", {})
    assert sum(p.numel() for p in whole.parameters()) / 1e6 == pytest.approx(parameters, abs=0.01)
    if depth > 50:
        return
    network = create(f"resnet{depth}", {"num_classes": 5}).eval()
    state = {f"1.module.{name}": t.half() for name, t in network.state_dict().items()}
    arch = {"arch": f"resnet{depth}"} if depth == 50 else {}
    torch.save({**arch, "state_dict": state}, tmp_path / "cohen.pth.tar")
    bundle = load_bundle(tmp_path / "cohen.pth.tar")
    assert (bundle.num_classes, bundle.input_shape) == (5, (224, 224, 3))
    (found,) = bundle.networks.values()
    assert (found.architecture, found.kwargs) == (f"resnet{depth}", {"num_classes": 5})
    built = found.build().state_dict()
    assert torch.equal(
        built["layer4.1.conv2.weight"], state["1.module.layer4.1.conv2.weight"].float()
    )


class Block(nn.Module):
    """As pytorch-cifar calls its parts: what changes the shape is ``shortcut``."""

    def __init__(self, inputs: int, width: int, stride: int, deep: bool) -> None:
        super().__init__()
        ways = [(1, 1), (3, stride), (1, 1)] if deep else [(3, stride), (3, 1)]
        sizes = [inputs, width, width, 4 * width] if deep else [inputs, width, width]
        for i, (side, step) in enumerate(ways):
            conv = nn.Conv2d(sizes[i], sizes[i + 1], side, step, side // 2, bias=False)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(sizes[i + 1]))
        self.count, self.shortcut = len(ways), nn.Sequential()
        if stride != 1 or inputs != sizes[-1]:
            conv = nn.Conv2d(inputs, sizes[-1], 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(sizes[-1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y.relu() if i > 1 else y))
        y = torch.add(y, self.shortcut(x))
        return y.relu()


class Theirs(nn.Module):
    """And the last layer ``linear``."""

    def __init__(self, blocks: tuple[int, ...], deep: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for stage, count in enumerate(blocks):
            layers = []
            for i in range(count):
                layers.append(Block(inputs, 64 << stage, 1 + (stage > 0 and i == 0), deep))
                inputs = (64 << stage) * (4 if deep else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        logits: torch.Tensor = self.linear(nn.functional.avg_pool2d(x, 4).flatten(1))
        return logits


@pytest.mark.parametrize(
    ("prefix", "depth", "blocks"), [("module.", 18, (2, 2, 2, 2)), ("", 50, (3, 4, 6, 3))]
)
def test_resnets_of_pytorch_cifar_are_read_with_the_mean_and_std_they_do_not_tell(
    tmp_path: Path, prefix: str, depth: int, blocks: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    network, path = Theirs(blocks, depth == 50), tmp_path / "ckpt.pth"
    network.train()(torch.rand(4, 3, 32, 32))
    state = {prefix + name: value for name, value in network.eval().state_dict().items()}
    torch.save({"net": state, "acc": 95.1, "epoch": 199}, path)
    with pytest.raises(FileError, match="or be given them"):
        load_bundle(path)
    bundle = load_bundle(path, mean=CIFAR10_MEAN, std=[0.2])
    assert (bundle.num_classes, bundle.input_shape) == (10, (32, 32, 3))
    assert bundle.networks["classifier"].architecture == f"cifar_resnet{depth}"
    x = torch.rand(2, 3, 32, 32)
    wanted = network((x - torch.tensor(CIFAR10_MEAN).view(3, 1, 1)) / 0.2)
    torch.testing.assert_close(bundle.build("classifier")(x), wanted)
    state[prefix + "layer1.0.shortcut.0.weight"] = torch.zeros(1)
    torch.save({"net": state}, path)
    with pytest.raises(FileError, match=r"layer1\.0\.shortcut\.0\.weight"):
        load_bundle(path, mean=CIFAR10_MEAN, std=[0.2])


def test_resnet_50_is_torchvision_s(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    theirs = models.resnet50(num_classes=5).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    network, x = (
        load_bundle(tmp_path / "resnet50.pth").build("classifier"),
        torch.rand(2, 3, 64, 64),
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET.values())
    torch.testing.assert_close(network(x), theirs((x - mean) / std))


def test_what_no_architecture_has_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.bias": torch.zeros(3), "stem.weight": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(FileError, match=r"a known architecture; received tensors fc\.bias, stem"):
        load_bundle(tmp_path / "a.pth")
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "b.pth")
    with pytest.raises(FileError, match=r"received a whole module .*save module\.state_dict\(\)"):
        load_bundle(tmp_path / "b.pth")


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_told_how_to_convert(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    images, x = torch.zeros(1, 3, 2, 2), torch.rand(2, 3, 2, 2)
    script = torch.jit.trace(network, images)  # type: ignore[no-untyped-call]
    torch.jit.save(script, tmp_path / "script.pt")
    with pytest.raises(FileError, match="received TorchScript") as caught:
        load_bundle(tmp_path / "script.pt")
    words = "torch.onnx.export(torch.jit.load(FILE), (images,), 'model.onnx', dynamo=False)"
    assert words in str(caught.value)
    path = tmp_path / "model.onnx"
    loaded = torch.jit.load(tmp_path / "script.pt")  # type: ignore[no-untyped-call]
    torch.onnx.export(loaded, (images,), path, dynamo=False)
    torch.testing.assert_close(load_bundle(path).build("classifier")(x), network(x))
    given = Bundle.from_classifier(loaded.eval(), num_classes=3, input_shape=(2, 2, 3))
    torch.testing.assert_close(given.build("classifier")(x), network(x))


def test_a_checkpoint_becomes_a_bundle_folder(tmp_path: Path) -> None:
    bundle = load_bundle(checkpoint(tmp_path / "checkpoint.pth.tar"))
    save_bundle(bundle, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").digest == bundle.digest


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"arch": "resnet49"}, "arch must be a known architecture; received 'resnet49'"),
        ({"arch": "resnet50"}, r"1\.conv1\.weight must have shape \(64, 3, 7, 7\)"),
        ({"arch": None}, "known architecture"),
        ({"arch": "cifar_resnet110"}, "missing"),
        ({"state_dict": [1]}, "state_dict must be a mapping"),
        ({"state_dict": {}}, r"fc\.bias"),
        ({"state_dict": {"1.fc.bias": torch.zeros(7)}}, "missing"),
        ({"arch": ["cifar_resnet20"]}, "known architecture; received 'list'"),
        ({"state_dict": {"1.fc.bias": 3}}, "float32"),
        ({"state_dict": {"1.a": torch.zeros(1), "module.a": torch.zeros(1)}}, r"fc\.bias"),
    ],
)
def test_bad_checkpoints(tmp_path: Path, changes: dict[str, object], rule: str) -> None:
    path = checkpoint(tmp_path / "bad.pth.tar", "1.", **changes)
    with pytest.raises(FileError, match=rule) as error:
        load_bundle(path)
    assert "bad.pth.tar" in str(error.value)


def test_a_file_of_lightning_is_read_with_the_mean_and_std_it_does_not_tell(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "last.ckpt", state_dict=behind("model."), global_step=3)
    with pytest.raises(FileError, match=r"mean and std .*received tensors model.*--mean and"):
        load_bundle(path)
    given = load_bundle(path, mean=[0], std=[1])
    assert given.networks["classifier"].kwargs["std"] == [1, 1, 1]


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "bad.pth.tar")
    whole = path.read_bytes()
    for data in (b"", b"not a checkpoint", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(FileError, match=r"bad\.pth\.tar: must be a torch checkpoint"):
            load_bundle(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(FileError, match="must have the checksums it states; received another of"):
        load_bundle(path)
    torch.save([1, 2], path)
    with pytest.raises(FileError, match="must be a mapping"):
        load_bundle(path)
    with pytest.raises(FileError, match=r"absent\.pth"):
        load_bundle(tmp_path / "absent.pth")


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    path = checkpoint(tmp_path / "bad.pth.tar", epoch=Attack(f"touch {proof}"))
    with pytest.raises(FileError, match="plain tensors"):
        load_bundle(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # so the attack is a real one
