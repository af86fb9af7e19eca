"""Draws which images are held out."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def hold_out(labels: NDArray[Any], count: Callable[[int], int], seed: int) -> NDArray[np.bool_]:
    """Mask [N] that is true for `count(n)` images of each class of n images, drawn by `seed`."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held[rng.permutation(members)[: count(len(members))]] = True
    return held


def hold_out_groups(labels: NDArray[Any], groups: NDArray[Any], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mask [N] of about the share `fraction` of each class, in whole groups, drawn by `seed`; of two groups or more."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(max(round(1 / fraction), 2), len(np.unique(groups)))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    _, chosen = next(splitter.split(labels, labels, groups))
    held = np.zeros(len(labels), dtype=np.bool_)
    held[chosen] = True
    return held
