import pytest

from dualsmooth.engine.backends import (
    answers,
    backend_of_each,
    check_backend,
    recorded_backend,
    sampler_name,
)
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.settings import Settings


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        ({"a": "cudnn", "b": "cudnn"}, "cuda:cudnn"),
        ({"b": "eager", "classifier@0.5": "triton"}, "cuda:b=eager,classifier@0.5=triton"),
        (
            {"b": "picked.stem.cp", "a@1": "picked.cudnn.c"},
            "cuda:a@1=picked.cudnn.c,b=picked.stem.cp",
        ),
    ],
)
def test_a_recorded_name_gives_the_choice_back(chosen: dict[str, str], name: str) -> None:
    assert sampler_name(chosen) == name
    assert backend_of_each(recorded_backend(name), list(chosen)) == chosen


@pytest.mark.parametrize("name", ["cuda", "torch", None])
def test_other_samplers_record_no_backend(name: str | None) -> None:
    assert recorded_backend(name) == "auto"


def test_a_processors_backend_is_recorded_too() -> None:
    assert recorded_backend("cpu:openvino") == "openvino"
    assert recorded_backend("cpu") == "loops"


@pytest.mark.parametrize(
    ("recorded", "asked", "answered"),
    [
        ("picked.stem.cp", "auto", True),
        ("picked.stem.cp", "picked", True),
        ("picked.stem.cp", "picked.stem", True),
        ("picked.stem.cp", "picked.stem.cp", True),
        ("picked.stem.cp", "picked.stem.cc", False),
        ("picked.stem.cp", "picked.stem.c", False),
        ("picked.stem.cp", "picked.cudnn", False),
        ("picked.stem.cp", "stem", False),
        ("stem", "picked", False),
        ("auto", "picked", False),
        ("a=picked.stem.cp,b=eager", "auto", True),
        ("a=picked.stem.cp,b=eager", "b=eager,a=picked", True),
        ("a=picked.stem.cp,b=eager", "a=picked,b=stem", False),
        ("a=picked.stem.cp,b=picked.stem.pp", "picked", True),
        ("a=picked.stem.cp,b=eager", "picked", False),
        ("picked.stem.cp", "a=picked,b=picked.stem", True),
        ("picked.stem.cp", "a=picked,b=eager", False),
        ("a=picked.stem.cp,b=eager", "a=picked,c=eager", False),
    ],
)
def test_a_record_answers_what_was_asked_for_or_it_does_not(
    recorded: str, asked: str, answered: bool
) -> None:
    assert answers(recorded, asked) == answered


UNKNOWN = ["picked.", "picked.stem.", "picked.eager.c", "picked.stem.c.p", "picked.stem.C1"]
UNKNOWN += ["stem.picked", "a=picked.stem,b=picked.stem.-", "openvino.stem"]
UNKNOWN += ["", "magic", "a=auto", "a=cudnn,", "cudnn,b=magic", "cudnn,eager", "a=openvino"]


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown_backends_are_refused(text: str) -> None:
    with pytest.raises(
        ArgumentError,
        match=r"^backend must be one of auto, fused, onchip, .* on cuda; loops, openvino on cpu",
    ):
        check_backend(text)


@pytest.mark.parametrize(
    ("text", "device", "owner"), [("triton", "cpu", "cuda"), ("openvino", "cuda", "cpu")]
)
def test_a_device_has_backends_of_its_own(text: str, device: str, owner: str) -> None:
    assert check_backend(text) == check_backend(text, owner) == text
    for refused in (
        lambda: check_backend(text, device),
        lambda: Settings(device=device, backend=text),
    ):
        with pytest.raises(
            ArgumentError, match=rf" on {device}; received {text} \(use --device {owner}\)$"
        ):
            refused()
