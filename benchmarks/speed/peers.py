"""Other ways to draw the same votes on a CPU; each makes a function n -> votes per class.

All of them add fresh Gaussian noise to one image, classify, take the argmax and count. They share
this process's allocator settings and use all cores through PyTorch's or their own threads.
"""

import io
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

Draw = Callable[[int], NDArray[np.int64]]


def cohen(
    network: torch.nn.Module, image: NDArray[np.float32], sigma: float, classes: int, batch: int
) -> Draw:
    """The sampling loop of Cohen et al.'s published code (2019), in eager PyTorch."""
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

    def draw(n: int) -> NDArray[np.int64]:
        counts = np.zeros(classes, np.int64)
        with torch.no_grad():
            for rows in _sizes(n, batch):
                repeated = x.repeat((rows, 1, 1, 1))
                noise = torch.randn_like(repeated) * sigma
                for vote in network(repeated + noise).argmax(1).numpy():
                    counts[vote] += 1
        return counts

    return draw


def compiled(
    network: torch.nn.Module, image: NDArray[np.float32], sigma: float, classes: int, batch: int
) -> Draw:
    """The same loop around ``torch.compile``; needs a C++ compiler."""
    draw = cohen(torch.compile(network, dynamic=False), image, sigma, classes, batch)  # type: ignore[arg-type]
    draw(batch)
    return lambda n: draw(-(-n // batch) * batch)


def art(
    network: torch.nn.Module, image: NDArray[np.float32], sigma: float, classes: int, batch: int
) -> Draw:
    """IBM's Adversarial Robustness Toolbox: the counting inside its certified smoothing."""
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    x = np.ascontiguousarray(image.transpose(2, 0, 1))
    smooth = PyTorchRandomizedSmoothing(
        model=network,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=x.shape,
        nb_classes=classes,
        sample_size=100,
        scale=sigma,
        alpha=0.001,
        device_type="cpu",
    )

    def draw(n: int) -> NDArray[np.int64]:
        votes: NDArray[np.int64] = smooth._prediction_counts(x, n, batch).astype(np.int64)
        return votes.ravel()

    return draw


def onnxruntime(
    network: torch.nn.Module, image: NDArray[np.float32], sigma: float, classes: int, batch: int
) -> Draw:
    """ONNX Runtime in float32, with noise from ``torch.randn``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    file, providers = _onnx(network, image, batch), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(file, options, providers=providers)
    name = session.get_inputs()[0].name
    return _batches(lambda x: session.run(None, {name: x})[0], image, sigma, classes, batch)


def openvino(
    network: torch.nn.Module,
    image: NDArray[np.float32],
    sigma: float,
    classes: int,
    batch: int,
    *,
    precision: str,
) -> Draw:
    """OpenVINO in ``f32`` or ``bf16``, with noise from ``torch.randn``."""
    import openvino

    model = openvino.Core().read_model(_onnx(network, image, batch))
    threads = torch.get_num_threads()
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled_model = openvino.compile_model(model, "CPU", hints)
    return _batches(lambda x: compiled_model(x)[0], image, sigma, classes, batch)


def _batches(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    image: NDArray[np.float32],
    sigma: float,
    classes: int,
    batch: int,
) -> Draw:
    """Fixed batches through a runtime that takes and gives NumPy arrays."""
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    noisy = torch.empty(batch, *x.shape)

    def draw(n: int) -> NDArray[np.int64]:
        counts = np.zeros(classes, np.int64)
        for _ in _sizes(n, batch):
            torch.randn(noisy.shape, out=noisy)
            noisy.mul_(sigma).add_(x)
            counts += np.bincount(run(noisy.numpy()).argmax(1), minlength=classes)
        return counts

    return draw


def _sizes(n: int, batch: int) -> Iterator[int]:
    for start in range(0, n, batch):
        yield min(batch, n - start)


def _onnx(network: torch.nn.Module, image: NDArray[np.float32], batch: int) -> bytes:
    height, width, channels = image.shape
    file = io.BytesIO()
    program = torch.onnx.export(
        network, (torch.zeros(batch, channels, height, width),), dynamo=True, verbose=False
    )
    assert program is not None
    program.save(file)  # type: ignore[arg-type]
    return file.getvalue()
