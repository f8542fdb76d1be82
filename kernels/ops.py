"""The public wrappers: checked arguments, kernel on CUDA tensors, reference on CPU tensors.

`backend="triton"` forces the kernel (for CPU tensors: in the Triton interpreter), and
`backend="reference"` the plain PyTorch truth. Every launch spells out its numerics; nothing is
tuned at run time.
"""

from dualsmooth.kernels.affine import affine
from dualsmooth.kernels.conv import conv
from dualsmooth.kernels.noise import integer_noise, noise
from dualsmooth.kernels.pointwise import pointwise
from dualsmooth.kernels.stem import stem
from dualsmooth.kernels.vote import vote, vote_logits

__all__ = ["affine", "conv", "integer_noise", "noise", "pointwise", "stem", "vote", "vote_logits"]
