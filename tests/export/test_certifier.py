"""Certificates over ONNX Runtime: the engine's own, without torch."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from operator import itemgetter
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnxruntime
import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.sources.onnx_session import make_session
from dualsmooth.engine.records import digest_of
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.engine.settings import Settings
from dualsmooth.export.certifier import OnnxCertifier
from dualsmooth.export.deployment import INPUT

IMAGES = load_images("digits").images[:6]
OTHERS = ("torch", "onnx", "onnxscript", "safetensors", "sklearn", "typer", "tqdm", "PIL")
"""What a machine that only certifies does not need."""


@pytest.fixture
def certifier(deployed: Path) -> Iterator[OnnxCertifier]:
    with OnnxCertifier(deployed, threads=1) as made:
        yield made


def votes(certificate: Certificate) -> list[tuple[int, ...]]:
    return [record.votes for record in certificate.counts]


def claims(certificate: Certificate) -> dict[str, Any]:
    """Everything a certificate says but where it was made."""
    record = dataclasses.asdict(certificate)
    for name in ("bundle", "device", "sampler", "batch_size", "seconds"):
        del record[name]
    return record


@pytest.mark.parametrize("sigma", [None, 0.25])
def test_certificates_are_the_engine_s(
    deployed: Path, wavering: Bundle, sigma: float | None
) -> None:
    method = DualSmoothing(wavering) if sigma is None else FixedSmoothing(wavering, sigma)
    settings = Settings(Budget.fixed(20, 150), 0.001, 3, 1, "cpu", "fp32", threads=1)
    with Session.open(method, settings) as session:
        engine = {c.image_id: c for c in session.certify(IMAGES, labels=range(6))}
        answers = dict(session.predict(IMAGES))
    with OnnxCertifier(deployed, sigma=sigma, seed=3, attempt=1, threads=1) as certifier:
        for i, image in enumerate(IMAGES):
            found = certifier.certify(image, image_id=i, label=i)
            assert claims(found) == claims(engine[i])
            assert certifier.predict(image, image_id=i) == answers[i]
    assert len({tuple(votes(c)) for c in engine.values()}) == len(IMAGES)


@pytest.mark.parametrize("budget", [Budget.fixed(20, 300), Budget.decide((0.05,), 20, 900)])
def test_many_images_at_a_time_get_the_certificates_each_gets_alone(
    certifier: OnnxCertifier, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[list[int]] = []
    submit = certifier.sampler.submit

    def spy(model: str, segments: Sequence[Segment]) -> Any:
        steps.append([segment.count for segment in segments])
        return submit(model, segments)

    def passes(counts: Iterable[int]) -> int:
        return sum(-(-count // certifier.sampler.batch_size) for count in counts)

    alone = [certifier.certify(x, budget=budget, image_id=i) for i, x in enumerate(IMAGES)]
    monkeypatch.setattr(certifier.sampler, "submit", spy)
    found = {c.image_id: c for c in certifier.certify_all(IMAGES, budget=budget)}
    assert [claims(found[i]) for i in range(len(IMAGES))] == [claims(c) for c in alone]
    assert max(map(len, steps)) == len(IMAGES)
    draws = [record.count for c in alone for record in c.counts]
    assert passes(chain(*steps)) == passes(draws), "a draw was cut inside a pass"


def test_threads_that_share_a_deployment_get_the_certificates_of_their_own_images(
    certifier: OnnxCertifier,
) -> None:
    """They shared its slots, and an image got the class and radius of another."""
    images = load_images("digits").images[:4]

    def one(i: int) -> dict[str, Any]:
        return claims(certifier.certify(images[i], image_id=i, n0=50, n=500))

    alone = [one(i) for i in range(4)]
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(one, range(4))) == alone


@pytest.mark.parametrize("thread", ["this thread", "another"])
def test_a_call_half_read_is_finished_by_the_next_one(
    certifier: OnnxCertifier, thread: str
) -> None:
    """Other threads waited for ever for a reader who did not go on."""
    images, found = load_images("digits").images[:3], list[Certificate]()
    alone = [claims(certifier.certify(image, image_id=i)) for i, image in enumerate(images)]
    first = certifier.certify_all(images)
    read = [next(first)]
    other = Thread(target=lambda: found.append(certifier.certify(images[0])), daemon=True)
    other.run() if thread == "this thread" else other.start()
    if thread == "another":
        other.join(30)
    assert [claims(certificate) for certificate in found] == alone[:1]
    assert sorted(map(claims, [*read, *first]), key=itemgetter("image_id")) == alone


def test_arguments_change_what_they_name(certifier: OnnxCertifier) -> None:
    base = certifier.certify(IMAGES[0])
    assert certifier.certify(IMAGES[0], n0=20, n=150, alpha=0.001).radius == base.radius
    assert sum(certifier.certify(IMAGES[0], n=310).counts[1].votes) == 310
    assert certifier.certify(IMAGES[0], alpha=0.1).alpha.budget == 0.1
    assert votes(certifier.certify(IMAGES[0], image_id=9)) != votes(base)
    decided = certifier.certify(IMAGES[0], budget=Budget.decide((0.05,), 20, 150))
    assert decided.radius in (0.0, 0.05)


@pytest.mark.parametrize("options", [{"threads": 3}, {"feed_noise": True}], ids=str)
def test_threads_and_the_place_of_the_noise_change_no_vote(
    certifier: OnnxCertifier, deployed: Path, options: dict[str, Any]
) -> None:
    with OnnxCertifier(deployed, **options) as other:
        for image in IMAGES[:2]:
            assert votes(other.certify(image, n=5000)) == votes(certifier.certify(image, n=5000))


def test_certificates_name_the_deployment(certifier: OnnxCertifier) -> None:
    found = certifier.certify(IMAGES[0])
    assert found.bundle == certifier.deployment.digest
    assert (found.precision, found.device, found.batch_size) == ("fp32", "cpu", 256)
    assert found.sampler.startswith(f"onnxruntime {onnxruntime.__version__}, CPUExecution")
    assert Certificate.from_json(found.to_json()) == found


def test_it_needs_numpy_scipy_and_onnxruntime_alone(
    deployed: Path, certifier: OnnxCertifier, tmp_path: Path
) -> None:
    np.save(tmp_path / "image.npy", IMAGES[1])
    code = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OTHERS!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Block())
import numpy as np
from dualsmooth.engine.budget import Budget
from dualsmooth.export.certifier import OnnxCertifier
from dualsmooth.export.deployment import INPUT

image = np.load({str(tmp_path / "image.npy")!r})
with OnnxCertifier({str(deployed)!r}, threads=1) as certifier:
    certifier.predict(image)
    certifier.certify(image, budget=Budget.decide((0.05,), 20, 150))
    print(certifier.certify(image).to_json())
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert claims(Certificate.from_json(printed)) == claims(certifier.certify(IMAGES[1]))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 9, 1)), r"^image must have shape \(8, 8, 1\); received \(8, 9, 1\)"),
        (np.zeros((1, 8, 8)), "channels come last"),
        (np.full((8, 8, 1), 1.5), r"^images must have values in \[0, 1\]"),
        (np.full((8, 8, 1), np.nan), r"^images must have values in \[0, 1\]"),
        (np.zeros((8, 8, 1), np.int64), "must be uint8 or floating point"),
    ],
    ids=["shape", "channels first", "range", "nan", "integers"],
)
def test_bad_images_are_refused(certifier: OnnxCertifier, image: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        certifier.certify(image)
    with pytest.raises(ArgumentError, match=message):
        certifier.predict(image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.3}, "^sigma must be one of the levels trained for: 0.12, 0.25, 0.5; rec"),
        ({"seed": -1}, "^seed must be an integer"),
        ({"attempt": 1 << 16}, "^attempt must be an integer"),
        ({"threads": 0}, "^threads must be"),
        ({"provider": "NoProvider"}, "^provider must be one that this ONNX Runtime has: .*CPU"),
    ],
    ids=str,
)
def test_bad_options_are_refused(deployed: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        OnnxCertifier(deployed, **options)


@pytest.mark.parametrize(
    "options", [{"n": 0}, {"n0": 1.5}, {"alpha": 1.0}, {"alpha": float("nan")}, {"image_id": -1},
                {"n": 10, "budget": Budget.fixed(1, 1)}], ids=str,
)  # fmt: skip
def test_bad_requests_are_refused(certifier: OnnxCertifier, options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        certifier.certify(IMAGES[0], **options)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"alpha": 0.001', '"alpha": 0.01'))


def linked(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("moved")))


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("selector.votes.onnx", flip, "must have the SHA-256 that deployment.json states"),
        ("dual.onnx", flip, "must have the SHA-256 that deployment.json states"),
        ("classifier.onnx", lambda path: path.write_bytes(b"onnx"), "must have .* bytes; rec"),
        ("classifier.votes.onnx", Path.unlink, "must be readable"),
        ("classifier.votes.onnx.data", Path.touch, "must be listed in deployment.json"),
        ("classifier.onnx.data", lambda p: p.symlink_to("/etc/passwd"), "must be listed in deploy"),
        ("other.onnx", lambda p: p.write_bytes(b"x"), "must be listed in deployment.json"),
        ("dual.onnx", linked, "must be a plain file; received a symbolic link"),
        ("dual.onnx", piped, "must be a plain file; received a folder, FIFO"),
        ("deployment.json", edit, "must have the digest it states"),
        ("deployment.json", lambda path: path.write_text("{"), "must be a readable JSON file"),
        ("deployment.json", lambda path: path.write_text("{}"), "must have the format"),
    ],
    ids=[
        "votes",
        "dual",
        "short",
        "missing",
        "beside",
        "link",
        "other",
        "linked",
        "pipe",
        "edited",
        "no json",
        "no deployment",
    ],
)
def test_a_tampered_file_is_named(
    deployed: Path, tmp_path: Path, file: str, damage: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(deployed, tmp_path / "copy")
    damage(tmp_path / "copy" / file)
    with pytest.raises(FileError, match=message) as caught:
        OnnxCertifier(tmp_path / "copy")
    assert str(caught.value).startswith(str(tmp_path / "copy" / file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"roles": ["selector", "nothing"]},
        {"sigmas": [0.5, 0.25, 0.12]},
        {"certificate": {"method": "dual", "alpha": 2}},
        {"certificate": {"method": "guess"}},
        {"batch_size": "64"},
        {"batch_size": True},
        {"batch_size": -1},
        {"batch_size": 1 << 40},
        {"sigmas": ["0.12", "0.25", "0.5"]},
        {"sigmas": [0.12, 0.25, True]},
        {"files": []},
        {"files": {"a.onnx": [1, ""]}},
        {"roles": "selector"},
        {"roles": [["selector"]]},
        {"input": {"shape": [8, 8, 1]}},
        {"input": None},
        {"input": {"shape": [8, 8, 1], **INPUT, "range": [0, 255]}},
        {"input": {"shape": [8, 8, 1], **INPUT, "layout": "channels, height, width"}},
        {"name": 3},
        {"tau": "0.5"},
        {"precision": ["fp32"]},
        {"precision": "fp64"},
        {"certificate": {"method": "dual", "n": True}},
        {"certificate": {"method": "dual", "other": 1}},
        {"opset": 10**30},
        {"another": 1},
        {"files": {"../escape.onnx": {"bytes": 1, "sha256": ""}}},
    ],
    ids=str,
)
def test_an_index_that_describes_no_deployment_is_refused(
    deployed: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(deployed, tmp_path / "copy")
    index = tmp_path / "copy" / "deployment.json"
    fields = json.loads(index.read_text()) | change
    del fields["digest"]
    index.write_text(json.dumps(fields | {"digest": digest_of(fields)}))
    with pytest.raises(FileError, match=r"must describe a deployment|must be plain names"):
        OnnxCertifier(tmp_path / "copy")


def test_an_old_onnx_runtime_is_refused(deployed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.20.1")
    with pytest.raises(ArgumentError, match=r"^onnxruntime must be 1.21 or newer; received 1.20"):
        OnnxCertifier(deployed)


def test_a_provider_without_integer_operators_gets_noise_from_the_host(
    deployed: Path, certifier: OnnxCertifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that runs nothing itself stands for one without BitShift."""
    name = "AzureExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {name}")
    with pytest.warns(UserWarning, match=f"{name} lacks operators of the vote graph, such as Bit"):
        other = OnnxCertifier(deployed, provider=name)
    with other:
        assert votes(other.certify(IMAGES[0])) == votes(certifier.certify(IMAGES[0]))
        assert other.sampler.name.endswith(f"{name}, noise fed")


def test_a_provider_that_refuses_an_operator_gets_noise_from_the_host(
    deployed: Path, certifier: OnnxCertifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider made for this test: it runs networks and refuses whole vote graphs."""
    name, asked = "NoShiftExecutionProvider", []
    names = {path.read_bytes(): path.name for path in deployed.glob("*.onnx")}

    def session(model: bytes, provider: str, *, alone: bool = False) -> Any:
        asked.append((names[model], provider))
        if alone:
            raise RuntimeError("This session contains graph nodes that are assigned to the CPU")
        return make_session(model)

    monkeypatch.setattr("dualsmooth.export.sampler.make_session", session)
    with pytest.warns(UserWarning, match=f"^{name} lacks operators .* made on the host and fed"):
        other = OnnxCertifier(deployed, provider=name)
    with other:
        assert votes(other.certify(IMAGES[0])) == votes(certifier.certify(IMAGES[0]))
        assert other.certify(IMAGES[0]).device == name
        assert other.sampler.name.endswith(f"{name}, noise fed")
    assert asked[1:] == [("selector.onnx", name), ("classifier.onnx", name)]


@pytest.mark.parametrize("fed", [False, True])
@pytest.mark.parametrize("classes", [9, 11])
def test_networks_of_other_numbers_of_classes_cast_no_votes(
    deployed: Path, tmp_path: Path, classes: int, fed: bool
) -> None:
    """Of nine classes, an invalid vote would be one for the tenth."""
    shutil.copytree(deployed, tmp_path / "copy")
    index = tmp_path / "copy" / "deployment.json"
    fields = json.loads(index.read_text()) | {"num_classes": classes}
    del fields["digest"]
    index.write_text(json.dumps(fields | {"digest": digest_of(fields)}))
    with OnnxCertifier(tmp_path / "copy", sigma=0.25, feed_noise=fed) as certifier:
        with pytest.raises(FileError, match=rf"onnx: must cast votes for {classes} classes"):
            certifier.certify(IMAGES[0])


def test_a_file_that_onnx_runtime_cannot_run_is_named(
    deployed: Path, tmp_path: Path, sealed: Callable[[Path], None]
) -> None:
    shutil.copytree(deployed, tmp_path / "copy")
    (tmp_path / "copy" / "selector.votes.onnx").write_bytes(b"\x08\x0a")
    sealed(tmp_path / "copy")
    with pytest.raises(FileError, match=r"selector\.votes\.onnx: must be a graph that this ONNX"):
        OnnxCertifier(tmp_path / "copy")
    make_session(str(tmp_path / "copy" / "classifier.votes.onnx"))
