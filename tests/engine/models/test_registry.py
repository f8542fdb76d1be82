import pytest
from torch import nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models import registry


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ArgumentError, match=r"cifar_resnet110, .*lenet, .*small_convnet") as error:
        registry.create("resnet9000", {})
    assert "resnet9000" in str(error.value)


def test_unknown_keywords_are_named() -> None:
    with pytest.raises(ArgumentError, match="widht") as error:
        registry.create("small_convnet", {"widht": 3})
    assert "widths" in str(error.value)


def test_registering(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.known_architectures()
    monkeypatch.setattr(registry, "_CONSTRUCTORS", dict(registry._CONSTRUCTORS))

    @registry.register_architecture("twice")
    def linear(width: int) -> nn.Module:
        return nn.Linear(width, 2 * width)

    made = registry.create("twice", {"width": 3})
    assert isinstance(made, nn.Linear)
    assert made.out_features == 6
    with pytest.raises(ArgumentError, match="new architecture name"):
        registry.register_architecture("twice")
