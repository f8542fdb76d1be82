import pytest
import torch

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.registry import create


@pytest.mark.parametrize(
    ("name", "kwargs", "channels", "size"),
    [
        ("small_convnet", {}, 1, (8, 8)),
        (
            "small_convnet",
            {"in_channels": 3, "image_size": [11, 7], "widths": [5, 6, 7], "hidden": 9},
            3,
            (11, 7),
        ),
        ("lenet", {}, 1, (28, 28)),
        ("lenet", {"in_channels": 3, "image_size": (33, 21)}, 3, (33, 21)),
    ],
)
def test_shapes(name: str, kwargs: dict[str, object], channels: int, size: tuple[int, int]) -> None:
    network = create(name, {**kwargs, "num_classes": 4}).eval()
    assert network(torch.rand(3, channels, *size)).shape == (3, 4)


def test_normalization_is_optional_and_inside() -> None:
    plain = create("small_convnet", {}).eval()
    scaled = create("small_convnet", {"mean": (0.5,), "std": (0.25,)}).eval()
    scaled.load_state_dict(plain.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(scaled(x), plain((x - 0.5) / 0.25))


def test_lenet_is_lenet_5() -> None:
    parameters = sum(p.numel() for p in create("lenet", {}).parameters())
    assert parameters == 61_706  # LeCun et al.'s layer sizes with full connections in layer C3


@pytest.mark.parametrize(
    ("name", "kwargs", "argument"),
    [
        ("small_convnet", {"widths": ()}, "widths"),
        ("small_convnet", {"widths": (0,)}, "widths"),
        ("small_convnet", {"hidden": 1.5}, "hidden"),
        ("small_convnet", {"image_size": (8,)}, "image_size"),
        ("small_convnet", {"mean": (0.5,)}, "mean"),
        ("small_convnet", {"mean": (0.5,), "std": (0.0,)}, "std"),
        ("lenet", {"image_size": (11, 28)}, "image_size"),
        ("lenet", {"num_classes": True}, "num_classes"),
    ],
)
def test_bad_sizes(name: str, kwargs: dict[str, object], argument: str) -> None:
    with pytest.raises(ArgumentError, match=argument):
        create(name, kwargs)
