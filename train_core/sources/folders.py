"""Reads the images that a listing names, resizes them to one size, and counts what it leaves out."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from train_core.images import SUFFIXES, Header, decode, highest_value, read_header, reads_heif, why
from train_core.reading import Preparation, Reading
from train_core.sources.contents import (
    NO_IMAGE,
    Arrays,
    Contents,
    FileSizes,
    Progress,
    counted,
    counts_in_words,
    data_error,
    some,
)
from train_core.sources.listing import Item, Listing, one_class, sorted_out

KEPT = 224  # pixels; images that already have one size keep it up to this
SIDES = (16, 24, 32, 48, 64)  # for other images: the largest that the median image reaches
THREADS = 8  # each holds a decoded image: 36 MB for 12 megapixels

FORMAT = b"5"  # increase it when the results of reading change, so that folders are read again
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")

Answer = TypeVar("Answer")


def fingerprint(listing: Listing, reading: Reading) -> str:
    """32 hexadecimal digits that change with the files' paths, sizes, times of change and classes, and the reading.

    What is left out, and the notes, also change it.
    """
    digest = blake2b(FORMAT, digest_size=16)
    # The folder's own path too: archives unpack with equal times, and uncompressed images have equal sizes.
    digest.update(os.fsencode(listing.root) + reading.model_dump_json().encode())
    for item in listing.items:
        try:
            stat = item.path.stat()
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            state = "gone"  # reported when it is read
        said = f"\0{state} {item.split} {item.label} {item.group}\0"
        digest.update(os.fsencode(item.name) + said.encode(errors="surrogateescape"))
    left_out = [f"{reason} {name}" for reason, names in listing.left_out.items() for name in names]
    for said in (*listing.notes, *left_out):
        digest.update(b"\0" + os.fsencode(said))  # the copy in the cache names them too
    return digest.hexdigest()


def read_listing(
    listing: Listing, reading: Reading, progress: Progress | None, usual: tuple[int, int] | None = None
) -> Contents:
    """All images of a listing: grey [N, H, W] if all of them are grey, else RGB [N, H, W, 3].

    `usual` is the width and height if `reading` names none; without it, they are chosen from the images.

    Raises:
        DataError: images cannot be read and may not be skipped, or a class has none.

    """
    broken: dict[str, str] = {}
    left_out = {why: list(names) for why, names in listing.left_out.items()}
    headers = _headers(listing.items, broken, left_out, progress)
    left_out = sorted_out(left_out)
    if not headers:
        raise data_error(f"{listing.root} holds no images that can be read: {_counts(left_out, broken)}")
    preparation, notes = _prepared_how(headers, reading, usual)
    items = [item for item in listing.items if item in headers]
    pixels, is_colour = _pixels(items, preparation, broken, progress)
    if broken:
        if not reading.skip_broken:
            raise data_error(
                f"{listing.root}: cannot read the image{'s' * (len(broken) > 1)} "
                f"{some([f'{name} ({reason})' for name, reason in sorted(broken.items())])}: repair or remove "
                f"{'it' if len(broken) == 1 else 'them'}, or leave {'it' if len(broken) == 1 else 'them'} out with "
                "--skip-broken"
            )
        left_out["that cannot be read"] = sorted(broken)
        whole = np.array([item.name not in broken for item in items])
        items, pixels = [item for item in items if item.name not in broken], pixels[whole]
    items, pixels = _without_empty_classes(listing, items, pixels, left_out)
    return Contents(
        arrays=_arrays(items, pixels if is_colour else pixels[..., 0], headers),
        notes=(*listing.notes, *notes),
        left_out=left_out,
        preparation=preparation,
    )


def _headers(
    items: Sequence[Item], broken: dict[str, str], left_out: dict[str, list[str]], progress: Progress | None
) -> dict[Item, Header]:
    """The headers of the image files. Broken files are added to `broken`, and other files to `left_out`."""
    found: dict[Item, Header] = {}
    for item, header in _each(items, lambda item: read_header(item.path), "looking at images", progress):
        suffix = item.path.suffix
        if isinstance(header, Header):
            found[item] = header
        elif not reads_heif() and _is_heif(item.path):
            left_out.setdefault(f"in {suffix or 'HEIC'} (install budget-search[heif] to read them)", []).append(
                item.name
            )
        elif suffix.lower() in SUFFIXES:
            broken[item.name] = why(header)
        else:
            left_out.setdefault(NO_IMAGE, []).append(item.name)
    return found


def _is_heif(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def _counts(left_out: Mapping[str, Sequence[str]], broken: Mapping[str, str]) -> str:
    counts = [counts_in_words(left_out)]
    if broken:
        example = some([f"{name} ({reason})" for name, reason in broken.items()], 1)
        counts.append(f"{counted(len(broken), 'file')} that cannot be read, such as {example}")
    return ", ".join(filter(None, counts)) or "it is empty"


def _prepared_how(
    headers: Mapping[Item, Header], reading: Reading, usual: tuple[int, int] | None
) -> tuple[Preparation, list[str]]:
    """What is done to each image, and the sentences that describe it."""
    sizes = Counter((header.width, header.height) for header in headers.values())
    width, height = reading.size or usual or chosen_size(list(sizes.elements()))
    notes = []
    if set(sizes) != {(width, height)}:
        whose = "" if reading.size else "; --size chooses another"
        span = FileSizes.of(sizes.elements())
        notes.append(f"images of {span} are brought to {width}x{height} ({reading.fit}{whose})")
        lost = median(_lost(size, (width, height)) for size in sizes.elements())
        if reading.fit == "crop" and lost > 0.02:
            notes.append(f"crop cuts {100 * lost:.0f} % off the median image: --fit letterbox keeps all of it")
    bits = 16
    if deep := [item for item, header in headers.items() if header.deep]:
        highest = [value for _, value in _each(deep, lambda item: highest_value(item.path), "", None)]
        most = (
            max(value for value in highest if isinstance(value, int))
            if any(isinstance(value, int) for value in highest)
            else 65535
        )
        bits = min(max(most.bit_length(), 8), 16)
        have = "has" if len(deep) == 1 else "have"
        used = f", of which {bits} bits are used" if bits < 16 else ""
        notes.append(f"{counted(len(deep), 'image')} {have} 16 bits for each value{used}; they are scaled to 8 bits")
    made = Preparation(width=width, height=height, fit=reading.fit, background=reading.background, bits=bits)
    return made, notes


def chosen_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The width and height for images of these widths and heights: their own, or a small one of the same shape."""
    if len(set(sizes)) == 1 and max(sizes[0]) <= KEPT:
        return sizes[0]
    short = median(min(size) for size in sizes)
    side = max((each for each in SIDES if each <= short), default=SIDES[0])
    ratios = [width / height for width, height in sizes]
    if max(ratios) / min(ratios) > 1.02 or not 0.5 <= ratios[0] <= 2:
        return side, side
    long = round(side * max(ratios[0], 1 / ratios[0]) / 8) * 8
    return (long, side) if ratios[0] > 1 else (side, long)


def _lost(size: tuple[int, int], wanted: tuple[int, int]) -> float:
    """The share of an image that is cut off by a crop to the shape of `wanted`."""
    ratio = (size[0] / size[1]) / (wanted[0] / wanted[1])
    return 1 - min(ratio, 1 / ratio)


def _pixels(
    items: Sequence[Item], preparation: Preparation, broken: dict[str, str], progress: Progress | None
) -> tuple[NDArray[np.uint8], bool]:
    """All images, RGB [N, H, W, 3], and whether any has colours. Broken ones are black, and named."""
    pixels = np.zeros((len(items), preparation.height, preparation.width, 3), np.uint8)
    is_colour = False
    numbers = {item: number for number, item in enumerate(items)}
    for item, image in _each(items, lambda item: decode(item.path, preparation), "reading images", progress):
        if isinstance(image, Exception):
            broken[item.name] = why(image)
        else:
            is_colour |= image.ndim == 3
            pixels[numbers[item]] = image if image.ndim == 3 else image[..., None]
    return pixels, is_colour


def _each(
    items: Sequence[Item], ask: Callable[[Item], Answer], what: str, progress: Progress | None
) -> Iterator[tuple[Item, Answer | Exception]]:
    """The answer for each item, or its error, in their order, computed by several threads."""

    def answer(item: Item) -> Answer | Exception:
        try:
            return ask(item)
        except Exception as error:  # noqa: BLE001 - whatever Pillow's many readers make of a broken file
            return error

    pool = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
    try:
        for number, (item, found) in enumerate(zip(items, pool.map(answer, items), strict=True), 1):
            yield item, found
            if progress and what:
                progress(what, number, len(items))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, do not read the rest


def _without_empty_classes(
    listing: Listing, items: list[Item], pixels: NDArray[np.uint8], left_out: Mapping[str, Sequence[str]]
) -> tuple[list[Item], NDArray[np.uint8]]:
    """The images of the classes that have training images."""
    trained = {item.label for item in items if item.split == "train"}
    for label in dict.fromkeys(item.label for item in listing.of("train")):
        if label in trained:
            continue
        lost = [item.name for item in listing.of("train") if item.label == label]
        why_not = [reason for reason, names in left_out.items() if set(lost) & set(names)]
        is_meant = listing.has_stated_classes or why_not != [NO_IMAGE]
        if is_meant:
            reasons = ", ".join(why_not)
            raise data_error(
                f"{listing.root}: the class {label!r} has no images that can be read ({counted(len(lost), 'file')} "
                f"{reasons}): add some, or remove it"
            )
    if unknown := [item for item in items if item.label not in trained]:
        first = unknown[0]
        if any(item.split == "train" for item in listing.items if item.label == first.label):
            keep = np.array([item.label in trained for item in items])
            return [item for item in items if item.label in trained], pixels[keep]
        raise data_error(
            f"{listing.root}: {first.split} has the class {first.label!r}, which train has not: give it training images"
        )
    if not trained:
        raise data_error(f"{listing.root} holds no training images that can be read: {_counts(left_out, {})}")
    if len(trained) < 2:
        raise one_class(listing.root, next(iter(trained)), left_out)
    return items, pixels


def _arrays(items: Sequence[Item], pixels: NDArray[np.uint8], headers: Mapping[Item, Header]) -> Arrays:
    """The images by split; with the width and height of each file, [N, 2]."""
    classes = sorted({item.label for item in items if item.split == "train"}, key=_natural)
    number = {label: i for i, label in enumerate(classes)}
    arrays: Arrays = {"classes": np.array(classes)}
    for split in dict.fromkeys(item.split for item in items):
        chosen = [i for i, item in enumerate(items) if item.split == split]
        arrays[f"x_{split}"] = pixels[chosen[0] : chosen[-1] + 1]  # they are contiguous
        arrays[f"y_{split}"] = np.array([number[items[i].label] for i in chosen])
        arrays[f"files_{split}"] = np.array([items[i].name for i in chosen])
        arrays[f"sizes_{split}"] = np.array([(headers[items[i]].width, headers[items[i]].height) for i in chosen])
        if any(items[i].group for i in chosen):
            arrays[f"group_{split}"] = np.array([items[i].group for i in chosen])
    return arrays


def _natural(label: str) -> tuple[bool, int, str]:
    """Sort key: labels that are numbers come first, by value; then words."""
    return (not label.isdecimal(), int(label) if label.isdecimal() else 0, label)
