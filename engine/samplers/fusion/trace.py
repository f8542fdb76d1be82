"""Networks as torch.fx graphs."""

import copy

from torch import fx, nn

from dualsmooth.engine.models.architectures.normalize import Normalize


class _Tracer(fx.Tracer):
    """Keeps normalization whole, so that a convolution can take it up."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is Normalize or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module) -> fx.GraphModule:
    """A traced copy of a network; raises whatever its forward pass raises on proxies."""
    copied = copy.deepcopy(module)
    return fx.GraphModule(copied, _Tracer().trace(copied))
