import torch

from dualsmooth.engine.train.loop import Affine, random_affine


def images() -> torch.Tensor:
    return torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def test_zero_limits_change_nothing() -> None:
    x = images()
    y = random_affine(x, Affine(0, 0, 0, 0), torch.Generator().manual_seed(1))
    assert torch.allclose(x, y, atol=1e-6)


def test_each_limit_moves_pixels_and_the_seed_decides() -> None:
    x = images()
    for limits in (Affine(0.2, 0, 0, 0), Affine(0, 0.3, 0, 0), Affine(0, 0, 0.2, 0)):
        y, again = (random_affine(x, limits, torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(y, again)
        assert not torch.allclose(x, y, atol=1e-2)
        assert y.shape == x.shape
        assert y.min() >= 0
        assert y.max() <= 1 + 1e-6


def test_a_shift_of_one_pixel() -> None:
    """Half image widths: 2 / 8 is one pixel of eight. The draw is +-1 times the limit."""
    x = torch.zeros(200, 1, 8, 8)
    x[:, :, 4, 4] = 1
    y = random_affine(x, Affine(0.25, 0, 0, 0), torch.Generator().manual_seed(1))
    rows = (y.sum((1, 3)) * torch.arange(8)).sum(1)
    assert 2.9 < rows.min() < 3.1
    assert 4.9 < rows.max() < 5.1


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    x = images()[:1].repeat(400, 1, 1, 1)
    y = random_affine(x, Affine(0, 0, 0, 0, flip=True), torch.Generator().manual_seed(1))
    kept, mirrored = (
        [bool(torch.allclose(a, b, atol=1e-5)) for a, b in zip(y, other, strict=True)]
        for other in (x, x.flip(3))
    )
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))
    assert 140 < sum(kept) < 260  # fails by chance for one seed in 10^9
