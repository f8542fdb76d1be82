"""A CIFAR ResNet in the form the Triton kernels take."""

import copy

import torch
from torch import nn

from dualsmooth.engine.models.architectures.ordered import OrderedScore
from dualsmooth.engine.models.architectures.resnet import BasicBlock, CifarResNet
from dualsmooth.engine.models.capture import is_known
from dualsmooth.engine.samplers.fusion.fold import fold_batch_norm
from dualsmooth.kernels.folding import FoldedStem, fold_stem
from dualsmooth.kernels.resnet import FoldedBlock, FoldedResNet


def folded_resnet(
    network: nn.Module, dtype: torch.dtype, device: torch.device
) -> FoldedResNet | None:
    """Fold batch norm and preprocessing, and lay weights out as the kernels read them.

    Weights are in the compute dtype, biases stay float32. None if the kernels do not have this
    network: another architecture, hooks, or images without 1, 3 or 4 channels. Joint votes of such
    a network are those of its last layer with a row for every pair of level and class.
    """
    pairs = network if type(network) is OrderedScore and network.joint else None
    if pairs is not None and is_known(pairs):
        network = pairs.network
    if type(network) is not CifarResNet or network.conv1.in_channels not in (1, 3, 4):
        return None
    copied = copy.deepcopy(network).float().eval()
    if not is_known(copied):
        return None
    folded = fold_batch_norm(copied).to(device)
    blocks = tuple(
        _block(folded, f"{stage}.{name}", block, dtype)
        for stage in ("layer1", "layer2", "layer3")
        for name, block in network.get_submodule(stage).named_children()
    )
    head = folded.get_submodule("fc")
    assert isinstance(head, nn.Linear)
    weight, bias = head.weight.detach(), head.bias.detach()
    if pairs is not None:
        wide = copy.deepcopy(pairs).float().to(device)
        offsets = wide.get_buffer("offsets")
        weight = wide.pairs(weight.T, torch.zeros_like(offsets)).T
        bias = wide.pairs(bias[None], offsets)[0]
    stem = _stem(folded, network, dtype)
    return FoldedResNet(stem, blocks, weight.T.contiguous().to(dtype), bias)


def _stem(folded: nn.Module, network: CifarResNet, dtype: torch.dtype) -> FoldedStem:
    weight, bias = _weights(folded, "conv1", torch.float32)
    mean, std = (
        constants.flatten().to(weight.device)
        for constants in (network.normalize.mean, network.normalize.std)
    )
    return fold_stem(weight, bias, mean, std, dtype=dtype)


def _block(folded: nn.Module, name: str, block: nn.Module, dtype: torch.dtype) -> FoldedBlock:
    assert isinstance(block, BasicBlock)
    weight1, bias1 = _weights(folded, f"{name}.conv1", dtype)
    weight2, bias2 = _weights(folded, f"{name}.conv2", dtype)
    projection = None
    if block.downsample is not None:
        weight, bias = _weights(folded, f"{name}.downsample.0", dtype)
        projection, bias2 = weight[0, 0].contiguous(), bias2 + bias
    return FoldedBlock(weight1, bias1, weight2, bias2, projection, block.conv1.stride[0])


def _weights(folded: nn.Module, name: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [K, K, Cin, Cout] and float32 bias [Cout] of a convolution."""
    layer = folded.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    weight = layer.weight.detach().permute(2, 3, 1, 0).contiguous()
    return weight.to(dtype), layer.bias.detach().clone()
