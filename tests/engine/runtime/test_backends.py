import pytest

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.runtime.backends import (
    backend_of_each,
    check_backend,
    recorded_backend,
    sampler_name,
)


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        ({"a": "cudnn", "b": "cudnn"}, "cuda:cudnn"),
        ({"b": "eager", "classifier@0.5": "triton"}, "cuda:b=eager,classifier@0.5=triton"),
    ],
)
def test_a_recorded_name_gives_the_choice_back(chosen: dict[str, str], name: str) -> None:
    assert sampler_name(chosen) == name
    assert backend_of_each(recorded_backend(name), list(chosen)) == chosen


@pytest.mark.parametrize("name", ["cpu", "torch", None])
def test_other_samplers_record_no_backend(name: str | None) -> None:
    assert recorded_backend(name) == "auto"


@pytest.mark.parametrize("text", ["", "magic", "a=auto", "a=cudnn,", "cudnn,b=magic"])
def test_unknown_backends_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^backend must be one of auto, cudnn, triton"):
        check_backend(text)
