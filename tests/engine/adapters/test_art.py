"""ART's calls on the engine, against the engine and against ART itself."""

from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import as_unit_float
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.sources.load import load_bundle

pytest.importorskip("art", reason="needs adversarial-robustness-toolbox (extra bench)")

from dualsmooth.engine.adapters.art import CertifiedClassifier

DIGITS = as_unit_float(load_images("digits").images[:5])
FIRST = DIGITS.transpose(0, 3, 1, 2)


def test_certificates_are_the_engines(tiny_bundle: Path) -> None:
    method = DualSmoothing(load_bundle(str(tiny_bundle)))
    estimator = CertifiedClassifier(method, sample_size=10, precision="fp32")
    classes, radii = estimator.certify(FIRST, n=200)
    expected = certify(method, DIGITS, budget=Budget.fixed(10, 200), precision="fp32")
    assert classes.tolist() == [-1 if c.predicted is None else c.predicted for c in expected]
    assert radii.tolist() == [c.radius for c in expected]
    assert (radii > 0).any()
    estimator.alpha = 1e-9  # the attribute that ART's estimators have is the one that counts
    _, smaller = estimator.certify(FIRST, n=200)
    assert smaller.max() < radii.max()
    assert estimator._images_seen == 10  # the second call drew fresh noise


def test_it_is_an_art_classifier(tiny_bundle: Path) -> None:
    from art.estimators.classification.classifier import ClassifierMixin

    estimator = CertifiedClassifier(
        FixedSmoothing(load_bundle(str(tiny_bundle)), 0.12), sample_size=300, precision="fp32"
    )
    assert isinstance(estimator, ClassifierMixin)
    assert estimator.input_shape == (1, 8, 8)
    assert estimator.nb_classes == 10
    one_hot = estimator.predict(FIRST)
    assert one_hot.shape == (5, 10)
    assert set(one_hot.sum(axis=1)) <= {0.0, 1.0}
    classes, _ = estimator.certify(FIRST, n=300)
    both = (classes >= 0) & (one_hot.sum(axis=1) == 1)
    assert both.any()
    assert (one_hot.argmax(axis=1) == classes)[both].all()


def test_the_same_network_agrees_with_arts_own_certifier() -> None:
    """Two samples of 2,000 votes: a radius at p = 0.99 has sd 0.02, five sd of a gap are 0.15."""
    pytest.importorskip("statsmodels", reason="ART's own certifier needs statsmodels")
    import torch
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    bundle = load_bundle("digits-dual")
    torch.manual_seed(0)
    theirs = PyTorchRandomizedSmoothing(
        bundle.build("classifier@0.25"), torch.nn.CrossEntropyLoss(), (1, 8, 8), 10,
        device_type="cpu", sample_size=100, scale=0.25, alpha=0.001,
    )  # fmt: skip
    ours = CertifiedClassifier(FixedSmoothing(bundle, 0.25), precision="fp32")
    expected, their_radii = theirs.certify(FIRST, n=2000, batch_size=500)
    classes, radii = ours.certify(FIRST, n=2000)
    assert classes.tolist() == expected.tolist()
    assert np.abs(radii - their_radii).max() < 0.15


def test_bad_images_and_fit_are_refused(tiny_bundle: Path) -> None:
    method = FixedSmoothing(load_bundle(str(tiny_bundle)), 0.25)
    with pytest.raises(ArgumentError, match=r"channels come last|must have shape"):
        CertifiedClassifier(method, channels_first=False).certify(FIRST, n=10)
    with pytest.raises(ArgumentError, match=r"in \[0, 1\]"):
        CertifiedClassifier(method).certify(FIRST + 3, n=10)
    with pytest.raises(ArgumentError, match="sample_size"):
        CertifiedClassifier(method, sample_size=0)
    last = FIRST.transpose(0, 2, 3, 1)
    for images in (last, FIRST[0], FIRST[:, 0]):
        with pytest.raises(ArgumentError, match=r"^x must have shape \(count, 1, 8, 8\)"):
            CertifiedClassifier(method).predict(images)
    for name in ("clip_values", "preprocessing_defences"):
        with pytest.raises(ArgumentError, match=f"^{name} must be part of the network"):
            CertifiedClassifier(method).set_params(**{name: (0, 255)})
    with pytest.raises(NotImplementedError, match="train the networks first"):
        CertifiedClassifier(method).fit(FIRST, np.zeros(5))
