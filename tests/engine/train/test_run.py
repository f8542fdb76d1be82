import dataclasses
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.train import loop
from dualsmooth.engine.train import run as recipes
from dualsmooth.engine.train.checkpoints import METRICS, RECIPE, STATES, Checkpoints, Metric
from dualsmooth.engine.train.classifier import GAUSSIAN, ClassifierRecipe
from dualsmooth.engine.train.context import Sizes
from dualsmooth.engine.train.experts import Expert
from dualsmooth.engine.train.overrides import with_overrides
from dualsmooth.engine.train.recipes import DUAL
from dualsmooth.engine.train.run import RECIPES, run, train

QUICK = ("schedule.epochs=1", "sigmas=[0.12, 0.25]")


def quick(out: Path, *options: str, recipe: str = "gaussian", resume: bool = False) -> None:
    train(recipe, "digits", out, options=[*QUICK, *options], max_images=200, resume=resume,
          progress=False)  # fmt: skip


def test_a_short_run_ends_in_a_loadable_bundle_with_a_card(tmp_path: Path) -> None:
    quick(tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.sigmas == (0.12, 0.25)
    assert bundle.build("classifier@0.25")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert "digits:train, 200 images" in card
    assert "not kept" not in card
    kept = tmp_path / "bundle.train"
    assert {path.name for path in kept.iterdir()} == {RECIPE, METRICS}
    lines = [json.loads(line) for line in (kept / METRICS).read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in lines] == [
        ("classifier@0.12", 1),
        ("classifier@0.25", 1),
    ]


@pytest.mark.parametrize("folds", [1, 2], ids=["held out", "cross fitting"])
def test_the_card_tells_the_loss_of_the_network_that_is_deployed(
    folds: int, tmp_path: Path
) -> None:
    """With cross fitting the networks of the folds are trained after it and stay behind."""
    short = ("classifying.epochs=2", "selecting.epochs=1", "labelling.votes=8")
    train("digits-dual", "digits", tmp_path / "bundle", max_images=200, progress=False,
          options=[*short, f"labelling.folds={folds}"])  # fmt: skip
    lines = (tmp_path / "bundle.train" / METRICS).read_text().splitlines()
    losses = {line["step"]: line["loss"] for line in map(json.loads, lines)}
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    for role in ("classifier@0.12", "classifier@0.5", "selector"):
        kind = "ordered_score" if role == "selector" else "small_convnet"
        assert f"* `{role}`: {kind}, final training loss {losses[role]:.4f}\n" in card


@pytest.mark.parametrize(
    ("recipe", "options", "roles"),
    [
        ("consistency", ("networks=shared",), {"classifier"}),
        ("smoothmix", (), {"classifier@0.12", "classifier@0.25"}),
        ("gaussian", ("sigmas=[0.25]", "members=2"), {"classifier@0.25"}),
    ],
    ids=["one network for all levels", "smoothmix", "ensemble"],
)
def test_recipes_of_classifiers(
    recipe: str, options: tuple[str, ...], roles: set[str], tmp_path: Path
) -> None:
    quick(tmp_path / "bundle", *options, recipe=recipe)
    bundle = load_bundle(tmp_path / "bundle")
    assert set(bundle.networks) == roles
    for role in roles:
        assert bundle.build(role)(torch.rand(3, 1, 8, 8)).isfinite().all()


class Killed(Exception):
    pass


@pytest.mark.parametrize("fatal", [1, 3, 4, 6])
def test_a_killed_run_resumes_to_the_same_bytes(
    fatal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any state, inside the first network, and inside the second."""
    options = ("schedule.epochs=3",)
    quick(tmp_path / "whole", *options)
    calls, keep = [], loop._keep

    def kill(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == fatal:
            raise Killed
        keep(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_keep", kill)
    with pytest.raises(Killed):
        quick(tmp_path / "killed", *options)
    assert not (tmp_path / "killed").exists()
    monkeypatch.setattr(loop, "_keep", keep)
    quick(tmp_path / "killed", *options, resume=True)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes()
    metrics = [(tmp_path / f"{name}.train" / METRICS).read_text() for name in ("whole", "killed")]
    assert metrics[0] == metrics[1]


def test_resuming_from_the_weights_alone_would_give_other_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of optimizer and random source matters: without it the test above fails."""

    def restore(parts: dict[str, torch.nn.Module], generator: object, step: loop.Step) -> int:
        state = step.checkpoints.load(step.name)
        if state is None:
            return 0
        parts["module"].load_state_dict(state["module"])
        return int(state["epoch"])

    options = ("schedule.epochs=2", "sigmas=[0.25]")
    quick(tmp_path / "whole", *options)
    keep = loop._keep

    def kill(*arguments: object) -> None:
        keep(*arguments)  # type: ignore[arg-type]
        raise Killed

    monkeypatch.setattr(loop, "_keep", kill)
    with pytest.raises(Killed):
        quick(tmp_path / "killed", *options)
    monkeypatch.setattr(loop, "_keep", keep)
    monkeypatch.setattr(loop, "_restore", restore)
    quick(tmp_path / "killed", *options, resume=True)
    first, second = (load_bundle(tmp_path / name).digest for name in ("whole", "killed"))
    assert first != second


def test_a_finished_network_keeps_its_weights_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    save = Checkpoints.save

    def note(checkpoints: Checkpoints, name: str, state: dict[str, Any]) -> None:
        kept.append(set(state))
        save(checkpoints, name, state)

    monkeypatch.setattr(Checkpoints, "save", note)
    quick(tmp_path / "whole", "schedule.epochs=2", "sigmas=[0.25]")
    always = {"module", "generator", "epoch"}
    assert kept == [always | {"optimizer", "cycle"}, always]


@pytest.mark.slow
def test_a_process_that_is_killed_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """A dual recipe, killed with SIGKILL three times at moments nobody chose."""
    command = [sys.executable, "-m", "dualsmooth", "train", "digits-dual", "--max", "200"]
    for option in ("classifying.epochs=4", "selecting.epochs=4", "labelling.votes=16"):
        command += ["--set", option]
    whole, killed = (tmp_path / name / "bundle" for name in ("whole", "killed"))
    subprocess.run([*command, "--out", str(whole)], check=True)
    metrics, before = tmp_path / "killed" / "bundle.train" / METRICS, 0
    for _ in range(3):
        process = subprocess.Popen([*command, "--out", str(killed), "--resume"])
        while not metrics.exists() or len(metrics.read_text().splitlines()) < before + 5:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        before = len(metrics.read_text().splitlines())
        assert not killed.exists()
    subprocess.run([*command, "--out", str(killed), "--resume"], check=True)
    for path in whole.iterdir():
        assert path.read_bytes() == (killed / path.name).read_bytes()
    assert metrics.read_text() == (tmp_path / "whole" / "bundle.train" / METRICS).read_text()


def test_what_a_folder_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileError, match="there: must not exist yet"):
        quick(tmp_path / "there")
    quick(tmp_path / "done")
    with pytest.raises(FileError, match="is written, nothing is left to do"):
        quick(tmp_path / "done", resume=True)
    with pytest.raises(ArgumentError, match="seed must be an integer in"):
        quick(tmp_path / "new", "seed=-1")
    (tmp_path / "done").rename(tmp_path / "moved")
    with pytest.raises(FileError, match="holds a training run already"):
        quick(tmp_path / "done")
    with pytest.raises(FileError, match=r"to resume; received recipe\.schedule\.batch 128 -> 64"):
        quick(tmp_path / "done", "schedule.batch=64", resume=True)
    (tmp_path / "other.train").mkdir()
    with pytest.raises(FileError, match="must be the folder of a training run"):
        quick(tmp_path / "other")


def test_a_damaged_state_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "save_bundle", lambda *rest: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        quick(tmp_path / "bundle")
    state = tmp_path / "bundle.train" / STATES / "classifier@0.12.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(FileError, match="must be a training state"):
        quick(tmp_path / "bundle", resume=True)


def test_unknown_names_and_numbers(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"must be one of .*digits-dual.*; received digit"):
        train("digit", "digits", tmp_path / "bundle")
    with pytest.raises(ArgumentError, match=r"max must be an integer in \[1, 1257\]"):
        train("gaussian", "digits", tmp_path / "bundle", max_images=0)
    with pytest.raises(ArgumentError, match="device must be cpu"):
        train("gaussian", "digits", tmp_path / "bundle", device="tpu")
    assert not list(tmp_path.iterdir())


def test_a_bundle_knows_the_classes_it_was_trained_on() -> None:
    """Or folders of others would be numbered, and counted as correct, by their own order."""
    digits = load_images("digits:train")
    names, short = tuple("abcdefghij"), with_overrides(RECIPES["gaussian"], ["schedule.epochs=1"])
    for classes, kept in ((names, names), (digits.classes, ())):
        few = dataclasses.replace(
            digits, images=digits.images[:20], labels=digits.labels[:20], classes=classes
        )
        assert run(short, few).classes == kept


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_ends_in_a_bundle_of_its_name(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    values = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}  # type: ignore[arg-type]
    schedules = [field for field, value in values.items() if isinstance(value, loop.Schedule)]
    short = [f"{field}.epochs=1" for field in schedules]
    if hasattr(recipe, "labelling"):
        short.append("labelling.votes=8")
    if "network" in values:  # digits are grey
        short.append("network=small_convnet")
    train(name, "digits", tmp_path / "bundle", options=short, max_images=120, progress=False)
    bundle = load_bundle(tmp_path / "bundle")
    assert (recipe.name, bundle.name) == (name, name)
    for role in bundle.networks:
        assert bundle.build(role)(torch.rand(2, 1, 8, 8)).isfinite().all()


def test_options_change_fields() -> None:
    changed = with_overrides(GAUSSIAN, ["schedule.epochs=3", "sigmas=[0.5, 1.0]", "loss.pull=2",
                                      "sigmas.0=0.3", "networks=shared"])  # fmt: skip
    assert changed == ClassifierRecipe(
        "gaussian",
        replace(GAUSSIAN.loss, pull=2.0),
        replace(GAUSSIAN.schedule, epochs=3),
        (0.3, 1.0),
        "shared",
    )
    assert with_overrides(RECIPES["dual-published"], ["tuning=null"]) == dataclasses.replace(
        RECIPES["dual-published"],  # type: ignore[type-var]
        tuning=None,
    )
    dual = with_overrides(
        DUAL, ['sizes={"widths": [64, 128], "hidden": 32}', "points.radii=[0, 0.5, 1]"]
    )
    assert dual.sizes == Sizes((64, 128), 32)
    assert dual.points.radii == (0.0, 0.5, 1.0)
    assert {type(radius) for radius in dual.points.radii} == {float}
    two = with_overrides(DUAL, ['experts=[{"sigma": 0.5, "pull": 2.0}, {"sigma": 1.0}]'])
    assert two.experts == (Expert(0.5, pull=2.0), Expert(1.0))


@pytest.mark.parametrize(
    "value", ['{"widths": [64]}', '{"widths": "a", "hidden": 3}', "64", '{"a": 1}']
)
def test_a_part_that_is_not_there_is_an_object_of_its_fields(value: str) -> None:
    with pytest.raises(ArgumentError, match="sizes="):
        with_overrides(DUAL, [f"sizes={value}"])


@pytest.mark.parametrize("value", ["[{}]", '[{"sigma": "a"}]', "[0.5, 1.0]", "[]", '{"sigma": 1}'])
def test_parts_are_a_list_of_objects_of_their_fields(value: str) -> None:
    with pytest.raises(ArgumentError, match=r"^set "):
        with_overrides(DUAL, [f"experts={value}"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("epochs", "must be FIELD=VALUE"),
        ("epochs=3", "must name a field: loss, members"),
        ("schedule.epoch=3", "(did you mean epochs?)"),
        ("schedule.affine=3", 'must be null or an object {"shift": ..'),
        ("schedule.epochs=many", "such as schedule.epochs=15; received schedule.epochs=many"),
        ("schedule.epochs=1.5", "such as schedule.epochs=15"),
        ("schedule=5", "such as schedule.epochs=15"),
        ("schedule=null", "such as schedule.epochs=15; received schedule=null"),
        ("sigmas=[]", "such as sigmas=[0.25, 0.5, 1.0]"),
        ('sigmas=["a"]', "such as sigmas=[0.25, 0.5, 1.0]"),
        ("sigmas.9=1.0", "must name a position below 3"),
        ("seed.value=1", "there is none below a value"),
    ],
)
def test_options_that_do_not_fit(option: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        with_overrides(GAUSSIAN, [option])


@pytest.mark.parametrize(
    ("recipe", "option"),
    [
        ("gaussian", "schedule.epochs=0"),
        ("gaussian", "schedule.batch=0"),
        ("gaussian", "schedule.draws=0"),
        ("gaussian", "schedule.peak_rate=-1"),
        ("gaussian", "schedule.weight_decay=NaN"),
        ("gaussian", "members=0"),
        ("gaussian", "networks=both"),
        ("gaussian", "sigmas=[0.5, 0.25]"),
        ("gaussian", "loss.pull=-1"),
        ("smoothmix", "loss.smoothmix.steps=0"),
        ("smoothmix", "loss.smoothmix.length=0"),
        ("dual", "tau=0"),
        ("dual", "utility=R"),
        ("insta", "sigmas=[0.5]"),
        ("dual", "experts.0.sigma=-1"),
        ("dual", "experts.0.sigma=0.75"),
        ("dual", "experts.1.entropy=-1"),
        ("dual", "selector_loss.soft=-1"),
        ("dual", "selector_loss.pull=-1"),
        ("dual-published", "tuning.least=2"),
        ("fashion-dual", "points.share=2"),
        ("fashion-dual", "points.votes=0"),
        ("fashion-dual", "points.slack=-1"),
        ("insta", "first=-1"),
        ("insta", "draws=0"),
        ("insta", "rounds=-1"),
        ("insta", "labelling.folds=3"),
        ("variational", "sigmas=[0.5]"),
        ("variational", "target=0"),
        ("variational", "divergence=-1"),
    ],
)
def test_values_out_of_range_are_refused_before_any_work(
    recipe: str, option: str, tmp_path: Path
) -> None:
    """Some of them would end hours later, some in weights that are not finite."""
    with pytest.raises(ArgumentError, match="must be"):
        train(recipe, "digits", tmp_path / "bundle", options=[option], progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "state", [[1, 2], {"epoch": 1}, {"network": {}}, {"generator": 3, "epoch": 1}, None, b"torn"]
)
def test_a_state_of_something_else_is_refused_in_one_line(tmp_path: Path, state: object) -> None:
    def stop(self: Checkpoints, step: str, value: dict[str, Any]) -> None:
        path = self._path(step)
        assert path is not None
        path.write_bytes(state) if isinstance(state, bytes) else torch.save(state, path)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            quick(tmp_path / "bundle")
    with pytest.raises(FileError, match="must be a training state"):
        quick(tmp_path / "bundle", resume=True)


@pytest.mark.parametrize(
    "line",
    [
        b"7",
        b"[" * 99999,
        b'{"step": "s", "epoch": 1}',
        b'{"step": "s", "epoch": 1, "loss": "a"}',
        b'{"step": "s", "epoch": true, "loss": 1}',
        b'{"step": "s", "epoch": 0, "loss": 1}',
        b'{"step": "s", "epoch": 1, "loss": 1e999}',
        b'{"step": "s", "epoch": 1, "loss": NaN}',
        b'{"step": "s", "epoch": 1, "epoch": 2, "loss": 1}',
        b'{"step": "../../s", "epoch": 1, "loss": 1}',
        b'{"step": "/etc/s", "epoch": 1, "loss": 1}',
        b'{"step": "", "epoch": 1, "loss": 1}',
        b'{"step": ["s"], "epoch": 1, "loss": 1}',
        b"\0\xff",
    ],
)
def test_a_metric_of_another_kind_is_refused_in_one_line(tmp_path: Path, line: bytes) -> None:
    journal = Checkpoints(tmp_path / "run", {"a": 1})
    journal.metric(Metric("s", 1, 0.5))
    journal.metric(Metric("s", 2, None))
    assert journal.metrics() == [Metric("s", 1, 0.5), Metric("s", 2, None)]
    with (tmp_path / "run" / METRICS).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(FileError, match=r"metrics\.jsonl: line 3 must be a metric"):
        journal.metrics()
    with pytest.raises(FileError, match=r"metrics\.jsonl: line 3 must be a metric"):
        Checkpoints(tmp_path / "run", {"a": 1}, resume=True)


def test_a_torn_metric_is_cut_off(tmp_path: Path) -> None:
    journal = Checkpoints(tmp_path / "run", {"a": 1})
    journal.save("s", {"epoch": 1})
    for epoch in (1, 2):
        journal.metric(Metric("s", epoch, 0.5))
    with (tmp_path / "run" / METRICS).open("ab") as file:
        file.write(b'{"step": "s", "ep')
    assert Checkpoints(tmp_path / "run", {"a": 1}, resume=True).metrics() == [Metric("s", 1, 0.5)]


def test_the_same_images_may_be_named_otherwise(tmp_path: Path) -> None:
    begun = {"data": "npz:d", "images_sha256": "1"}
    Checkpoints(tmp_path / "run", begun)
    Checkpoints(tmp_path / "run", begun | {"data": "npz:./d"}, resume=True)
    with pytest.raises(FileError, match=r"data npz:./d -> npz:e; images_sha256 1 -> 2$"):
        Checkpoints(tmp_path / "run", {"data": "npz:e", "images_sha256": "2"}, resume=True)


def test_a_disk_that_is_full_is_the_system_s_error(tmp_path: Path) -> None:
    """The command line tells it in one line; PyTorch's own writer raised one without a name."""
    resource = pytest.importorskip("resource")
    journal = Checkpoints(tmp_path / "run", {"a": 1})
    journal.save("s", {"epoch": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.save("s", {"epoch": 2, "weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert journal.load("s") == {"epoch": 1}


@pytest.mark.parametrize("text", ["[" * 99999, "[]", "3"])
def test_a_recipe_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle.train").mkdir()
    (tmp_path / "bundle.train" / RECIPE).write_text(text)
    with pytest.raises(FileError, match=r"must be (a readable JSON|the record)"):
        quick(tmp_path / "bundle", resume=True)
