"""Other ways to draw the same votes on a CPU; each makes a function n -> votes per class.

All of them add fresh Gaussian noise to one image, classify, take the argmax and count. They share
this process's allocator settings and use all cores through PyTorch's or their own threads.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dualsmooth.engine.models.capture import quiet

Draw = Callable[[int], NDArray[np.int64]]


@dataclass(frozen=True)
class Task:
    """What to draw votes of, and how many at once."""

    network: torch.nn.Module
    image: NDArray[np.float32]
    sigma: float
    classes: int
    batch: int

    @property
    def pixels(self) -> NDArray[np.float32]:
        """The image, channels first."""
        return np.ascontiguousarray(self.image.transpose(2, 0, 1))

    def sizes(self, n: int) -> Iterator[int]:
        """Batches of n votes."""
        for start in range(0, n, self.batch):
            yield min(self.batch, n - start)


def cohen(task: Task) -> Draw:
    """The sampling loop of Cohen et al.'s published code (2019), in eager PyTorch."""
    x = torch.from_numpy(task.pixels)

    def draw(n: int) -> NDArray[np.int64]:
        counts = np.zeros(task.classes, np.int64)
        with torch.no_grad():
            for rows in task.sizes(n):
                repeated = x.repeat((rows, 1, 1, 1))
                noise = torch.randn_like(repeated) * task.sigma
                for vote in task.network(repeated + noise).argmax(1).numpy():
                    counts[vote] += 1
        return counts

    return draw


def compiled(task: Task) -> Draw:
    """The same loop around ``torch.compile``; needs a C++ compiler."""
    network = torch.compile(task.network, dynamic=False)
    draw = cohen(replace(task, network=network))  # type: ignore[arg-type]
    draw(task.batch)
    return lambda n: draw(-(-n // task.batch) * task.batch)


def art(task: Task) -> Draw:
    """IBM's Adversarial Robustness Toolbox: the counting inside its certified smoothing."""
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    x = task.pixels
    smooth = PyTorchRandomizedSmoothing(
        model=task.network,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=x.shape,
        nb_classes=task.classes,
        sample_size=100,
        scale=task.sigma,
        alpha=0.001,
        device_type="cpu",
    )

    def draw(n: int) -> NDArray[np.int64]:
        votes: NDArray[np.int64] = smooth._prediction_counts(x, n, task.batch).astype(np.int64)
        return votes.ravel()

    return draw


def onnxruntime(task: Task) -> Draw:
    """ONNX Runtime in float32, with noise from ``torch.randn``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    file, providers = _onnx(task), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(file, options, providers=providers)
    name = session.get_inputs()[0].name
    return _batches(lambda x: session.run(None, {name: x})[0], task)


def openvino(task: Task, *, precision: str) -> Draw:
    """OpenVINO in ``f32`` or ``bf16``, with noise from ``torch.randn``."""
    import openvino

    model = openvino.Core().read_model(_onnx(task))
    threads = torch.get_num_threads()
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled_model = openvino.compile_model(model, "CPU", hints)
    return _batches(lambda x: compiled_model(x)[0], task)


def _batches(run: Callable[[NDArray[np.float32]], NDArray[np.float32]], task: Task) -> Draw:
    """Fixed batches through a runtime that takes and gives NumPy arrays."""
    x = torch.from_numpy(task.pixels)
    noisy = torch.empty(task.batch, *x.shape)

    def draw(n: int) -> NDArray[np.int64]:
        counts = np.zeros(task.classes, np.int64)
        for _ in task.sizes(n):
            torch.randn(noisy.shape, out=noisy)
            noisy.mul_(task.sigma).add_(x)
            counts += np.bincount(run(noisy.numpy()).argmax(1), minlength=task.classes)
        return counts

    return draw


def _onnx(task: Task) -> bytes:
    file, shape = io.BytesIO(), (task.batch, *task.pixels.shape)
    with quiet():
        program = torch.onnx.export(task.network, (torch.zeros(shape),), dynamo=True, verbose=False)
    assert program is not None
    program.save(file)  # type: ignore[arg-type]
    return file.getvalue()
