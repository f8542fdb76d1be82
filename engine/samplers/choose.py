"""What this machine has, and the sampler that uses it."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from dualsmooth.engine.terminal.progress import step

with step("loading PyTorch"):
    import torch

from dualsmooth.engine.backends import AUTO, LOOPS, OPENVINO, check_backend
from dualsmooth.engine.errors import ArgumentError, reason_of
from dualsmooth.engine.machine import warn_of_missing_loops, warn_of_untested
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.sources.load import place_of
from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.eager import TorchSampler
from dualsmooth.engine.samplers.fusion.bf16 import multiplies_bf16
from dualsmooth.engine.samplers.fusion.fold import Made
from dualsmooth.engine.samplers.processors import chosen
from dualsmooth.engine.samplers.remembered import choose_once
from dualsmooth.engine.settings import Settings
from dualsmooth.kernels.cpu import noise_votes

if TYPE_CHECKING:
    from dualsmooth.engine.samplers.cuda import CudaSampler


def device_kind(wanted: str) -> str:
    """``cpu`` or ``cuda``: what ``auto`` stands for, or what was asked for if it is there."""
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        rule = "must be one that PyTorch finds here"
        hint = "use --device cpu, or see dualsmooth doctor"
        raise ArgumentError("device", rule, wanted, hint)
    return ("cuda" if found else "cpu") if wanted == "auto" else wanted


def placed(settings: Settings, bundle: Bundle) -> Settings:
    """The settings with the device on which the networks of a bundle run here."""
    kinds = [network.architecture for network in bundle.networks.values()]
    device, precision = place_of(kinds, settings.device, settings.precision)
    made = dataclasses.replace(settings, device=device_kind(device), precision=precision)
    integers = any(network.int8 for network in bundle.networks.values())
    return _of_integers(made) if integers else made


def _of_integers(settings: Settings) -> Settings:
    """The settings for int8 networks: other precisions and OpenVINO would round their sums."""
    for name, only in (("precision", "fp32"), ("backend", LOOPS)):
        asked = getattr(settings, name)
        if asked in ("bf16", OPENVINO):
            raise ArgumentError(name, f"must be auto or {only} for int8 networks", asked)
    loops = settings.device == "cpu" and settings.backend == AUTO
    backend = LOOPS if loops else settings.backend
    return dataclasses.replace(settings, precision="fp32", backend=backend)


def resolve(settings: Settings, bundle: Bundle, exact: bool = False) -> Settings:
    """The settings with the device and the precision in which the networks of a bundle run here.

    On a processor the backend is found, too: `dualsmooth.engine.samplers.processors`. A method may
    need ``exact`` votes, in float32.
    """
    settings = placed(settings, bundle)
    if exact and settings.precision == AUTO:
        settings = dataclasses.replace(settings, precision="fp32")
    if settings.device == "cpu" and noise_votes.available():
        return chosen(settings, bundle)
    if settings.precision != AUTO:
        return settings
    native = settings.device == "cuda" or multiplies_bf16()
    return dataclasses.replace(settings, precision="bf16" if native else "fp32")


def make_sampler(
    networks: Mapping[str, torch.nn.Module],
    outputs: Mapping[str, int],
    shape: tuple[int, int, int],
    *,
    device: str = "cpu",
    backend: str = "auto",
    slots: int = 16,
    threads: int | None = None,
    made: Mapping[str, Made] | None = None,
    **settings: Any,
) -> "TorchSampler | CpuSampler | CudaSampler":
    """The fastest sampler this machine has for a kind of device.

    Arguments are those of `TorchSampler`, `CpuSampler` and `CudaSampler`; the threads, and what is
    made already, are the CPU's.
    """
    check_backend(backend, device)
    _check_float32(device)
    warn_of_untested(torch.__version__)
    if device == "cuda":  # whose kernels and graphs a processor does not wait for
        from dualsmooth.engine.samplers.cuda import CudaSampler

        make = partial(CudaSampler, networks, outputs, shape, slots=slots, **settings)
        about = {name: settings.get(name) for name in ("batch_size", "precision", "noise")}
        return choose_once(make, networks, backend, about | {"shape": list(shape)})
    settings["threads"] = threads
    warn_of_missing_loops(noise_votes.available())
    if noise_votes.available():
        return CpuSampler(networks, outputs, shape, backend=backend, made=made, **settings)
    if backend == OPENVINO:
        rule, hint = f"must be {AUTO} without the compiled loops", "install again with a C compiler"
        raise ArgumentError("backend", rule, backend, hint)
    return TorchSampler(networks, outputs, shape, **settings)


def _check_float32(device: str) -> None:
    """Refuse switches of PyTorch's for fewer bits of float32: no run would say so.

    Those of CUDA devices are set for each run, but not beside the newer ``fp32_precision``.
    """
    rule, hint = "must be PyTorch's own", "torch.set_float32_matmul_precision('highest')"
    if device == "cuda":
        from dualsmooth.engine.samplers.passes import reproducible

        try:
            with reproducible():
                return
        except RuntimeError as error:
            hint = f"set nothing by fp32_precision, then {hint}"
            name = "precision of float32 on CUDA"
            raise ArgumentError(f"torch's {name}", rule, reason_of(error), hint) from error
    mkldnn = torch.backends.mkldnn
    for part in ("matmul", "conv"):
        found = getattr(mkldnn, part).fp32_precision
        if found not in ("none", "ieee"):
            if part == "conv":
                hint = "torch.backends.mkldnn.conv.fp32_precision = 'ieee'"
            raise ArgumentError(f"torch.backends.mkldnn.{part}.fp32_precision", rule, found, hint)
