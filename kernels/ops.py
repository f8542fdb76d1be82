"""The public wrappers: checked arguments, kernel on CUDA tensors, reference on CPU tensors.

`backend="triton"` forces the kernel (for CPU tensors: in the Triton interpreter), and
`backend="reference"` the plain PyTorch truth. Every launch spells out its numerics; nothing is
tuned at run time.
"""

from dualsmooth.kernels.conv_ops import conv
from dualsmooth.kernels.noise_ops import integer_noise, noise
from dualsmooth.kernels.stem_ops import stem
from dualsmooth.kernels.vote_ops import vote, vote_logits

__all__ = ["conv", "integer_noise", "noise", "stem", "vote", "vote_logits"]
