from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.train import experts
from dualsmooth.engine.train.checkpoints import STATES, Checkpoints
from dualsmooth.engine.train.context import Sizes, TrainingContext
from dualsmooth.engine.train.dual import DualRecipe
from dualsmooth.engine.train.experts import Tuning
from dualsmooth.engine.train.radii import Labelling
from dualsmooth.engine.train.recipes import DIGITS_DUAL, DUAL
from dualsmooth.engine.train.run import run
from dualsmooth.engine.train.utility import PUBLISHED

TINY = replace(
    DIGITS_DUAL,
    sizes=Sizes((4, 4), 8),
    classifying=replace(DIGITS_DUAL.classifying, epochs=1),
    selecting=replace(DIGITS_DUAL.selecting, epochs=1),
    labelling=Labelling(votes=8, folds=2),
)
SHORT = Tuning(replace(DUAL.classifying, epochs=1), least=0.1)


def few_digits(count: int = 300) -> ImageSet:
    digits = load_images("digits:train")
    return ImageSet(digits.images[:count], digits.labels[:count], "few", digits.classes)


def test_the_seed_decides_every_byte() -> None:
    torch.manual_seed(12345)  # whatever the caller's random state
    before = torch.get_rng_state()
    first, second = run(TINY, few_digits()), run(TINY, few_digits())
    other = run(replace(TINY, seed=1), few_digits())
    assert torch.equal(torch.get_rng_state(), before)
    for role, network in first.networks.items():
        assert network.weights == second.networks[role].weights
        assert network.weights != other.networks[role].weights


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(replace(TINY, tuning=SHORT), id="cross-fit"),
        pytest.param(replace(TINY, tuning=SHORT, labelling=Labelling(8)), id="held-out"),
        pytest.param(replace(TINY, labelling=Labelling(8)), id="held-out, round 0"),
    ],
)
def test_each_way_to_label_counts_its_steps(recipe: DualRecipe) -> None:
    done: list[str] = []
    bundle = recipe.make(TrainingContext(few_digits(), report=done.append, sizes=recipe.sizes))
    assert len(done) == recipe.steps == len(set(done))
    assert set(bundle.networks) == {*(f"classifier@{s:g}" for s in recipe.sigmas), "selector"}


@pytest.mark.parametrize("tuning", [None, SHORT], ids=["round 0", "round 1"])
def test_a_joint_selector_is_made_twice_alike_beside_the_same_experts(
    tuning: Tuning | None,
) -> None:
    plain = replace(TINY, labelling=Labelling(8), tuning=tuning)
    recipe = replace(plain, joint=True)
    bundle, again = run(recipe, few_digits()), run(recipe, few_digits())
    assert bundle.joint
    assert bundle.digest == again.digest
    assert bundle.build("selector")(torch.rand(2, 1, 8, 8)).shape == (2, 3 * 10)
    if tuning is None:
        role = "classifier@0.5"
        assert bundle.networks[role].sha256 == run(plain, few_digits()).networks[role].sha256
    with pytest.raises(ArgumentError, match="joint must be false where tau is none"):
        replace(recipe, tau=0.4)


@pytest.mark.parametrize("labelling", [Labelling(8), Labelling(8, folds=3)], ids=["held", "folds"])
def test_no_image_is_judged_by_a_network_that_saw_it(
    labelling: Labelling, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, set[bytes]] = {}
    judged: list[torch.Tensor] = []

    def keys(images: torch.Tensor) -> set[bytes]:
        return {image.numpy().tobytes() for image in images}

    def train(module: torch.nn.Module, images: torch.Tensor, *rest: object) -> None:
        seen.setdefault(id(module.eval()), set()).update(keys(images))

    def radii(module: torch.nn.Module, images: torch.Tensor, *rest: object) -> torch.Tensor:
        assert not seen[id(module)] & keys(images)
        judged.append(images)
        return torch.ones(len(images))

    monkeypatch.setattr(experts, "train_on_noise", train)
    monkeypatch.setattr(experts, "radii_of", radii)
    data = few_digits(200)
    recipe = replace(TINY, labelling=labelling, tuning=SHORT)
    recipe.make(TrainingContext(data, sizes=recipe.sizes))
    per_level = sum(len(images) for images in judged) / len(recipe.experts) / 2
    assert per_level == (200 if labelling.folds > 1 else 66)


def taught(*weights: float, folds: int = 1) -> DualRecipe:
    experts = tuple(
        replace(expert, teacher=weight)
        for expert, weight in zip(TINY.experts, (*weights, 0, 0), strict=False)
    )
    return replace(TINY, experts=experts, labelling=Labelling(8, folds=folds))


def test_a_teacher_changes_its_pupil_and_the_pupils_pupils() -> None:
    plain, pupil = run(taught(0, 0, 0), few_digits()), run(taught(0, 0.5, 0), few_digits())
    chain = run(taught(0, 0.5, 0.5), few_digits())
    changed = [
        [a.networks[f"classifier@{s:g}"].weights != b.networks[f"classifier@{s:g}"].weights
         for s in TINY.sigmas]
        for a, b in ((plain, pupil), (pupil, chain))
    ]  # fmt: skip
    assert changed == [[False, True, False], [False, False, True]]


def test_a_pupil_learns_what_the_teacher_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets are the labels and the answers in the stated shares, image by image."""
    data = few_digits(60)
    told = torch.softmax(torch.arange(600.0).view(60, 10) % 7, 1)
    monkeypatch.setattr(experts, "mean_answer", lambda *rest: told)
    context = TrainingContext(data, sizes=TINY.sizes)
    labels = torch.nn.functional.one_hot(torch.from_numpy(data.labels), 10).float()
    recipe = taught(0, 0.25)
    teacher, pupil = (
        experts.ExpertTrainer(expert, level, recipe.classifying, recipe.labelling, context)
        for level, expert in enumerate(recipe.experts[:2])
    )
    teacher.train()
    pupil.train(teacher)
    assert torch.equal(teacher.targets, labels)
    assert torch.allclose(pupil.targets, 0.75 * labels + 0.25 * told)


def test_mean_answers_are_means_of_probabilities() -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    answers = experts.mean_answer(module, torch.rand(130, 1, 2, 2), 1e-6, torch.Generator())
    assert answers.shape == (130, 3)
    assert torch.allclose(answers.sum(1), torch.ones(130))


@pytest.mark.parametrize("recipe", [taught(0.5), taught(0, 0.5, folds=2)], ids=["first", "folds"])
def test_who_cannot_have_a_teacher(recipe: DualRecipe) -> None:
    with pytest.raises(ArgumentError, match="teacher must be 0 for the smallest level"):
        run(recipe, few_digits())
    with pytest.raises(ArgumentError, match=r"must be in \[0, 1\]"):
        taught(1.5)


def test_tuning_changes_the_experts_and_needs_the_selector() -> None:
    labelled = replace(TINY, labelling=Labelling(8))
    plain = run(labelled, few_digits())
    tuned = run(replace(labelled, tuning=SHORT), few_digits())
    for role, network in plain.networks.items():
        assert network.weights != tuned.networks[role].weights


def test_half_rounds_the_finished_weights_and_nothing_else() -> None:
    full = run(replace(TINY, labelling=Labelling(8)), few_digits())
    half = run(replace(TINY, labelling=Labelling(8), half=True), few_digits())
    for role, network in full.networks.items():
        rounded = half.networks[role]
        assert isinstance(network.weights, bytes)
        assert isinstance(rounded.weights, bytes)
        assert len(rounded.weights) < 0.8 * len(network.weights)  # the header stays
        pairs = zip(network.build().state_dict().items(), rounded.build().state_dict().values(),
                    strict=True)  # fmt: skip
        for (name, before), after in pairs:
            assert after.dtype == before.dtype
            if before.is_floating_point():
                assert torch.equal(before.half().float(), after), name


def test_training_improves_on_the_start() -> None:
    digits = load_images("digits:train")
    x = torch.from_numpy(digits.images).permute(0, 3, 1, 2) / 255
    recipe = replace(
        TINY,
        sizes=Sizes((8, 16), 32),
        classifying=replace(TINY.classifying, epochs=15),
        experts=TINY.experts[:2],
        tau=0.12,
    )
    module = run(recipe, digits).build("classifier@0.12")
    accuracy = (module(x).argmax(1).numpy() == digits.labels).mean()
    assert accuracy > 0.9


def test_bad_data() -> None:
    digits = few_digits(3)
    unknown = ImageSet(digits.images, np.full(3, -1), "unknown", digits.classes)
    with pytest.raises(ArgumentError, match="all with labels; received unknown"):
        run(TINY, unknown)
    with pytest.raises(ArgumentError, match="at least 2 images"):
        run(TINY, few_digits(1))


def test_folder_of_states_is_named_by_path(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", {"a": 1})
    run(replace(TINY, labelling=Labelling(8)), few_digits(), checkpoints)
    names = {path.name for path in (tmp_path / "run" / STATES).iterdir()}
    assert {"classifier@0.12.pt", "selector.pt", "radii@0.5-fold0-round0.pt"} <= names


def colours(count: int = 24, channels: int = 3) -> ImageSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)
    return ImageSet(images, np.arange(count) % 2, "colours", ("a", "b"))


def test_networks_of_another_architecture() -> None:
    recipe = replace(TINY, labelling=Labelling(4), network="cifar_resnet20", sizes=None)
    kinds = set()
    for utility in (TINY.utility, PUBLISHED):
        bundle = run(replace(recipe, utility=utility), colours())
        told = [{"architecture": n.architecture, **n.kwargs} for n in bundle.networks.values()]
        kinds |= {(kwargs["architecture"], _outputs(kwargs)) for kwargs in told}
    levels = len(recipe.sigmas)
    assert kinds == {("cifar_resnet20", outputs) for outputs in (1, 2, levels)}


def _outputs(kwargs: Any) -> int:
    outputs: int = kwargs.get("kwargs", kwargs)["num_classes"]
    return outputs


def test_a_network_that_cannot_read_the_images_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"^network must take images of shape \(2, 8, 8\)"):
        TrainingContext(colours(channels=2), network="cifar_resnet20")
    with pytest.raises(ArgumentError, match=r"^architecture must be a known name"):
        TrainingContext(colours(), network="resnet")
