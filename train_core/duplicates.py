"""Finds pictures that are in a data set more than once: pixel for pixel, or almost.

Almost means the same picture in another compression, at another size, brighter, or without its colours. A perceptual
hash would be usual. But of 1,000 CIFAR images, saved again as JPEG files of quality 75, a 64-bit difference hash
was within 2 bits for only 77 %; the thumbnails here agreed for 99.9 %.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # [N, H, W, C]
Floats = NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)

THUMBNAIL = 8  # pixels in each direction
ALIKE = 0.085  # largest distance of two thumbnails of mean 0 and norm 1; between different handwritten digits: 0.087
FLAT = 2.0  # smallest standard deviation of a thumbnail, in pixel values: anything less is noise
DETAIL = 32  # pixels in each direction, at most, of the second comparison
SAME_DETAIL = 0.65  # smallest correlation of steps in brightness; between CIFAR's images and their JPEG files: 0.76
STEEP = 2.0  # times the mean step: one strong edge, such as a horizon, must not outweigh everything else
LIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue: JPEG files keep lightness best
NEIGHBOURS = 32  # candidates for each picture
DIMENSIONS = 6  # of the search for candidates
VALUES = 1 << 24  # values that are in memory as floats at a time


def digests(images: Pixels) -> list[int]:
    """A number for each image. Equal images have equal numbers, within this process.

    Two different images among a million have the same number with a probability of 3e-8.
    """
    return [hash(image.tobytes()) for image in images]


def equal(parts: Sequence[Pixels]) -> list[list[int]]:
    """Groups of two or more equal images. The images of all parts are numbered consecutively."""
    found: dict[int, list[int]] = defaultdict(list)
    for number, digest in enumerate(digest for part in parts for digest in digests(part)):
        found[digest].append(number)
    return [group for group in found.values() if len(group) > 1]


def constant(images: Pixels) -> NDArray[np.bool_]:
    """Mask [N] of the images of a single colour."""
    chunks = _chunks(images, prod(images.shape[1:]))
    return np.concatenate([(chunk == chunk[:, :1, :1]).all(axis=(1, 2, 3)) for chunk in chunks])


def almost_equal(parts: Sequence[Pixels], known: Sequence[Sequence[int]] = ()) -> list[list[int]]:
    """Groups of two or more images that are almost equal, numbered as by `equal`.

    For each group in `known`, as `equal` returns them, the first image represents all. An image with almost no contrast
    is almost equal to none. If A is almost equal to B, and B to C, then all three are in one group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    outlines, contrast = _outlines(np.concatenate([_thumbnails(part, THUMBNAIL, THUMBNAIL) for part in parts]))
    is_compared = contrast >= FLAT
    is_compared[[number for group in known for number in group[1:]]] = False
    numbers = np.flatnonzero(is_compared)
    if len(numbers) < 2:
        return []
    pairs = numbers[_close(outlines[numbers])]
    if len(pairs) == 0:
        return []
    pairs = pairs[[agreed for chunk in _chunks(pairs, 2 * prod(parts[0].shape[1:])) for agreed in _agree(parts, chunk)]]
    ones = np.ones(len(pairs), np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(len(contrast), len(contrast)))
    _, component = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = defaultdict(list)
    for number in np.unique(pairs).tolist():
        groups[component[number]].append(number)
    return list(groups.values())


# ------------------------------------------------------------------------------------------------------- the pictures


def _thumbnails(images: Pixels, height: int, width: int) -> Floats:
    """Grey images [N, height, width] whose pixels are means over the area that they cover."""
    down, across = _areas(images.shape[1], height), _areas(images.shape[2], width).T
    weights = LIGHTNESS if images.shape[3] == 3 else np.ones(1, np.float32)
    chunks = _chunks(images, prod(images.shape[1:]))
    return np.concatenate([down @ (chunk.astype(np.float32) @ weights) @ across for chunk in chunks])


def _areas(size: int, wanted: int) -> Floats:
    """Matrix [wanted, size]: the weight of each pixel in the mean for each new pixel."""
    edges, pixel = np.linspace(0, size, wanted + 1)[:, None], np.arange(size)
    overlap = (np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)).clip(0)
    shares: Floats = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _outlines(thumbnails: Floats) -> tuple[Floats, Floats]:
    """Thumbnails as vectors [N, D] of mean 0 and norm 1, independent of brightness and contrast; and their contrast.

    The contrast [N] is the standard deviation of each.
    """
    vectors: Floats = thumbnails.reshape(len(thumbnails), -1)
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    contrast = vectors.std(axis=1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-6), contrast


def _close(outlines: Floats) -> NDArray[np.intp]:
    """Pairs [P, 2] of outlines [N, D] that are at most `ALIKE` apart: the first number is the smaller.

    Two vectors are never farther apart in their first principal components than in all. So a tree over these finds the
    candidates without comparing all pairs.
    """
    from scipy.spatial import cKDTree

    _, axes = np.linalg.eigh(outlines.T @ outlines)
    points = outlines @ axes[:, -DIMENSIONS:]
    near = min(NEIGHBOURS, len(points) - 1) + 1  # each one is its own neighbour
    _, others = cKDTree(points).query(points, k=near, distance_upper_bound=ALIKE)
    first = np.repeat(np.arange(len(points)), near)
    second = others.ravel()
    pairs = np.stack([first, second], axis=1)[(second != first) & (second < len(points))]
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    chunks = _chunks(pairs, 2 * outlines.shape[1])
    apart = [np.linalg.norm(outlines[chunk[:, 0]] - outlines[chunk[:, 1]], axis=1) for chunk in chunks]
    return pairs[np.concatenate(apart) <= ALIKE]


def _agree(parts: Sequence[Pixels], pairs: NDArray[np.intp]) -> list[bool]:
    """Whether the two images of each pair [P, 2] also agree in detail: in their steps from pixel to pixel."""
    one, other = (_steps(_gathered(parts, pairs[:, side])) for side in (0, 1))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    agreed: list[bool] = ((one * other).sum(axis=1) >= SAME_DETAIL * norms).tolist()
    return agreed


def _steps(images: Pixels) -> Floats:
    """Differences between neighbouring pixels, as vectors [N, D], limited to `STEEP`."""
    grey = _thumbnails(images, min(DETAIL, images.shape[1]), min(DETAIL, images.shape[2]))
    steps = np.concatenate([np.diff(grey, axis=axis).reshape(len(grey), -1) for axis in (1, 2)], axis=1)
    most = STEEP * np.abs(steps).mean(axis=1, keepdims=True)
    return steps.clip(-most, most)


def _gathered(parts: Sequence[Pixels], numbers: NDArray[np.intp]) -> Pixels:
    """The images with these numbers."""
    made = np.empty((len(numbers), *parts[0].shape[1:]), np.uint8)
    first = 0
    for part in parts:
        inside = (numbers >= first) & (numbers < first + len(part))
        made[inside] = part[numbers[inside] - first]
        first += len(part)
    return made


def _chunks(array: NDArray[Scalar], values_each: int) -> list[NDArray[Scalar]]:
    """The array in parts, at least one; each has so few rows that `VALUES` suffice for `values_each` per row."""
    rows = max(VALUES // values_each, 1)
    return [array[start : start + rows] for start in range(0, max(len(array), 1), rows)]
