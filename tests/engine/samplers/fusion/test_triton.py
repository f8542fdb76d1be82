import pytest
import torch
from torch import nn

from dualsmooth.engine.models.architectures.ordered import OrderedScore
from dualsmooth.engine.models.architectures.resnet import CifarResNet
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.fusion.triton import folded_resnet
from dualsmooth.kernels import reference
from dualsmooth.kernels.resnet import FoldedBlock, FoldedResNet, resnet_features
from dualsmooth.kernels.rows import Rows, seed_key

CPU = torch.device("cpu")


def random_resnet(mean: tuple[float, ...] = (0.4, 0.5, 0.6)) -> CifarResNet:
    """Batch-norm statistics far from (0, 1)."""
    torch.manual_seed(4)
    network = CifarResNet(2, 7, mean, [0.2 + 0.1 * i for i in range(len(mean))])
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
            part.running_mean = 0.3 * torch.randn(part.num_features)
            part.running_var = torch.rand(part.num_features) + 0.5
    return network.eval()


@pytest.mark.parametrize("mean", [(0.4, 0.5, 0.6), (0.3,)], ids=["RGB", "grey"])
def test_logits_are_those_of_the_network(mean: tuple[float, ...]) -> None:
    network = random_resnet(mean)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    resnet = folded_resnet(network, torch.float32, CPU)
    assert resnet is not None
    got, wanted = logits_of_both(network, resnet, len(mean))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def logits_of_both(
    network: torch.nn.Module, resnet: FoldedResNet, channels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the kernels' references and of the network, of the same three noisy images."""
    images = torch.rand(2, 12, 8, channels)
    rows = Rows.pack(slot=[0, 1, 1], sigma=[0.25] * 3, stream=[3] * 3, image=[7, 8, 9],
                     sample=range(3), segment=[0] * 3)  # fmt: skip
    key = seed_key(5)
    with torch.no_grad():
        wanted = network(reference.noise(images, rows, key).permute(0, 3, 1, 2))
        features = resnet_features(images, rows, key, resnet)
    got = reference.logits(features, resnet.fc_weight, resnet.fc_bias)
    return got, wanted


def test_weights_have_the_compute_dtype_and_biases_stay_exact() -> None:
    resnet = folded_resnet(random_resnet(), torch.bfloat16, CPU)
    assert resnet is not None
    block = resnet.blocks[2]
    assert isinstance(block, FoldedBlock)
    assert block.projection is not None
    assert {block.weight1.dtype, block.weight2.dtype, block.projection.dtype,
            resnet.fc_weight.dtype, resnet.stem.packed.dtype} == {torch.bfloat16}  # fmt: skip
    assert {block.bias1.dtype, block.bias2.dtype, resnet.fc_bias.dtype} == {torch.float32}


def test_other_networks_are_not_taken() -> None:
    hooked = random_resnet()
    hooked.layer2[0].register_forward_hook(lambda module, inputs, output: output + 1.0)  # type: ignore[no-untyped-call, unused-ignore]

    class Sharper(CifarResNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(2 * x)

    others = (
        create("lenet", {}), hooked, Sharper(1, 4, (0.5,), (0.2,)),
        CifarResNet(1, 4, (0.5,) * 5, (0.2,) * 5),
    )  # fmt: skip
    assert all(folded_resnet(other.eval(), torch.float32, CPU) is None for other in others)


def test_joint_votes_are_those_of_a_wider_last_layer() -> None:
    trunk = random_resnet()
    network = OrderedScore(trunk, [-0.5, 0.25], joint=True).eval()
    resnet = folded_resnet(network, torch.float32, CPU)
    assert resnet is not None
    got, wanted = logits_of_both(network, resnet, 3)
    assert got.shape == (3, 18)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    trunk.register_forward_hook(lambda module, inputs, output: output + 1.0)  # type: ignore[no-untyped-call, unused-ignore]
    assert folded_resnet(network, torch.float32, CPU) is None
    assert folded_resnet(OrderedScore(random_resnet(), [0.0]).eval(), torch.float32, CPU) is None
