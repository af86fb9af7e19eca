"""The interval of an accuracy holds what it says it holds."""

import numpy as np
import pytest

from search.mistakes import wilson
from search.uncertainty import accuracy_interval, difference_in_noise


@pytest.mark.parametrize(("right", "images"), [(0, 20), (97, 100), (355, 360), (20, 20)])
def test_of_one_seed_it_is_wilsons(right: int, images: int) -> None:
    ours, theirs = accuracy_interval([right / images], images), wilson(right, images)
    assert [ours.value, ours.low, ours.high] == pytest.approx([theirs.value, theirs.low, theirs.high])


def test_equal_seeds_add_nothing_and_different_ones_add_their_variance() -> None:
    alone = accuracy_interval([0.9], 400)
    assert accuracy_interval([0.9, 0.9, 0.9], 400) == alone
    spread = accuracy_interval([0.88, 0.90, 0.92], 400)
    assert spread.low < alone.low
    assert alone.high < spread.high
    wide = accuracy_interval([0.5, 1.0], 400)
    assert (wide.low, wide.high) == (0, 1)


@pytest.mark.parametrize(("seeds", "deviation"), [(3, 0.0), (3, 0.02), (2, 0.03), (5, 0.01)])
def test_it_holds_the_mean_accuracy_of_other_images_and_other_seeds(seeds: int, deviation: float) -> None:
    """Of 2,000 simulated networks; some images are hard for all seeds, and each seed has an accuracy of its own."""
    generator, images, held = np.random.default_rng(0), 300, 0
    for _ in range(2000):
        hard = generator.random(images) < 0.2  # right in half of the seeds
        shares = [0.9 + generator.normal(0, deviation) for _ in range(seeds)]
        seen = [
            float(np.where(hard, generator.random(images) < share - 0.4, generator.random(images) < 1).mean())
            for share in shares
        ]
        known = accuracy_interval(seen, images)
        held += known.low <= 0.9 <= known.high
    assert 0.93 < held / 2000 <= 1


def test_noise_is_two_standard_errors_and_never_nothing() -> None:
    assert difference_in_noise(0.5, 38) == pytest.approx(0.16, abs=0.003)
    assert difference_in_noise(0.98, 5000) == pytest.approx(2 * (0.98 * 0.02 / 5000) ** 0.5, rel=0.02)
    assert difference_in_noise(1.0, 38) > 0.05
