"""Reads files of arrays with the names and forms in common use, and converts what has only one possible meaning.

`.npz` files, `.mat` files such as SVHN's, and the unpacked batches of CIFAR.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_core.images import prepared
from train_core.reading import Preparation, Reading, rgb
from train_core.sources.cache import read_npz
from train_core.sources.contents import SPLITS, Arrays, Contents, SplitName, by, data_error, some
from train_core.sources.listing import split_named

_IMAGES = ("x", "image", "images", "img", "imgs", "data")
_LABELS = ("y", "label", "labels", "target", "targets")
_CLASSES = ("classes", "class_names", "label_names", "names", "categories")

Names = Mapping[str, str]
"""Keras's name of each array -> its name in the file."""


def read_arrays(path: Path, reading: Reading) -> Contents:
    """The contents of an `.npz` file.

    Raises:
        DataError: it cannot be read, or an array has no meaning, or two meanings.

    """
    held = read_npz(path, "save plain arrays, none of dtype object, with numpy.savez")
    names, notes = _named(path, held)
    arrays = {name: held[theirs] for name, theirs in names.items()}
    if reading.group:
        arrays |= _groups(path, held, arrays, reading.group)
    return converted(str(path), arrays, reading, notes)


def converted(origin: str, arrays: Arrays, reading: Reading, notes: Sequence[str] = ()) -> Contents:
    """The arrays with images uint8 [N, H, W] or [N, H, W, C] and labels from 0, and notes on the conversions.

    Unknown forms stay as they are: `train_core.data` refuses them.
    """
    said = list(notes)
    images = {name: each for name, each in arrays.items() if name.startswith("x_")}
    labels = {name: each for name, each in arrays.items() if name.startswith("y_")}
    others = {name: each for name, each in arrays.items() if name not in images and name not in labels}
    images = _converted_images(origin, images, reading, said)
    labels, classes = _converted_labels(labels, "classes" in others, said)
    contents = Contents(arrays={**images, **labels, **classes, **others}, notes=tuple(said))
    return resized(contents, reading)


def resized(contents: Contents, reading: Reading) -> Contents:
    """The same contents with all images in the requested size, if one is requested."""
    size = reading.size
    images = {name: each for name, each in contents.arrays.items() if name.startswith("x_") and each.ndim in (3, 4)}
    if size is None or not images or all(each.shape[1:3] == size[::-1] for each in images.values()):
        return contents
    from PIL import Image

    made = Preparation(width=size[0], height=size[1], fit=reading.fit, background=reading.background)
    new = {
        name: np.stack([np.array(prepared(Image.fromarray(image.squeeze()), made)) for image in each])
        for name, each in images.items()
    }
    first = next(iter(images.values())).shape
    note = f"images of {first[2]}x{first[1]} pixels are brought to {size[0]}x{size[1]} ({reading.fit})"
    return replace(contents, arrays=contents.arrays | new, notes=(*contents.notes, note), preparation=made)


# ---------------------------------------------------------------------------------------------------------- the names


def _named(path: Path, held: Arrays) -> tuple[Names, list[str]]:
    """Which array is which, and notes on it."""
    found: dict[str, str] = {}
    for theirs in held:
        if ours := _keras_name(theirs):
            if ours in found:
                raise data_error(f"{path}: {found[ours]} and {theirs} could both be {ours}: keep one")
            found[ours] = theirs
    if "x_train" not in found and all(re.fullmatch(r"arr_\d+", name) for name in held):
        found = _by_shape(path, held)
    unknown = [theirs for theirs in held if theirs not in found.values()]
    if "x_train" not in found and unknown:
        raise data_error(
            f"{path}: the array x_train is missing: it holds {some(list(held), 8)}; save x_train and y_train"
        )
    others = {ours: theirs for ours, theirs in found.items() if ours not in ("class_names",) and ours != theirs}
    notes = []
    if others:
        notes.append("read " + ", ".join(f"{theirs} as {ours}" for ours, theirs in others.items()))
    return found, notes


def _keras_name(theirs: str) -> str | None:
    """`x_train` and so on for other common names: `X_train`, `train_images`, `trainX`, `labels_test`, `y`."""
    words = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", theirs.replace("-", "_"))]
    plain = "_".join(words)
    if plain in _CLASSES:
        return "classes"
    split = next((split_named(word) for word in words if split_named(word)), None)
    rest = [word for word in words if split_named(word) is None]
    if len(rest) != 1 or len(words) - len(rest) > 1:
        return None
    if rest[0] in _IMAGES:
        return f"x_{split or 'train'}"
    if rest[0] in _LABELS:
        return f"y_{split or 'train'}"
    return None


def _by_shape(path: Path, held: Arrays) -> dict[str, str]:
    """Which of `arr_0`, `arr_1`, ... is which: images have three dimensions or more, and as many labels."""
    images = [name for name, each in held.items() if each.ndim >= 3]
    labels = [name for name, each in held.items() if each.ndim in (1, 2)]
    pairs = [(x, [y for y in labels if len(held[y]) == len(held[x])]) for x in images]
    if not images or len(images) > 3 or any(len(ys) != 1 for _, ys in pairs):
        shapes = ", ".join(f"{name} {by(each.shape)}" for name, each in held.items()) or "no arrays"
        raise data_error(f"{path} holds {shapes}: which is which cannot be told: name them x_train, y_train, ...")
    splits: Sequence[SplitName] = SPLITS if len(pairs) == 3 else ("train", "test")
    return {
        name: theirs
        for split, (x, ys) in zip(splits, pairs, strict=False)
        for name, theirs in ((f"x_{split}", x), (f"y_{split}", ys[0]))
    }


def _groups(path: Path, held: Arrays, arrays: Arrays, group: str) -> Arrays:
    """The arrays that group images: named `group`, with or without the split before or after it."""
    found = {}
    for split in SPLITS:
        names = [name for name in (f"{group}_{split}", f"{split}_{group}") if name in held]
        if split == "train" and group in held:
            names.append(group)
        if names:
            values = held[names[0]]
            images = arrays.get(f"x_{split}")
            if images is None or values.shape != (len(images),):
                raise data_error(f"{path}: {names[0]} has shape {values.shape}: give one value for each image")
            found[f"group_{split}"] = values.astype(str)
    if "group_train" not in found:
        raise data_error(f"{path} has no array {group!r} or {group + '_train'!r}: it holds {some(list(held), 8)}")
    return found


# --------------------------------------------------------------------------------------------------------- the images


def _converted_images(origin: str, images: Arrays, reading: Reading, said: list[str]) -> Arrays:
    made = {}
    for name, each in images.items():
        made[name] = _channels_last(each, said)
    made = _as_bytes(origin, made, said)
    if made and all(each.ndim == 4 and each.shape[3] == 4 and each.dtype == np.uint8 for each in made.values()):
        made = {name: _on_background(each, reading.background) for name, each in made.items()}
        _say(said, f"transparent images stand on {reading.background}")
    return made


def _channels_last(images: NDArray[Any], said: list[str]) -> NDArray[Any]:
    """Images [N, C, H, W] as [N, H, W, C]."""
    known = (1, 3, 4)
    if images.ndim != 4 or images.shape[3] in known or images.shape[1] not in known:
        return images
    _say(said, "channels first: converted")
    return images.transpose(0, 2, 3, 1)


def _as_bytes(origin: str, images: Arrays, said: list[str]) -> Arrays:
    """Images of other types as uint8, if the range of their values has only one meaning."""
    others = [each for each in images.values() if each.dtype != np.uint8 and each.size]
    if not others or any(each.dtype.kind not in "fiub" for each in others):
        return images
    if any(each.dtype.kind == "f" and not np.isfinite(each).all() for each in others):
        raise data_error(f"{origin}: the images hold values that are not numbers: save whole images")
    low, high = min(float(each.min()) for each in others), max(float(each.max()) for each in others)
    is_float = any(each.dtype.kind == "f" for each in others)
    if low < 0:
        raise data_error(
            f"{origin}: the images hold values from {low:.4g} to {high:.4g}: give them as they were before they were "
            "normalised, uint8 from 0 to 255"
        )
    if all(each.dtype == np.bool_ for each in others) or (is_float and high <= 1):
        factor, what = 255.0, "from 0 to 1"
    elif high <= 255:
        if high <= 1:
            raise data_error(
                f"{origin}: the images are whole numbers from 0 to {high:.0f}: 0 to 1 or 0 to 255 cannot be told: save "
                "uint8, 0 to 255"
            )
        factor, what = 1.0, "from 0 to 255"
    elif not is_float and high < 1 << 16:
        bits = int(high).bit_length()
        factor, what = 1 / (1 << (bits - 8)), f"of {bits} bits"
    else:
        raise data_error(f"{origin}: the images hold values from {low:.4g} to {high:.4g}: save uint8, 0 to 255")
    _say(said, f"{others[0].dtype} values {what}: converted to uint8")
    return {name: each if each.dtype == np.uint8 else _scaled(each, factor) for name, each in images.items()}


def _scaled(images: NDArray[Any], factor: float) -> NDArray[np.uint8]:
    """The images times the factor, image by image, to avoid a float copy of all images."""
    made = np.empty(images.shape, np.uint8)
    for i, image in enumerate(images):
        made[i] = np.floor(image * factor + (0.5 if factor >= 1 else 0.0)).clip(0, 255)
    return made


def _on_background(images: NDArray[np.uint8], background: str) -> NDArray[np.uint8]:
    """Images RGBA [N, H, W, 4] as RGB, on a colour."""
    colour = np.array(rgb(background), np.float32)
    made = np.empty((*images.shape[:3], 3), np.uint8)
    for i, image in enumerate(images):
        alpha = image[..., 3:].astype(np.float32) / 255
        made[i] = (image[..., :3] * alpha + colour * (1 - alpha) + 0.5).astype(np.uint8)
    return made


# --------------------------------------------------------------------------------------------------------- the labels


def _converted_labels(labels: Arrays, has_classes: bool, said: list[str]) -> tuple[Arrays, Arrays]:
    """Labels as whole numbers from 0; and the names of the classes, if the labels are words."""
    made = {name: _whole(each, said) for name, each in labels.items()}
    if made and all(each.dtype.kind in "US" for each in made.values()):
        texts = {name: each.astype(str).reshape(-1) for name, each in made.items()}
        classes = sorted({label for each in texts.values() for label in each.tolist()})
        number = {label: i for i, label in enumerate(classes)}
        _say(said, f"{len(classes)} labels are words: numbered in alphabetical order")
        return (
            {name: np.array([number[label] for label in each.tolist()]) for name, each in texts.items()},
            {} if has_classes else {"classes": np.array(classes)},
        )
    if made and all(each.dtype.kind in "iu" and each.size for each in made.values()):
        known = np.unique(np.concatenate([each.reshape(-1) for each in made.values()]))
        if known[0] == 1 and len(known) == known[-1]:
            _say(said, f"labels from 1 to {known[-1]}: counted from 0")
            names = {} if has_classes else {"classes": np.array([str(label) for label in known])}
            return {name: each.astype(np.int64) - 1 for name, each in made.items()}, names
    return made, {}


def _whole(labels: NDArray[Any], said: list[str]) -> NDArray[Any]:
    """One-hot labels [N, K] as numbers; floats with whole values as integers."""
    is_number = labels.dtype.kind in "fiub" and labels.size > 0
    if is_number and labels.ndim == 2 and labels.shape[1] > 1 and ((labels == 0) | (labels == 1)).all():
        if (labels.sum(axis=1) == 1).all():
            _say(said, f"one-hot labels of {labels.shape[1]} classes: converted")
            return np.asarray(labels.argmax(axis=1))
        return labels
    if labels.dtype.kind == "f" and labels.size and np.isfinite(labels).all() and (labels == np.rint(labels)).all():
        _say(said, f"{labels.dtype} labels that are whole numbers: converted")
        return labels.astype(np.int64)
    if labels.dtype == np.bool_:
        return labels.astype(np.int64)
    return labels


def _say(said: list[str], sentence: str) -> None:
    """Add the sentence once, whatever the number of splits."""
    if sentence not in said:
        said.append(sentence)


# ------------------------------------------------------------------------------------------------------------ MATLAB


def read_mat(path: Path, reading: Reading) -> Contents:
    """The contents of SVHN's `.mat` files: `train_32x32.mat`, and `test_32x32.mat` if it is beside it."""
    files: dict[SplitName, Path] = {"train": path}
    beside = path.with_name(path.name.replace("train", "test"))
    notes = []
    if beside != path and beside.is_file():
        files["test"] = beside
        notes.append(f"{beside.name} has the test images")
    arrays, counts_from_one = house_numbers(files)
    if counts_from_one:
        notes.append("labels from 1 to 10, where 10 is the digit 0")
    return converted(str(path), arrays, reading, notes)


def house_numbers(files: Mapping[SplitName, Path]) -> tuple[Arrays, bool]:
    """The images and labels of `.mat` files such as SVHN's, and whether 10 stood for the digit 0 in them.

    Raises:
        DataError: a file cannot be read, or contains something else.

    """
    arrays: Arrays = {}
    for split, file in files.items():
        held = read_matlab(file)
        names = {name.casefold(): name for name in held}
        if not {"x", "y"} <= set(names):
            raise data_error(f"{file} holds {some(list(held), 8)}: X and y are needed, as in SVHN's files")
        x, y = held[names["x"]], held[names["y"]].reshape(-1)
        if x.ndim != 4 or x.shape[3] != len(y):
            raise data_error(
                f"{file}: X has shape {x.shape}: it must be [height, width, channels, N], as in SVHN's files"
            )
        arrays[f"x_{split}"], arrays[f"y_{split}"] = x.transpose(3, 0, 1, 2), y
    labels = {name: each for name, each in arrays.items() if name.startswith("y_")}
    counts_from_one = all(set(np.unique(each)) <= set(range(1, 11)) for each in labels.values())
    if counts_from_one:
        arrays |= {name: each.astype(np.int64) % 10 for name, each in labels.items()}
    return arrays, counts_from_one


def read_matlab(path: Path) -> Arrays:
    """The arrays of a `.mat` file.

    Raises:
        DataError: it cannot be read.

    """
    from scipy.io import loadmat

    try:
        held = loadmat(path)
    except Exception as error:  # scipy raises many kinds for a broken file; version 7.3 is another format
        raise data_error(f"cannot read {path} ({error}): save it as a .npz file") from error
    return {name: each for name, each in held.items() if isinstance(each, np.ndarray)}
