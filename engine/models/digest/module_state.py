"""What a module holds that can decide its output, and what it keeps for other ends."""

from collections.abc import Iterator
from types import FunctionType
from typing import Any

from torch import fx, nn
from torch.nn.modules import module as torch_module

from dualsmooth.engine.models.digest.exported import Exported
from dualsmooth.engine.models.digest.python_names import is_known, is_of_library, is_unpatched

HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_TABLES = ("_parameters", "_buffers", "_modules")
_BOOKKEEPING = set(HOOKS) | set(
    """_backward_hooks _backward_pre_hooks _is_full_backward_hook _state_dict_hooks
    _state_dict_pre_hooks _load_state_dict_pre_hooks _load_state_dict_post_hooks
    _non_persistent_buffers_set _forward_hooks_with_kwargs _forward_hooks_always_called
    _forward_pre_hooks_with_kwargs""".split()
)
"""What a module keeps for training and files; hooks are read apart."""
DRAWN = set(
    """_graph _code _lineno_map _prologue_start _graphmodule_cls_name meta _in_spec _out_spec
    _tracer_cls _tracer_extras _replace_hooks _create_node_hooks _erase_node_hooks _deepcopy_hooks
    shape_env range_constraints train eval validate_inputs""".split()
)
"""What a `fx.GraphModule` keeps of its graph, which is read node by node."""
_UNUSED = {"num_batches_tracked", "_guards_fn"}
"""Members that no vote depends on: a count of batch norm, and checks of an exported program."""

_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module"}
_WRAPPERS["DistributedDataParallel"] = "module"

_BACKENDS = ("_torchdynamo_orig_backend", "_torchdynamo_orig_callable")

MAKERS = {"torch.nn.utils.parametrize", "torch.ao.quantization.qconfig"}
"""Their closures hold the module they were made for; copies read `self`, or only its device."""


def members_of(module: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Table, name and value of parameters, buffers and submodules, in order."""
    plain = is_known(type(module)) or isinstance(module, fx.GraphModule)
    for table in _TABLES:
        for name, part in vars(module)[table].items():
            if not (plain and name in _UNUSED):
                yield table, name, part


def runs_besides(module: nn.Module) -> set[str]:
    """What is called with a module and not of its class: hooks, and methods of its own."""
    own, kind = vars(module), type(module)
    hooks = {table for table in HOOKS if own[table] or getattr(torch_module, f"_global{table}")}
    return hooks | {key for key in own if isinstance(getattr(kind, key, None), FunctionType)}


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside what compiles it, or spreads it over devices, and does nothing else."""
    while (name := _WRAPPERS.get(type(module).__name__)) and is_unpatched(type(module)):
        inner = vars(module)["_modules"][name]
        own = {"forward"} if _is_plainly_compiled(vars(module), inner) else set()
        if runs_besides(module) - own:
            break
        module = inner
    return module


def _is_plainly_compiled(fields: dict[str, Any], module: nn.Module) -> bool:
    """Whether a backend of PyTorch compiled a module, and no code but PyTorch's takes part."""
    called = getattr(fields.get("forward"), "_torchdynamo_orig_callable", None)
    whole = called == module.__call__ or getattr(called, "__wrapped__", None) is module
    if not (whole and is_of_library(fields["forward"])):
        return False
    backend = getattr(fields.get("dynamo_ctx"), "callback", None)
    while is_unpatched(type(backend)) and not isinstance(backend, FunctionType):
        inner = next((f for n in _BACKENDS if (f := getattr(backend, n, None))), None)
        if inner is None:
            settings = getattr(backend, "config", None) or getattr(backend, "kwargs", None) or {}
            made = getattr(backend, "compiler_fn", None)  # Inductor has none
            plain = all(isinstance(v, bool | int | float | str | None) for v in settings.values())
            return plain and backend is not None and (made is None or is_of_library(made))
        backend = inner
    return is_of_library(backend)


def fields_of(module: nn.Module) -> dict[str, Any]:
    """All other attributes."""
    left_out = {*_BOOKKEEPING, *_TABLES}
    if isinstance(module, fx.GraphModule):
        left_out |= DRAWN
    if type(module) is Exported:
        left_out.add("_run")  # is known by the digest of its file
    compiled = vars(module).get("_compiled_call_impl")
    called = getattr(compiled, "_torchdynamo_orig_callable", None)
    if module._call_impl in (called, getattr(called, "__wrapped__", None)):  # the latter: from 2.14
        left_out.add("_compiled_call_impl")  # of Module.compile, which copies leave out
    if vars(module).get("_state_dict_hooks"):  # a pass may ask for the state
        left_out.remove("_state_dict_hooks")
    return {name: part for name, part in vars(module).items() if name not in left_out}
