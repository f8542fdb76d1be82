"""What a call returns: a sequence that sums up, plots, tabulates, saves and comes back."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dualsmooth as ds
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.runs.audit import audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.run_checks import RUN
from dualsmooth.engine.settings import Settings

MODEL, DIGITS = ds.load_bundle("digits-dual"), ds.load_images("digits")
IMAGES, LABELS = DIGITS.images[:12], [int(label) for label in DIGITS.labels[:12]]


@pytest.fixture(scope="module")
def found() -> ds.Certificates:
    return ds.certify("digits-dual", IMAGES, sigma=0.25, labels=LABELS, n=400, progress=False)


def test_a_name_and_a_noise_level_are_enough(found: ds.Certificates) -> None:
    method = FixedSmoothing(MODEL, 0.25)
    for model, options in ((MODEL, {"sigma": 0.25}), (method, {})):
        again = ds.certify(model, IMAGES, labels=LABELS, n=400, **options)  # type: ignore[arg-type]
        assert [dataclasses.replace(c, seconds=0) for c in again] == [
            dataclasses.replace(c, seconds=0) for c in found
        ]
    assert [c.image_id for c in found] == list(range(12))
    assert found[0].method == "fixed(0.25)"


def test_a_module_needs_nothing_else() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7))
    certificates = ds.certify(network, IMAGES, sigma=0.25, n=100)
    assert len(certificates[0].counts[0].votes) == 7 + 1
    assert certificates.configuration["bundle"] == "Sequential"
    answers = ds.predict(network, IMAGES, sigma=0.25, n=100)
    assert all(
        c.predicted in (None, p.predicted) for c, p in zip(certificates, answers, strict=True)
    )
    function = ds.certify(lambda x: network(x), IMAGES[:1], sigma=0.25, n=100)
    assert function[0].counts == certificates[0].counts


def test_a_spec_names_images_and_labels() -> None:
    certificates = ds.certify("digits-dual", "digits", budget=Budget.fixed(10, 20), progress=False)
    assert len(certificates) == 540
    assert [c.label for c in certificates[:12]] == LABELS
    assert certificates[0].method.startswith("dual")


@pytest.mark.parametrize(
    ("model", "images", "options", "message"),
    [
        (3, IMAGES, {}, "^model must be a method, a bundle, a name"),
        ("digits-dua", IMAGES, {}, "^bundle must be"),
        (torch.nn.Linear(3, 3), IMAGES, {"sigma": 0.25}, r"^model must map images \(n, 1, 8, 8\)"),
        (
            torch.nn.Linear(8, 3).half(),
            IMAGES,
            {"sigma": 0.25},
            r"\(it runs in float32: call \.float",
        ),
        (torch.nn.Linear(3, 3), IMAGES[0], {}, r"^images must have shape \(count"),
        (lambda x: x.sum((1, 2, 3))[:, None], IMAGES, {"sigma": 0.25}, r"torch\.cat\(\[-z, z\], 1"),
        (MODEL, IMAGES.repeat(3, -1), {"sigma": 0.25}, "the networks take grey images"),
        (MODEL, IMAGES[:2], {"sigma": 0.25, "labels": np.eye(2)}, r"labels\.argmax\(1\)"),
        ("digits-dual", IMAGES, {"n": 9, "budget": Budget.fixed()}, "^n must be left out"),
        ("digits-dual", IMAGES, {"method": "fixed"}, "^sigma is required"),
        (FixedSmoothing(MODEL, 0.25), IMAGES, {"sigma": 0.5}, "^sigma must be left out with a"),
    ],
)
def test_what_cannot_be_meant(
    model: object, images: object, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message) as refused:
        ds.certify(model, images, **options)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_labels_are_in_the_order_of_the_model_s_classes() -> None:
    named = dataclasses.replace(
        MODEL, classes=tuple("zero one two three four five six".split()) + tuple("789")
    )
    turned = dataclasses.replace(
        DIGITS, images=IMAGES, labels=DIGITS.labels[:12], classes=named.classes[::-1]
    )
    with pytest.raises(ArgumentError, match="data must have the classes in the order of bundle"):
        ds.certify(named, turned, sigma=0.25, n=20)
    given = ds.certify(named, turned, labels=LABELS, sigma=0.25, n=20)
    assert ([c.label for c in given], given.configuration.get("classes")) == (LABELS, None)


def test_one_line_for_people(found: ds.Certificates) -> None:
    done, right = sum(c.predicted is not None for c in found), sum(c.correct for c in found)
    assert repr(found).startswith(f"Certificates(12 images, {done} certified, {right} correctly; ")
    assert repr(found).endswith("; fixed(0.25), alpha 0.001)")
    assert len(repr(found)) < 120
    assert repr(found[:0]) == "Certificates(none)"
    page = found._repr_html_()
    assert page.count("<tr>") == 11
    assert "and 2 more" in page
    odd = ds.Certificates([dataclasses.replace(found[0], method="<script>")])
    assert "<script>" not in odd._repr_html_()


def test_the_summary_and_the_curve_agree(found: ds.Certificates) -> None:
    summary, curve = found.summary(), found.curve()
    assert summary.acr == pytest.approx(sum(c.radius for c in found if c.correct) / 12)
    at = found.curve(list(summary.certified))
    assert at.accuracy.tolist() == [summary.accuracy(r) for r in summary.certified]
    assert [tuple(pair) for pair in np.stack([at.low, at.high], 1).tolist()] == [
        summary.interval(r) for r in summary.certified
    ]
    assert curve.radius[0] == 0.0
    assert curve.accuracy[-1] == 0.0
    assert len(curve.radius) == 1 + len({c.radius for c in found if c.correct})
    assert (np.diff(curve.accuracy) < 0).all()


def test_a_slice_is_a_part_that_cannot_pass_for_the_whole(
    found: ds.Certificates, tmp_path: Path
) -> None:
    part = found[:3]
    assert isinstance(part, ds.Certificates)
    assert part.summary().images == 3
    with pytest.raises(ArgumentError, match=r"^certificates must be those of one call"):
        part.save(tmp_path / "part")
    assert not (tmp_path / "part").exists()


def test_an_image_set_of_lists_is_one_of_arrays() -> None:
    kinds: tuple[Any, ...] = list, np.array
    sets = [ds.ImageSet(IMAGES[:2], k([1, 2]), "two", (), ids=k([7, 8])) for k in kinds]
    one, other = (ds.certify(MODEL, data, sigma=0.25, n=20) for data in sets)
    assert [(c.image_id, c.label) for c in one] == [(7, 1), (8, 2)]
    assert [c.counts for c in one] == [c.counts for c in other]
    with pytest.raises(ArgumentError, match="labels must name the classes of 2 images"):
        ds.ImageSet(IMAGES[:2], [1], "two", ())  # type: ignore[arg-type]


@pytest.mark.parametrize("run", ["nowhere", "a file", "."])
def test_what_is_no_run_is_told(run: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(FileError, match=r"must be a run folder; received (no|a file)"):
        ds.Certificates.load(tmp_path / run)


def test_a_saved_run_passes_an_audit_and_comes_back(found: ds.Certificates, tmp_path: Path) -> None:
    folder = found.save(tmp_path / "run")
    seen = audit(folder)
    assert seen.findings == []
    assert seen.trusted == ["data memory not at hand: images and labels (--data)"]
    known = dataclasses.replace(DIGITS, images=IMAGES, labels=DIGITS.labels[:12])
    assert audit(folder, known).trusted == []
    back = ds.Certificates.load(folder)
    assert back == found
    assert back.configuration == json.loads(json.dumps(found.configuration))
    back.save(tmp_path / "copy")
    with pytest.raises(FileError, match=r"holds a run already \(save\(.., fresh=True\)"):
        found.save(folder)
    found.save(folder, fresh=True)


@pytest.mark.parametrize("kind", ["<f8", ">f4"])
def test_images_of_other_floats_are_those_of_a_file_of_them(tmp_path: Path, kind: str) -> None:
    digits, file = ds.load_images("digits"), tmp_path / "x.npz"
    pixels = (digits.images[:2] / 255).astype(kind)
    np.savez(file, x=pixels.astype(float))
    data = ds.ImageSet(pixels, digits.labels[:2] * 0 - 1, f"npz:{file}", ())
    found = ds.certify("digits-dual", data, sigma=0.25, n0=5, n=20, progress=False)
    assert audit(found.save(tmp_path / "run"), ds.load_images(f"npz:{file}")).findings == []


@pytest.mark.parametrize("index", [None, [10, 11, 12, 13]], ids=["positions", "index"])
def test_a_slice_is_audited_by_its_ids_and_one_without_them_says_how(
    tmp_path: Path, index: list[int] | None
) -> None:
    digits = ds.load_images("digits")
    arrays = {"x": digits.images[:4], "y": digits.labels[:4]}
    np.savez(tmp_path / "a.npz", **arrays | ({} if index is None else {"index": index}))
    data = ds.load_images(f"npz:{tmp_path / 'a.npz'}")

    def findings(**named: Any) -> list[str]:
        named |= {"labels": data.labels[2:4], "sigma": 0.25, "n": 20, "device": "cpu"}
        found = ds.certify("digits-dual", data.images[2:4], **named)
        return audit(found.save(tmp_path / "run", fresh=True), data).findings

    assert findings(image_ids=data.image_ids[2:4]) == []
    told = findings()
    assert told
    assert all("certify slices with image_ids=data.image_ids[a:b]" in finding for finding in told)


def test_python_and_the_command_line_write_the_same_run(tmp_path: Path) -> None:
    """In any order of images: a run stands in the order of image ids."""
    ids = [7, 0, 3]
    data = dataclasses.replace(DIGITS, name="memory")
    method = FixedSmoothing(MODEL, 0.25)
    labels = [int(DIGITS.labels[i]) for i in ids]
    found = ds.certify(method, DIGITS.images[ids], image_ids=ids, labels=labels, n=100, threads=1)
    found.save(tmp_path / "python")
    settings = Settings(Budget.fixed(n=100), threads=1)
    certify_run(method, data, sorted(ids), settings, tmp_path / "line")
    assert (tmp_path / "python" / RUN).read_bytes() == (tmp_path / "line" / RUN).read_bytes()
    summaries = [(tmp_path / run / "summary.json").read_bytes() for run in ("python", "line")]
    assert summaries[0] == summaries[1]


def test_a_report_and_a_plot(found: ds.Certificates, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("agg")
    axes = found.plot()
    assert axes.get_ylabel() == "certified accuracy (%)"
    assert found.plot(axes) is axes
    files = found.report(tmp_path / "report")
    assert {"report.html", "summary.md", "curves.png"} <= {file.name for file in files}
    assert all(file.stat().st_size for file in files)


def test_a_data_frame(found: ds.Certificates) -> None:
    pytest.importorskip("pandas")
    frame = found.to_pandas()
    assert list(frame["radius"]) == [c.radius for c in found]
    assert list(frame["correct"]) == [c.correct for c in found]
    assert frame["predicted"].isna().sum() == sum(c.predicted is None for c in found)


def test_without_pandas_a_line_says_so(
    found: ds.Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ArgumentError, match=r"needs pandas.*pip install 'pandas>="):
        found.to_pandas()
