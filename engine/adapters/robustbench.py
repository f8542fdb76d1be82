"""Networks of RobustBench's model zoo as bundles (needs the package ``robustbench``)."""

from pathlib import Path

from dualsmooth.engine.checks import one_of
from dualsmooth.engine.errors import ArgumentError, reason_of
from dualsmooth.engine.files import at_home
from dualsmooth.engine.models.bundle import Bundle

_SMALL, _LARGE = (32, 32, 3), (224, 224, 3)
SHAPES = {"cifar10": (_SMALL, 10), "cifar100": (_SMALL, 100), "imagenet": (_LARGE, 1000)}
"""Image shape and number of classes by data set."""


def load_model(
    model_name: str,
    model_dir: str | Path = "./models",
    dataset: str = "cifar10",
    threat_model: str = "L2",
) -> Bundle:
    """What ``robustbench.utils.load_model`` loads, as a bundle for any noise level.

    RobustBench looks for weights in ``model_dir`` and downloads those it does not find. Its
    networks take pixels in [0, 1]. None was trained on Gaussian noise of a known level: expect
    small radii. A network that draws random numbers, or whose logits for one image depend on the
    other images, has no certificate.

    Parameters
    ----------
    model_name : str
        Name in the model zoo.
    model_dir : str or Path
        Folder of RobustBench's weights.
    dataset : {"cifar10", "cifar100", "imagenet"}
    threat_model : str
        What the network was trained against, for example ``L2`` or ``Linf``.

    Raises
    ------
    ArgumentError
        If RobustBench is not installed or does not know the model.
    """
    shape, classes = SHAPES[one_of("dataset", dataset, tuple(SHAPES))]
    place = at_home(model_dir, "model_dir")
    try:
        from robustbench.utils import load_model as load
    except Exception as error:  # a torchvision built for another torch raises RuntimeError
        received = reason_of(error)
        hint = "pip install git+https://github.com/RobustBench/robustbench"
        raise ArgumentError("robustbench", "must be installed", received, hint) from error
    try:
        network = load(model_name, place, dataset, threat_model)
    except Exception as error:  # of its downloads, its weights and its lists
        rule = f"must be a model of RobustBench for {dataset}, {threat_model}"
        raise ArgumentError("model_name", rule, model_name, reason_of(error)) from error
    network.eval()  # may return nothing
    return Bundle.from_classifier(network, num_classes=classes, input_shape=shape)
