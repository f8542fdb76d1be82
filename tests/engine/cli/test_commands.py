"""The command as a user meets it: files written, resume, and one-line errors with exit code 2."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.prepare import Prepare
from dualsmooth.engine.data.splits import training_images
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.runs.log import read_log
from tests.engine.conftest import timeless

Run = Callable[..., tuple[int, str, str]]


def certify(run: Run, bundle: Path, *options: object) -> tuple[int, str, str]:
    return run("certify", bundle, "--data", "digits", "--n0", 10, "--n", 100, "--max", 12,
               "--precision", "fp32", *options)  # fmt: skip


def log_lines(folder: Path) -> list[str]:
    return (folder / "certificates.jsonl").read_text().splitlines()


def test_certify_writes_a_run_folder(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    code, out, _ = certify(run, tiny_bundle, "--out", "run")
    assert code == 0
    assert "dual(median, interval)" in out
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "certificates.jsonl", "certificates.tsv", "run.json", "summary.json",
    ]  # fmt: skip
    certificates = read_log(tmp_path / "run")
    assert [c.image_id for c in certificates] == list(range(12))
    rows = (tmp_path / "run" / "certificates.tsv").read_text().splitlines()
    assert rows[0].split("\t") == ["idx", "label", "predict", "radius", "correct", "time"]
    for certificate, row in zip(certificates, rows[1:], strict=True):
        index, label, predicted, radius, correct, _ = row.split("\t")
        assert (int(index), int(label)) == (certificate.image_id, certificate.label)
        assert int(predicted) == (-1 if certificate.predicted is None else certificate.predicted)
        assert certificate.radius - 1e-6 < float(radius) <= certificate.radius
        assert int(correct) == certificate.correct
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["images"] == 12
    configuration = json.loads((tmp_path / "run" / "run.json").read_text())["configuration"]
    assert configuration["n"] == 100
    assert configuration["batch_size"] == 1024


@pytest.mark.parametrize(
    "options", [("--slots", 1), ("--threads", 1), ("--threads", 3, "--slots", 100)]
)
def test_slots_and_threads_do_not_change_a_byte(
    run: Run, tiny_bundle: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    certify(run, tiny_bundle, "--out", "a")
    certify(run, tiny_bundle, "--out", "b", *options)
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")
    assert len(log_lines(tmp_path / "a")) == 12


def test_a_subset_has_the_lines_of_the_whole(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    certify(run, tiny_bundle, "--out", "whole")
    certify(run, tiny_bundle, "--out", "part", "--skip", 5)
    whole = timeless(tmp_path / "whole")
    assert timeless(tmp_path / "part") == [whole[0], whole[5], whole[10]]


def test_reused_votes_give_the_same_bytes_without_drawing_any(
    run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sigma in (0.12, 0.25, 0.5):
        certify(run, tiny_bundle, "--out", f"fixed-{sigma}", "--method", "fixed", "--sigma", sigma)
    certify(run, tiny_bundle, "--out", "drawn")
    reuse = [part for s in (0.12, 0.25, 0.5) for part in ("--reuse", f"fixed-{s}")]
    certify(run, tiny_bundle, "--out", "partly", *reuse)
    assert timeless(tmp_path / "drawn") == timeless(tmp_path / "partly")

    def no_votes(*arguments: object) -> None:
        raise AssertionError("the sampler was asked")

    monkeypatch.setattr("dualsmooth.engine.runtime.scheduler.Scheduler._pack", no_votes)
    assert certify(run, tiny_bundle, "--out", "again", "--reuse", "drawn")[0] == 0
    assert timeless(tmp_path / "drawn") == timeless(tmp_path / "again")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("--seed", 1), "seed 0, here 1"),
        (("--max", 11), "image_ids_digest"),
        (("--batch-size", 64), "batch_size 1024, here 64"),
        (("--precision", "bf16"), "precision 'fp32', here 'bf16'"),
        (("--noise", "integer"), "noise 'gaussian', here 'integer'"),
    ],
)
def test_votes_of_another_stream_are_not_reused(
    run: Run, tiny_bundle: Path, tmp_path: Path, options: tuple[object, ...], key: str
) -> None:
    certify(run, tiny_bundle, "--out", "a")
    code, _, err = certify(run, tiny_bundle, "--out", "b", "--reuse", "a", *options)
    assert code == 2
    assert "must have drawn the same votes" in err
    assert key in err
    assert not (tmp_path / "b").exists()
    assert certify(run, tiny_bundle, "--out", "c", "--reuse", "nowhere")[0] == 2


def test_fresh_replaces_and_neither_is_refused(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    certify(run, tiny_bundle, "--out", "a")
    before = log_lines(tmp_path / "a")
    code, _, err = certify(run, tiny_bundle, "--out", "a", "--seed", 1)
    assert code == 2
    assert "add --resume or --fresh" in err
    assert log_lines(tmp_path / "a") == before
    assert certify(run, tiny_bundle, "--out", "a", "--seed", 1, "--fresh")[0] == 0
    assert log_lines(tmp_path / "a") != before


def test_report_puts_runs_and_tables_side_by_side(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    certify(run, tiny_bundle, "--out", "dual")
    certify(run, tiny_bundle, "--out", "fixed", "--method", "fixed", "--sigma", 0.25)
    shutil.copy(tmp_path / "fixed" / "certificates.tsv", tmp_path / "cohen.tsv")
    code, out, _ = run("report", "dual", "fixed", "cohen.tsv")
    assert code == 0
    assert "fixed(0.25)" in out
    assert "below (-) the best fixed sigma" in out
    assert max(map(len, out.splitlines())) <= 80
    table = {line[:24].strip(): line[24:] for line in out.splitlines()[2:5]}
    assert table["cohen"] == table["fixed(0.25)"]


def test_json_is_for_machines_and_errors_are_not_in_it(run: Run, tiny_bundle: Path) -> None:
    code, out, err = certify(run, tiny_bundle, "--out", "a", "--json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary["folder"] == "a"
    torn = Path("torn.tsv")
    torn.write_text("idx\tpredict\tradius\tcorrect\n0\t1\t0.5\t1\n1\t1\t0.")
    code, out, err = run("report", "a", "torn.tsv", "--json", "--radii", "1,0.25")
    assert code == 0
    first, second = json.loads(out)
    assert list(first["certified_accuracy"]) == ["0.25", "1"]
    assert first["certified_accuracy"]["0.25"] == summary["certified_accuracy"]["0.25"]
    assert second["certified_with_radius_above"] == {"0.25": 1, "1": 0}
    assert err.startswith("dualsmooth: warning: torn.tsv: line 3 is cut short")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--radii", "0.5;1"), "radii must be numbers with commas between them"),
        (("--radii", "nan"), "radii must be a finite number >= 0"),
        (("--html",), "out is required by --html with a table or several runs"),
        (("--data", "digits"), "data belongs to --html; received digits"),
    ],
)
def test_report_refuses_in_one_line(run: Run, options: tuple[str, ...], message: str) -> None:
    Path("a.tsv").write_text("idx\tpredict\tradius\tcorrect\n0\t1\t0.5\t1\n")
    assert_refused(run("report", "a.tsv", *options), message, Path("report"))


def test_html_of_one_run_goes_into_its_folder(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    certify(run, tiny_bundle, "--out", "a")
    code, out, _ = run("report", "a", "--html")
    assert code == 0
    assert out.splitlines()[-1].startswith("a/summary.md, curves.png")
    assert run("report", "a/summary.json")[1] in out
    _, _, err = run("report", "a", "--html", "--data", "digits:train", "--out", "b")
    assert "data must name the images of a run; received digits:train" in err
    assert not (tmp_path / "b").exists()
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"report.html", "summary.md", "curves.pdf", "run.json"} <= names
    assert certify(run, tiny_bundle, "--out", "a", "--fresh")[0] == 0


@pytest.mark.parametrize(
    "budget", [("decide", "--radii", "0.05,0.1"), ("precise", "--tolerance", 0.1)], ids=str
)
def test_adaptive_budgets_write_runs_that_resume(
    run: Run, tiny_bundle: Path, tmp_path: Path, budget: tuple[object, ...]
) -> None:
    options = ("--out", "a", "--n", 2000, "--budget", *budget)
    code, out, _ = certify(run, tiny_bundle, *options)
    assert code == 0
    certificates = read_log(tmp_path / "a")
    assert 0 < sum(c.predicted is not None for c in certificates)
    configuration = json.loads((tmp_path / "a" / "run.json").read_text())["configuration"]
    assert configuration["budget"] == budget[0]
    if budget[0] == "decide":
        assert {c.radius for c in certificates} <= {0.0, 0.05, 0.1}
        assert out.splitlines()[0].split() == ["radius", ">", "0.05", "0.10", "ACR"]
        summary = json.loads((tmp_path / "a" / "summary.json").read_text())
        above = sum(c.correct and c.radius == 0.1 for c in certificates)
        assert summary["certified_with_radius_above"]["0.1"] == above
    first, before = log_lines(tmp_path / "a"), timeless(tmp_path / "a")
    (tmp_path / "a" / "certificates.jsonl").write_text("\n".join(first[:5]) + "\n")
    assert certify(run, tiny_bundle, *options, "--resume")[0] == 0
    assert timeless(tmp_path / "a") == before


def test_predict_names_a_class_or_abstains(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(tmp_path / "a.png")
    code, out, _ = run("predict", tiny_bundle, "a.png", "--n", 200)
    assert code == 0
    assert out.startswith("a.png  ")
    assert "class" in out or "ABSTAIN" in out
    assert run("predict", tiny_bundle, "a.png", "--n", 200, "--noise", "integer")[0] == 0
    Image.fromarray(np.full((9, 8), 100, np.uint8)).save(tmp_path / "b.png")
    places = ("--precision", "fp32", "--device", "cpu", "--backend", "auto", "--batch-size", 64)
    assert run("predict", tiny_bundle, "a.png", "--n", 200, *places)[:2] == (0, out)
    assert run("predict", tiny_bundle, "a.png", "--device", "tpu")[0] == 2


def test_a_file_that_cannot_be_read_does_not_lose_the_others(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "d.png"):
        Image.fromarray(np.full((8, 8), 100, np.uint8)).save(tmp_path / name)
    Image.fromarray(np.full((9, 8), 100, np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_text("not an image")
    files = ("a.png", "b.png", "c.png", "missing.png", "d.png")
    alone = run("predict", tiny_bundle, "a.png", "--n", 200)[1]
    code, out, err = run("predict", tiny_bundle, *files, "--n", 200)
    assert code == 3
    assert [line.split()[0] for line in out.splitlines()] == ["a.png", "d.png"]
    assert out.splitlines()[0].split()[1:] == alone.split()[1:]
    assert "b.png: image must have shape (8, 8, 1)" in err.splitlines()[0]
    assert [line.split(": ")[1] for line in err.splitlines()] == list(files[1:4])
    (tmp_path / "names").write_text("".join(f"the {'abcdefghij'[i]}\n" for i in range(10)))
    options = ("--n", 200, "--json", "--classes", "names")
    answers = json.loads(run("predict", tiny_bundle, *files, *options)[1])
    assert [answer["image"] for answer in answers] == list(files)
    assert ["error" in answer for answer in answers] == [False, True, True, True, False]
    first = answers[0]["predicted"]
    assert answers[0]["name"] == ("" if first is None else f"the {'abcdefghij'[first]}")
    code, out, err = run("predict", tiny_bundle, *files[1:4], "--n", 200)
    assert (code, out, err.count("\n")) == (2, "", 1)
    (tmp_path / "names").write_text("one\ntwo\n")
    code, _, err = run("predict", tiny_bundle, "a.png", "--classes", "names")
    assert (code, "classes must name the 10 classes" in err) == (2, True)


def test_predict_certifies_and_takes_a_spec(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    """The radius is that of `certify` with the same votes."""
    words = ("--data", "digits", "--max", 3, "--n", 300, "--method", "fixed", "--sigma", 0.25)
    code, out, _ = run("predict", tiny_bundle, *words, "--certify", "--json")
    answers = json.loads(out)
    assert code == 0
    assert [answer["image"] for answer in answers] == ["digits 0", "digits 1", "digits 2"]
    run("certify", tiny_bundle, *words, "--out", "same")
    lines = [json.loads(line) for line in log_lines(tmp_path / "same")]
    assert [(a["predicted"], a["radius"]) for a in answers] == [
        (line["predicted"], line["radius"]) for line in lines
    ]
    shown = run("predict", tiny_bundle, *words, "--certify")[1].splitlines()
    for line, answer in zip(shown, answers, strict=True):
        assert ("  radius 0." in line) == bool(answer["radius"])
        assert ("ABSTAIN" in line) == (answer["predicted"] is None)
    assert "radius" not in json.loads(run("predict", tiny_bundle, *words, "--json")[1])[0]
    for wrong, said in (((), "at least one file"), (("a.png", *words), "left out with --data")):
        code, _, err = run("predict", tiny_bundle, *wrong)
        assert (code, said in err, err.count("\n")) == (2, True, 1)


def test_an_order_of_classes_is_recorded_and_found_again(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    for i in (0, 1, 2, 10):
        (tmp_path / "data" / f"n{i}").mkdir(parents=True)
        for k in range(2):
            Image.fromarray(np.full((8, 8), 20 * i + k, np.uint8)).save(f"data/n{i}/{k}.png")
    options = ("certify", tiny_bundle, "--data", "folder:data", "--n0", 10, "--n", 50, "--out", "a")
    assert_refused(run(*options), "must have the 10 classes of bundle tiny", tmp_path / "a")
    names = [f"n{10 - i}" for i in range(10)]
    (tmp_path / "names").write_text("\n".join(names[:9]))
    assert_refused(run(*options, "--classes", "names"), "folder data/n0", tmp_path / "a")
    (tmp_path / "names").write_text("\n".join(f"{name} word" for name in names))
    assert_refused(run(*options, "--classes", "names"), "data/n0", tmp_path / "a")
    (tmp_path / "data" / "n0").rename(tmp_path / "data" / "n3")
    code, _, err = run(*options, "--classes", "names")
    assert (code, err) == (0, "")
    labels = [c.label for c in read_log(tmp_path / "a")]
    assert labels == [9, 9, 0, 0, 8, 8, 7, 7]  # n1, n10, n2, n3
    before = (tmp_path / "a" / "certificates.tsv").read_bytes()
    assert run(*options, "--resume")[0] == 0
    assert (tmp_path / "a" / "certificates.tsv").read_bytes() == before
    code, out, _ = run(
        "audit", "a", "--bundle", tiny_bundle, "--data", "folder:data", "--replay", 1,
        "--classes", "names",
    )  # fmt: skip
    assert (code, "a: clean" in out) == (0, True)
    code, _, err = run(
        "certify", tiny_bundle, "--data", "digits", "--labels", "names", "--max", 1, "--n", 20,
        "--out", "b",
    )  # fmt: skip
    assert (code, err) == (0, "")


BAD_OPTIONS = {
    "sigma zero": (("--method", "fixed", "--sigma", 0), "sigma must be a finite number > 0"),
    "sigma nan": (("--method", "fixed", "--sigma", "nan"), "sigma must be a finite number > 0"),
    "sigma missing": (("--method", "fixed"), "sigma is required by --method fixed"),
    "sigma with dual": (("--method", "dual", "--sigma", 0.25), "sigma belongs to --method fixed"),
    "alpha zero": (("--alpha", 0), "alpha must be in (0, 1)"),
    "alpha one": (("--alpha", 1), "alpha must be in (0, 1)"),
    "alpha nan": (("--alpha", "nan"), "alpha must be in (0, 1)"),
    "n zero": (("--n", 0), "n must be an integer in [1, 2^32)"),
    "n0 negative": (("--n0", -5), "n0 must be an integer in [1, 2^32)"),
    "n text": (("--n", "many"), "Invalid value for '--n'"),
    "method": (
        ("--method", "magic"),
        "method must be one of fixed, dual, variational, insta, cascade, semielastic",
    ),
    "rule": (("--selector-rule", "mean"), "selector_rule must be one of median, plurality"),
    "routing": (
        ("--selector-rule", "plurality", "--routing", "interval"),
        "routing must be one of",
    ),
    "noise": (("--noise", "laplace"), "noise must be one of gaussian, integer"),
    "budget": (("--budget", "thrifty"), "budget must be one of fixed, decide, precise"),
    "radii missing": (("--budget", "decide"), "radii are required by --budget decide"),
    "radii with fixed": (("--radii", "0.25"), "radii belongs to --budget decide"),
    "radii falling": (("--budget", "decide", "--radii", "0.5,0.25"), "radii must increase"),
    "radii twice": (("--budget", "decide", "--radii", "0.5,0.5"), "radii must increase"),
    "radii zero": (("--budget", "decide", "--radii", "0,0.5"), "radii must be a finite number > 0"),
    "radii nan": (("--budget", "decide", "--radii", "nan"), "radii must be a finite number > 0"),
    "radii inf": (("--budget", "decide", "--radii", "1,inf"), "radii must be a finite number > 0"),
    "radii text": (("--budget", "decide", "--radii", "0.1;0.2"), "radii must be numbers with"),
    "radii too large": (("--budget", "decide", "--radii", "0.1,9"), "radii must be below 0.7"),
    "tolerance with decide": (
        ("--budget", "decide", "--radii", "0.1", "--tolerance", 0.1),
        "tolerance belongs to --budget precise",
    ),
    "tolerance one": (("--budget", "precise", "--tolerance", 1), "tolerance must be in (0, 1)"),
    "tolerance nan": (("--budget", "precise", "--tolerance", "nan"), "tolerance must be in (0, 1)"),
    "device": (("--device", "tpu"), "device must be one of auto, cpu"),
    "precision": (("--precision", "fp8"), "precision must be one of auto, fp32, bf16"),
    "seed": (("--seed", -1), "seed must be an integer in [0, "),
    "threads": (("--threads", 0), "threads must be an integer >= 1"),
    "batch": (("--batch-size", 0), "batch_size must be an integer >= 1"),
    "skip": (("--skip", 0), "skip must be an integer >= 1"),
    "max": (("--max", 0), "max must be an integer >= 1"),
    "option": (("--sgima", 0.5), "No such option: --sgima"),
    "data": (("--data", "mnist"), "received mnist"),
    "references": (
        ("--method", "semielastic", "--sigma", 0.5, "--references", "dgits"),
        "references must start with a known kind; received dgits",
    ),
}


def assert_refused(outcome: tuple[int, str, str], message: str, folder: Path) -> None:
    code, out, err = outcome
    assert code == 2
    assert message in err
    assert err.startswith("dualsmooth: ")
    assert err.count("\n") == 1
    assert out == ""
    assert not folder.exists()


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_one_line_and_write_nothing(
    run: Run, tiny_bundle: Path, tmp_path: Path, name: str
) -> None:
    options, message = BAD_OPTIONS[name]
    assert_refused(certify(run, tiny_bundle, "--out", "run", *options), message, tmp_path / "run")


BAD_IMAGES: dict[str, tuple[np.ndarray, str]] = {
    "outside": (np.full((2, 8, 8, 1), 1.5, np.float32), "must be in [0, 1]"),
    "below": (np.full((2, 8, 8, 1), -0.1, np.float32), "must be in [0, 1]"),
    "nan": (np.full((2, 8, 8, 1), np.nan, np.float32), "must be in [0, 1]"),
    "shape": (np.zeros((2, 9, 8, 1), np.uint8), "images must have shape (count, 8, 8, 1)"),
    "channels first": (np.zeros((2, 1, 8, 8), np.uint8), "channels come last"),
    "axes": (np.zeros((2, 8, 8), np.uint8), "images must have axes"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_one_line_and_write_nothing(
    run: Run, tiny_bundle: Path, tmp_path: Path, name: str
) -> None:
    images, message = BAD_IMAGES[name]
    np.savez(tmp_path / "bad.npz", x=images, y=np.zeros(len(images), np.int64))
    outcome = run("certify", tiny_bundle, "--data", "npz:bad.npz", "--out", "run")
    assert_refused(outcome, message, tmp_path / "run")


def test_corrupt_files_are_named(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    outcome = run("certify", tiny_bundle, "--data", "npz:bad.npz", "--out", "run")
    assert_refused(outcome, "bad.npz: ", tmp_path / "run")
    assert_refused(certify(run, Path("nowhere"), "--out", "run"), "bundle ", tmp_path / "run")
    tampered = tmp_path / "tampered"
    shutil.copytree(tiny_bundle, tampered)
    weights = bytearray((tampered / "classifier.safetensors").read_bytes())
    weights[-1] ^= 1
    (tampered / "classifier.safetensors").write_bytes(weights)
    outcome = certify(run, tampered, "--out", "run")
    assert_refused(outcome, "classifier.safetensors: ", tmp_path / "run")
    assert "damaged, or not from this bundle" in outcome[2]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("--seed", 1), "seed 0 -> 1"),
        (("--n", 50), "n 100 -> 50"),
        (("--max", 5), "images 12 -> 5"),
        (("--alpha", 0.01), "alpha 0.001 -> 0.01"),
        (("--batch-size", 64), "batch_size 1024 -> 64"),
        (("--precision", "bf16"), "precision 'fp32' -> 'bf16'"),
        (("--noise", "integer"), "noise 'gaussian' -> 'integer'"),
        (("--selector-rule", "plurality"), "method 'dual(median, interval)'"),
        (("--budget", "decide", "--radii", "0.1"), "budget 'fixed' -> 'decide'; radii [] -> [0.1]"),
        (("--budget", "precise", "--n0", 10), "tolerance None -> 0.05"),
    ],
)
def test_resume_with_a_changed_configuration_is_refused(
    run: Run, tiny_bundle: Path, tmp_path: Path, options: tuple[object, ...], key: str
) -> None:
    certify(run, tiny_bundle, "--out", "a")
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    code, _, err = certify(run, tiny_bundle, "--out", "a", "--resume", *options)
    assert code == 2
    assert "must have the same configuration to resume" in err
    assert key in err
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before


def test_folders_that_cannot_be_used(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    code, _, err = certify(run, tiny_bundle, "--out", "full", "--fresh")
    assert code == 2
    assert "must be a run folder, empty or new" in err
    (tmp_path / "file").write_text("x")
    code, _, err = certify(run, tiny_bundle, "--out", "file/run")
    assert code == 2
    assert "file/run: must be writable" in err


@pytest.mark.parametrize(
    "words",
    [
        ("report", "a.tsv", "--out", "model"),
        ("frontier", "fashion-dual", "--data", "idx:nowhere", "--out", "model"),
        ("bench", "start", "--out", "model"),
    ],
    ids=lambda words: words[0],
)
def test_nothing_is_written_among_files_of_others(
    run: Run, tiny_bundle: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    Path("a.tsv").write_text("idx\tpredict\tradius\tcorrect\n0\t1\t0.5\t1\n")
    before = sorted(shutil.copytree(tiny_bundle, tmp_path / "model").iterdir())
    code, _, err = run(*words)
    assert (code, "model: must be new, empty or what this command wrote" in err) == (2, True)
    assert sorted((tmp_path / "model").iterdir()) == before
    code, _, err = run(*words[:-1], "a.tsv/run")
    assert (code, "received a.tsv, which is a file (remove it" in err) == (2, True)


def test_interrupt_is_resumable(
    run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dualsmooth.engine.runs.log import RunLog

    certify(run, tiny_bundle, "--out", "whole")
    append = RunLog.append
    written: list[Certificate] = []

    def interrupted(log: RunLog, *certificates: Certificate) -> None:
        append(log, *certificates)
        written.extend(certificates)
        if len(written) >= 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunLog, "append", interrupted)
    code, _, err = certify(run, tiny_bundle, "--out", "part", "--slots", 2)
    assert (code, len(log_lines(tmp_path / "part"))) == (130, len(written))
    assert "--resume" in err
    monkeypatch.setattr(RunLog, "append", append)
    assert certify(run, tiny_bundle, "--out", "part", "--resume")[0] == 0
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "part")


def test_help_and_no_arguments_teach(run: Run) -> None:
    code, out, _ = run("certify", "--help")
    assert code == 0
    assert "dualsmooth certify digits-dual --data digits" in out
    assert "--budget decide --radii 0.25,0.5" in " ".join(out.split())
    code, out, _ = run("--help")
    assert code == 0
    assert all(word in out for word in ("certify", "predict", "report", "doctor", "train"))
    assert run("--version") == (0, f"dualsmooth {metadata.version('dualsmooth')}\n", "")
    code, _, err = run("search", "digits-dual", "--out", "a.npz")
    assert (code, "--data" in err, "(see dualsmooth search --help)" in err) == (2, True, True)
    code, _, err = run("certify", "fashion-dual")
    assert (code, "data must name images of shape (28, 28, 1)" in err) == (2, True)


def test_train_writes_a_bundle_that_can_be_certified(run: Run, tmp_path: Path) -> None:
    options = ["--max", 100, "--set", "schedule.epochs=1", "--set", "sigmas=[0.25]"]
    code, out, err = run("train", "gaussian", "--out", "mine", *options)
    assert (code, err) == (0, "")
    assert out == "mine/bundle.json\n"
    assert (tmp_path / "mine" / "MODEL_CARD.md").is_file()
    code, out, _ = certify(run, tmp_path / "mine", "--method", "fixed", "--sigma", 0.25)
    assert code == 0
    code, _, err = run("train", "gaussian", "--out", "other", "--set", "epochs=1")
    assert code == 2
    assert "set must name a field" in err
    assert not (tmp_path / "other").exists()


def test_anchors_and_training_images_are_resized_as_certified_ones(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.full((20, 30), ord(name), np.uint8)).save(f"photos/{name}/1.jpg")
    words = ("search", tiny_bundle, "--data", "folder:photos", "--out", "anchors.npz")
    code, _, err = run(*words)
    assert (code, "--resize N and --crop N" in err) == (2, True)
    assert run(*words, "--resize", 8, "--crop", 8)[0] == 0
    assert training_images("folder:photos", prepare=Prepare(resize=(8,), crop=8)).shape == (8, 8, 1)
    with pytest.raises(ArgumentError, match="add a larger --resize"):
        training_images("folder:photos", prepare=Prepare(crop=64))


def test_a_warning_is_one_line_without_a_place_in_the_source(tmp_path: Path) -> None:
    code = (
        "import sys, warnings; from dualsmooth.engine.cli import app\n"
        "app.app = lambda **_: warnings.warn('told\\x1b[2J', stacklevel=1)\n"
        "app.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "dualsmooth: warning: told\\x1b[2J\n")
