"""Images of any library come in without a copy, and those on a device without the host."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from dualsmooth.engine.api import Smooth, certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import unit_float
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.samplers import cuda as cuda_sampler
from dualsmooth.engine.samplers import inputs
from dualsmooth.engine.samplers.inputs import host_image, image_in_place, read_images
from tests.engine.conftest import without_times

SHAPE = (8, 8, 1)
BYTES = np.random.default_rng(3).integers(0, 256, (4, *SHAPE), np.uint8)
FLOATS = BYTES.astype(np.float32) / np.float32(255)
BUDGET = Budget.fixed(10, 200)


class Shared:
    """An array of a library of which nothing but DLPack is known, as CuPy's on a device."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device
        self.dtype = array.dtype

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def negated(values: np.ndarray) -> torch.Tensor:
    """These values in memory of the other sign, which PyTorch notes and DLPack does not tell."""
    found = torch.complex(torch.zeros(values.shape), -torch.from_numpy(values)).conj().imag
    assert found.is_neg()
    return found


@pytest.mark.parametrize("values", [BYTES, FLOATS, FLOATS.astype(np.float64)])
@pytest.mark.parametrize("kind", [lambda x: x, torch.from_numpy, Shared])
def test_nothing_is_copied(kind: Callable[[np.ndarray], Any], values: np.ndarray) -> None:
    found = read_images(kind(values), SHAPE)
    assert isinstance(found, np.ndarray)
    assert np.shares_memory(found, values)
    assert_array_equal(found, values)
    strided = np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 3, 1)), 1, 3)
    assert np.shares_memory(read_images(kind(strided), SHAPE), strided)


@pytest.mark.parametrize(
    "images",
    [torch.from_numpy(BYTES), torch.from_numpy(FLOATS).requires_grad_(), Shared(BYTES),
     BYTES.tolist(), negated(FLOATS)],
    ids=["torch", "grad", "dlpack", "list", "negated"],
)  # fmt: skip
def test_every_library_gives_the_same_certificates(tiny_bundle: Path, images: Any) -> None:
    method = DualSmoothing(load_bundle(tiny_bundle))
    if isinstance(images, list):
        images = (np.array(images) / 255.0).astype(np.float32).tolist()
    wanted, found = (certify(method, x, budget=BUDGET) for x in (BYTES, images))
    assert without_times(found) == without_times(wanted)


def test_smooth_takes_them_too() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    x = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    answers = {
        Smooth(network, 10, 0.1).certify(one, 10, 200, 0.1, 64)
        for one in (x, torch.from_numpy(x), Shared(x), negated(x))
    }
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.from_numpy(FLOATS[..., 0]), r"images must have shape .*; received \(4, 8, 8\)"),
        (Shared(np.moveaxis(FLOATS, 3, 1)), r"images must have shape .* \(channels come last\)"),
        (Shared(BYTES.astype(np.int64)), "images must be uint8 or floating point; received int64"),
        (torch.from_numpy(255 * FLOATS), r"images must have values in \[0, 1\].* in image 0"),
        (torch.full((1, *SHAPE), torch.nan), r"images must have values in \[0, 1\]"),
        (torch.zeros(1, *SHAPE).bfloat16(), "images must be shareable by DLPack; .*bfloat16"),
        (Shared(BYTES, (2, 0)), "images must be shareable by DLPack; received Shared"),
    ],
)  # fmt: skip
def test_bad_arrays_are_named(images: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        read_images(images, SHAPE)


@pytest.mark.parametrize("images", [FLOATS, FLOATS.astype(np.float16), 255 * FLOATS, BYTES[0]])
def test_tensors_on_a_device_are_checked_as_arrays_are(
    images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome(on_grid: bool) -> str:
        try:
            return str(read_images(torch.from_numpy(images), SHAPE, on_grid).shape)
        except ArgumentError as error:
            return str(error)

    wanted = [outcome(False), outcome(True)]
    monkeypatch.setattr(inputs, "HOST_KINDS", ())
    assert [o.replace("torch.Size([4, 8, 8, 1])", "(4, 8, 8, 1)") for o in
            (outcome(False), outcome(True))] == wanted  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_pixels_in_place_equal_those_on_the_host(dtype: torch.dtype) -> None:
    """All 256 of them to the bit: another rounding would be another image, with other votes."""
    image = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1)
    if dtype != torch.uint8:
        image = (image.double() / 255.0).to(dtype)
    in_place = image_in_place(image)
    assert isinstance(in_place, torch.Tensor)
    assert in_place.dtype == torch.float32
    assert_array_equal(in_place.numpy(), unit_float(image.numpy()))
    assert_array_equal(host_image(image), unit_float(image.numpy()))


@pytest.mark.parametrize("noise", ["gaussian", "integer"])
@pytest.mark.parametrize("values", [BYTES, FLOATS])
def test_images_on_a_device_never_come_to_the_host(
    tiny_bundle: Path, fake_stream: type[Any], monkeypatch: pytest.MonkeyPatch,
    values: np.ndarray, noise: str, tmp_path: Path,
) -> None:  # fmt: skip
    """On a machine that seems to have a device, of which host tensors are part."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_sampler, "CudaStream", fake_stream)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    method, calls = DualSmoothing(load_bundle(tiny_bundle)), 0
    options: dict[str, Any] = {
        "budget": BUDGET, "device": "cuda", "backend": "eager", "batch_size": 64, "slots": 3,
        "precision": "fp32", "noise": noise,
    }  # fmt: skip
    wanted = certify(method, values, **options)
    on_host = inputs.host_image

    def through_the_host(image: Any) -> np.ndarray:
        nonlocal calls
        calls += 1
        return on_host(image)

    monkeypatch.setattr(cuda_sampler, "host_image", through_the_host)
    assert without_times(certify(method, values, **options)) == without_times(wanted)
    assert calls == len(values)
    monkeypatch.setattr(inputs, "HOST_KINDS", ())
    found = certify(method, Shared(values), **options)
    assert without_times(found) == without_times(wanted)
    assert calls == len(values)
