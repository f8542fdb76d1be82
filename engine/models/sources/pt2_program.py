"""The program in a ``.pt2`` file, carried out one operator at a time.

PyTorch's own reader evaluates text of the file: it parses expressions of sizes, compiles guards and
the names of values, and looks targets up anywhere in ``torch``. Nothing here does. A program is its
list of operators of `OPERATORS`, applied to tensors, numbers and the results of earlier ones.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dualsmooth.engine.limits import LARGEST_VALUE, LARGEST_WORK
from dualsmooth.engine.models.capture import MOST_OPERATORS
from dualsmooth.engine.models.graph.recorded import recorded

OPERATORS = frozenset(
    "_adaptive_avg_pool2d _assert_scalar _assert_tensor_metadata _log_softmax "
    "_native_batch_norm_legit_no_training _softmax _to_copy _unsafe_view abs acos "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d add addbmm addcdiv addcmul addmm alias all alpha_dropout amax amin any "
    "arange argmax argmin asin atan atan2 avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm "
    "bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors broadcast_to cat ceil "
    "celu channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im concat constant_pad_nd "
    "contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "convolution copy cos cosh cumprod cumsum detach diagonal diff div divide dot dropout einsum "
    "elu embedding eq erf exp exp2 expand expand_as expm1 eye feature_alpha_dropout "
    "feature_dropout fill flatten flip floor floor_divide fmod full full_like gather ge gelu glu "
    "grid_sampler grid_sampler_2d group_norm gt hardshrink hardsigmoid hardswish hardtanh im2col "
    "index index_add index_copy index_fill index_put index_select inner instance_norm isfinite "
    "isinf isnan layer_norm le leaky_relu lerp lift_fresh_copy linalg_norm linalg_vector_norm "
    "linear linspace log log10 log1p log2 log_sigmoid log_softmax logaddexp logical_and "
    "logical_not logical_or logical_xor logsumexp lt masked_fill matmul max max_pool1d max_pool2d "
    "max_pool2d_with_indices max_pool3d maximum mean meshgrid min minimum mish mm movedim mul "
    "multiply mv nan_to_num narrow native_group_norm native_layer_norm ne neg new_full new_ones "
    "new_zeros norm numpy_T one_hot ones ones_like outer pad permute pixel_shuffle "
    "pixel_unshuffle pow prelu prod reciprocal reflection_pad1d reflection_pad2d relu relu6 "
    "remainder repeat repeat_interleave replication_pad1d replication_pad2d reshape reshape_as "
    "rms_norm roll round rsqrt rsub scalar_tensor scaled_dot_product_attention scatter select selu "
    "sigmoid sign silu sin sinh slice slice_scatter softmax softplus softshrink sort split "
    "split_with_sizes sqrt square squeeze stack std std_mean sub sum swapaxes "
    "sym_constrain_range sym_constrain_range_for_size sym_numel sym_size t tan tanh tensor_split "
    "threshold tile to topk transpose tril triu trunc type_as unbind unflatten unfold "
    "unsafe_split unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d "
    "upsample_nearest1d upsample_nearest2d var var_mean view view_as where zero zeros "
    "zeros_like".split()
)
"""Operators of ATen that compute and do nothing else; ``NAME_`` changes a result in place."""

_OPERATORS = "add eq floordiv ge gt le lt mod mul ne neg sub".split()
_ON_SIZES: dict[str, Callable[..., int | bool]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in _OPERATORS},
    **{"torch.sym_max": max, "torch.sym_min": min},
}
DTYPES = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64},
    **{6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16},
}
"""Element types by their number in the file."""
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7


@dataclass(frozen=True, slots=True)
class Result:
    """Stands in an argument for the result of an earlier operator."""

    name: str


Step = tuple[Any, dict[str, Any], list[str], list[str]]  # with names of results, and of unread ones


class Pt2Program:
    """A function of one batch, from the JSON of its graph as ``torch.export.save`` writes it.

    Constants are weights and buffers by the names the graph uses; pixels and logits name the batch
    and the result.
    """

    def __init__(
        self,
        nodes: list[dict[str, Any]],
        constants: Mapping[str, torch.Tensor],
        pixels: str,
        logits: str,
    ) -> None:
        self.steps: list[Step] = [
            (_target(node["target"]), _inputs(node), _names(node["outputs"]), []) for node in nodes
        ]
        self.constants, self.pixels, self.logits = constants, pixels, logits
        self._own = {t.untyped_storage()._cdata for t in constants.values() if t.numel()}
        self._written = {step[0]: _written(step[0]) for step in self.steps}
        kept = {*constants, logits}
        for _, arguments, names, done in reversed(self.steps):
            done += {*_results_in(list(arguments.values())), *names} - kept
            kept.update(done)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.clone() if any(self._written.values()) else x
        return self._run(self.steps, {**self.constants, self.pixels: pixels}, self._refuse_own)

    def check_sizes(self, shape: tuple[int, ...]) -> None:
        """Try a batch of a shape, with sizes alone."""
        batch, total = torch.empty(shape, device="meta"), 0

        def add(_: Any, __: Any, found: tuple[Any, ...]) -> None:
            nonlocal total
            sizes = [value.numel() for value in found if isinstance(value, torch.Tensor)]
            total += sum(sizes)
            if max(sizes, default=0) > shape[0] * LARGEST_VALUE or total > shape[0] * LARGEST_WORK:
                raise ValueError(f"{max(sizes)} values of {total} in one step")

        try:
            _, graph = recorded(self, batch, MOST_OPERATORS)
        except Exception:  # PyTorch knows more operators, and imports its compiler for that
            meta = {name: tensor.to("meta") for name, tensor in self.constants.items()}
            steps = [_on_meta(step) for step in self.steps if "_assert" not in str(step[0])]
            self._run(steps, {**meta, self.pixels: batch}, add)
        else:
            for node in graph.nodes:
                add(node.target, (), (node.meta.get("val"),))

    def _run(
        self, steps: list[Step], values: dict[str, Any], check: Callable[..., None]
    ) -> torch.Tensor:
        for target, parts, names, done in steps:
            arguments = {name: _filled(part, values) for name, part in parts.items()}
            if isinstance(target, torch._ops.OpOverload):
                result = target(**arguments)
            elif not -(1 << 63) < (result := target(*arguments.values())) < 1 << 63:
                raise ValueError("a size of more than 63 bits")
            found = tuple(result) if isinstance(result, tuple | list) else (result,)
            check(target, arguments, found)
            values.update(zip(names, found, strict=bool(names)))
            for name in done:
                values.pop(name, None)
        return values[self.logits]  # type: ignore[no-any-return]

    def _refuse_own(self, target: Any, arguments: Mapping[str, Any], _: Any) -> None:
        """A pass that changes weights changes the next one."""
        for name in self._written[target]:
            value = arguments.get(name)
            if isinstance(value, torch.Tensor) and value.numel():
                if value.untyped_storage()._cdata in self._own:
                    raise ValueError(f"{target} changes the program's own tensors")


def _written(target: Any) -> list[str]:
    """Names of the arguments that an operator writes to."""
    if not isinstance(target, torch._ops.OpOverload):
        return []
    arguments = target._schema.arguments
    return [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]


def _on_meta(step: Step) -> Step:
    """An operator whose results have no memory."""
    target, arguments, *rest = step
    known = target._schema.arguments if isinstance(target, torch._ops.OpOverload) else ()
    if any(argument.name == "device" for argument in known):
        arguments = {**arguments, "device": torch.device("meta")}
    return target, arguments, *rest


def _target(name: object) -> Any:
    if name in _ON_SIZES:
        return _ON_SIZES[str(name)]
    start, _, rest = str(name).partition("torch.ops.aten.")
    base, _, overload = rest.partition(".")
    if not start and base.removesuffix("_") in OPERATORS:
        found = getattr(getattr(torch.ops.aten, base), overload, None)
        # TorchScript has more of these names, for lists and texts, that no tensor operator is.
        if isinstance(found, torch._ops.OpOverload) and torch._C._dispatch_has_kernel(found.name()):  # type: ignore[no-untyped-call]
            return found
    raise ValueError(f"operator {str(name)[:100]} is not known to be harmless")


def _inputs(node: dict[str, Any]) -> dict[str, Any]:
    return {given["name"]: _argument(given["arg"]) for given in node["inputs"]}


def _names(outputs: list[dict[str, Any]]) -> list[str]:
    """Names of the results of an operator."""
    if len(outputs) == 1 and "as_tensors" in outputs[0]:
        outputs = [{"as_tensor": entry} for entry in outputs[0]["as_tensors"]]
    found = [_argument(output) for output in outputs]
    if not all(isinstance(result, Result | None) for result in found):
        raise ValueError("a result that has no name")
    return ["" if result is None else result.name for result in found]


def _results_in(value: object) -> Iterator[str]:
    if isinstance(value, Result):
        yield value.name
    for part in value if isinstance(value, list) else ():
        yield from _results_in(part)


def _filled(part: object, values: Mapping[str, Any]) -> Any:
    """An argument with results in their places."""
    if isinstance(part, Result):
        return values[part.name]
    return [_filled(entry, values) for entry in part] if isinstance(part, list) else part


def _argument(argument: Mapping[str, Any]) -> Any:
    """Value of an argument, with `Result` where it is one; ValueError if it is something else."""
    ((kind, value),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return Result(str(value["name"]))
        case "as_tensors":
            return [_argument({"as_tensor": entry}) for entry in value]
        case "as_name":
            return Result(str(value))
        case "as_sym_int" | "as_sym_bool":
            return _argument(value)
        case "as_sym_ints" | "as_optional_tensors":
            return [_argument(entry) for entry in value]
        case "as_int" | "as_ints" | "as_bool" | "as_bools" | "as_string":
            return value
        case "as_float":
            return float(value)
        case "as_floats":
            return [float(number) for number in value]
        case "as_scalar_type":
            return DTYPES[value]
        case "as_memory_format":
            return _MEMORY_FORMATS[value]
        case "as_layout" if value == _STRIDED:
            return torch.strided
        case "as_device" if value["type"] == "cpu":
            return torch.device("cpu")
    raise ValueError(f"an argument of kind {kind[:40]}")
