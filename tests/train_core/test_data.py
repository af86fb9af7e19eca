"""Data sets: what is read, how it is cut, what is refused, and that a cache is whole or not there at all."""

import dataclasses
import errno
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets

from tests.support.publisher import Home
from train_core import data
from train_core.data import Split, TrainingData, default_cache, load_training
from train_core.errors import DataError
from train_core.sources import downloads

Arrays = dict[str, Any]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load_test(source: str, *, cache: Path) -> Split | None:
    """The test split of a source that is as it was when it was trained on."""
    fingerprint = data.load_training(source, val_fraction=0.5, seed=0, cache=cache).fingerprint
    return data.load_test(source, fingerprint=fingerprint, cache=cache)


def load(source: object, cache: Path, val_fraction: float = 0.25, seed: int = 0) -> TrainingData:
    return load_training(str(source), val_fraction=val_fraction, seed=seed, cache=cache)


def refusal(source: object, cache: Path, val_fraction: float = 0.25) -> str:
    """The one-line message with which the source is refused."""
    with pytest.raises(DataError) as caught:
        load(source, cache, val_fraction)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def first_pixels(images: Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


# ------------------------------------------------------------------------------------------------ .npz files


def arrays(counts: tuple[int, ...] = (12, 8, 4), **changes: Any) -> Arrays:
    """Grey 5x4 images, `counts` of each class in turn, image i all of value i; test images from value 200 on."""
    num_train, num_test = sum(counts), 6
    labels = np.repeat(np.arange(len(counts)), counts)
    made = {
        "x_train": np.tile(np.arange(num_train, dtype=np.uint8)[:, None, None], (1, 5, 4)),
        "y_train": np.random.default_rng(0).permutation(labels),
        "x_test": np.tile(np.arange(200, 200 + num_test, dtype=np.uint8)[:, None, None], (1, 5, 4)),
        "y_test": np.arange(num_test) % len(counts),
    } | changes
    return {key: value for key, value in made.items() if value is not None}


def write_npz(path: Path, **changes: Any) -> Path:
    np.savez(path, **arrays(**changes))
    return path


def test_an_npz_of_grey_images_is_read_as_uint8_with_a_channel(tmp_path: Path, cache: Path) -> None:
    found = load(write_npz(tmp_path / "shapes.npz"), cache)
    assert (found.name, found.classes, found.has_test) == ("shapes", ("0", "1", "2"), True)
    assert (found.in_channels, found.num_classes, found.size) == (1, 3, (5, 4))
    assert found.train.images.shape == (18, 5, 4, 1)
    assert found.train.images.dtype == torch.uint8
    assert found.train.labels.dtype == torch.int64
    assert (len(found.train), len(found.val)) == (18, 6)
    assert not cache.exists()  # a file of the user's own needs no copy


def test_labels_stay_with_their_images(tmp_path: Path, cache: Path) -> None:
    expected = arrays()["y_train"]
    found = load(write_npz(tmp_path / "a.npz"), cache)
    for split in (found.train, found.val):
        assert split.labels.tolist() == expected[first_pixels(split.images)].tolist()


def test_rgb_images_column_labels_and_class_names_are_read(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.npz"
    rgb = np.random.default_rng(0).integers(0, 256, (24, 5, 4, 3), dtype=np.uint8)
    write_npz(
        path,
        x_train=rgb,
        y_train=arrays()["y_train"][:, None].astype(">u2"),
        x_test=rgb[:6],
        classes=np.array(["owl", "cat", "yak"]),
    )
    found = load(path, cache)
    assert found.classes == ("owl", "cat", "yak")
    assert found.in_channels == 3
    test = load_test(str(path), cache=cache)
    assert test is not None
    assert test.images.numpy().tobytes() == rgb[:6].tobytes()
    assert found.train.labels.dtype == torch.int64


@pytest.mark.parametrize("names", [["owl", "cat", "yak"], [b"owl", b"cat", b"yak"]])
def test_class_names_may_be_bytes_and_be_called_class_names(tmp_path: Path, cache: Path, names: list[Any]) -> None:
    found = load(write_npz(tmp_path / "a.npz", class_names=np.array(names)), cache)
    assert found.classes == ("owl", "cat", "yak")


def test_training_data_hold_no_test_image(tmp_path: Path, cache: Path) -> None:
    found = load(write_npz(tmp_path / "a.npz"), cache)
    assert {f.name for f in dataclasses.fields(found) if isinstance(getattr(found, f.name), Split)} == {"train", "val"}
    assert sorted(first_pixels(found.train.images) + first_pixels(found.val.images)) == list(range(24))


def test_the_test_split_is_read_by_load_test_alone(tmp_path: Path, cache: Path) -> None:
    test = load_test(str(write_npz(tmp_path / "a.npz")), cache=cache)
    assert test is not None
    assert first_pixels(test.images) == [200, 201, 202, 203, 204, 205]
    assert test.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_without_a_test_split_there_is_none(tmp_path: Path, cache: Path) -> None:
    path = write_npz(tmp_path / "a.npz", x_test=None, y_test=None)
    assert load_test(str(path), cache=cache) is None
    assert not load(path, cache).has_test


IMAGES, LABELS = arrays()["x_train"], arrays()["y_train"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, "x_train is missing"),
        ({"y_train": None}, "y_train is missing"),
        ({"y_test": None}, "y_test is missing: save x_test and y_test"),
        ({"x_test": None}, "x_test is missing"),
        ({"x_val": IMAGES[:3]}, "y_val is missing"),
        ({"x_train": IMAGES - 128.0}, "the images hold values from -128 to -105"),
        ({"x_train": IMAGES * np.nan}, "not numbers"),
        ({"x_train": IMAGES * 1000.0}, "the images hold values from 0 to 2.3e"),
        ({"x_train": IMAGES.astype("U3")}, "x_train is <U3: convert the images to uint8, 0 to 255"),
        ({"x_train": np.zeros((24, 20), np.uint8)}, r"x_train has shape \(24, 20\)"),
        ({"x_train": np.zeros((24, 5, 4, 2), np.uint8)}, "C 1 or 3"),
        ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "x_train holds no images"),
        ({"y_train": LABELS[:-1]}, "y_train has 23 labels for 24 images"),
        ({"y_train": LABELS + 0.5}, "y_train is float64"),
        ({"y_train": np.ones((24, 3), int)}, r"y_train is int64 of shape \(24, 3\)"),
        ({"y_train": np.array(3)}, r"y_train is int64 of shape \(\)"),
        ({"y_train": LABELS.astype("m8[s]")}, r"y_train is timedelta64\[s\]"),
        ({"y_train": LABELS + 1}, "label 3, but there are 3 classes: number them 0 to 2"),
        ({"y_train": LABELS - 1}, "label -1, but there are 3 classes"),
        ({"y_train": LABELS * 10**12}, "label 2000000000000, but"),
        ({"y_train": LABELS.astype(np.uint64) + np.uint64(2**64 - 5)}, "label 18446744073709551611, but"),
        ({"y_test": np.array([0, 1, 2, 3, 0, 1])}, "y_test holds the label 3"),
        ({"classes": np.array(["a", "b"])}, "y_train holds the label 2, but there are 2 classes"),
        ({"classes": np.array(["a", "b", "c", "d"])}, "class 'd' has no training images"),
        ({"classes": np.array(["a", "b", "b"])}, "two classes have the same name"),
        ({"classes": np.array(3)}, "classes is int64 of shape"),
        ({"counts": (9,)}, "one class only"),
        ({"x_test": np.zeros((6, 9, 4), np.uint8)}, "x_train has images of 5x4x1 and x_test of 9x4x1"),
        ({"x_test": np.zeros((6, 5, 4, 3), np.uint8)}, "x_train has images of 5x4x1 and x_test of 5x4x3"),
    ],
)
def test_an_unfit_npz_is_refused_by_name(tmp_path: Path, cache: Path, changes: Arrays, message: str) -> None:
    path = write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(DataError, match=message):
        load_test(str(path), cache=cache)
    assert str(path) in refusal(path, cache)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("key", ["x_train", "y_test", "classes"])
def test_a_malicious_npz_is_refused_and_not_executed(tmp_path: Path, cache: Path, key: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "a.npz"
    write_npz(path, **{key: np.array([Bomb(trace), None], dtype=object)})
    message = refusal(path, cache)
    assert str(path) in message
    assert "allow_pickle" not in message  # the advice of NumPy's own message
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as opened:  # the bomb was live
        assert opened[key] is not None
    assert trace.exists()


def test_a_pickle_called_npz_is_refused_and_not_executed(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    assert "damaged, or more than plain arrays" in refusal(path, cache)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_off_npz_is_refused(tmp_path: Path, cache: Path, share: float) -> None:
    path = write_npz(tmp_path / "a.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert f"cannot read {path}" in refusal(path, cache)


def test_a_changed_byte_in_an_npz_is_noticed(tmp_path: Path, cache: Path) -> None:
    path = write_npz(tmp_path / "a.npz")
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 200] ^= 255
    path.write_bytes(content)
    assert f"cannot read {path}" in refusal(path, cache)


# ---------------------------------------------------------------------------------- validation split, statistics


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [((12, 8, 4), 0.25, [3, 2, 1]), ((20, 2), 0.1, [2, 1]), ((10, 2), 0.9, [9, 1]), ((3, 3), 0.99, [2, 2])],
)
def test_the_validation_cut_takes_its_share_of_each_class_at_least_one_and_never_all(
    tmp_path: Path, cache: Path, counts: tuple[int, ...], fraction: float, expected: list[int]
) -> None:
    found = load(write_npz(tmp_path / "a.npz", counts=counts), cache, fraction)
    assert found.val.labels.bincount().tolist() == expected
    assert found.train.labels.bincount().tolist() == [n - k for n, k in zip(counts, expected, strict=True)]


def test_the_cut_is_fixed_by_the_seed_and_keeps_the_order(tmp_path: Path, cache: Path) -> None:
    path = write_npz(tmp_path / "a.npz")
    first, again, other = (first_pixels(load(path, cache, seed=seed).val.images) for seed in (0, 0, 1))
    assert first == again != other
    assert first == sorted(first)
    kept = first_pixels(load(path, cache).train.images)
    assert kept == sorted(kept)


def test_a_validation_split_of_the_source_is_used_as_it_is(tmp_path: Path, cache: Path) -> None:
    path = write_npz(tmp_path / "a.npz", x_val=IMAGES[:3] + 100, y_val=np.array([2, 0, 2]))
    found = load(path, cache, val_fraction=0.0)  # not needed, hence not looked at
    assert first_pixels(found.val.images) == [100, 101, 102]
    assert found.val.labels.tolist() == [2, 0, 2]
    assert len(found.train) == 24


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_validation_share_outside_0_to_1_is_refused(tmp_path: Path, cache: Path, fraction: float) -> None:
    assert "choose between 0 and 1" in refusal(write_npz(tmp_path / "a.npz"), cache, fraction)


def test_a_class_of_one_image_cannot_be_cut(tmp_path: Path, cache: Path) -> None:
    path = write_npz(tmp_path / "a.npz", counts=(5, 1), classes=np.array(["cat", "yak"]))
    message = refusal(path, cache)
    assert "'yak' has one training image" in message
    assert str(path) in message


def test_mean_and_std_are_those_of_the_training_split_per_channel(tmp_path: Path, cache: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (24, 5, 4, 3), dtype=np.uint8) // np.array([1, 2, 5], np.uint8)
    found = load(write_npz(tmp_path / "a.npz", x_train=rgb, x_test=None, y_test=None), cache)
    pixels = found.train.images.numpy().reshape(-1, 3) / 255
    assert found.mean == pytest.approx(pixels.mean(axis=0), abs=1e-12)
    assert found.std == pytest.approx(pixels.std(axis=0), abs=1e-12)


def test_a_constant_channel_has_std_1(tmp_path: Path, cache: Path) -> None:
    found = load(write_npz(tmp_path / "a.npz", x_train=np.full_like(IMAGES, 51)), cache)
    assert found.mean == pytest.approx((0.2,))
    assert found.std == (1.0,)


def test_the_fingerprint_depends_on_the_content_alone(tmp_path: Path, cache: Path) -> None:
    found = load(write_npz(tmp_path / "a.npz"), cache).fingerprint
    assert len(bytes.fromhex(found)) == 16
    assert load(write_npz(tmp_path / "b.npz"), cache, val_fraction=0.5, seed=7).fingerprint == found
    channel_and_column = {"x_train": IMAGES[..., None], "y_train": LABELS[:, None].astype(np.int8)}
    assert load(write_npz(tmp_path / "c.npz", **channel_and_column), cache).fingerprint == found


def test_the_fingerprint_changes_with_any_part_of_the_content(tmp_path: Path, cache: Path) -> None:
    pixel, label = IMAGES.copy(), LABELS.copy()
    pixel[-1, -1, -1] += 1
    label[[0, 1]] = label[[1, 0]] if label[0] != label[1] else (label[0] + 1) % 3
    test = {"x_test": IMAGES[:6], "y_test": LABELS[:6]}
    variants: list[Arrays] = [
        {},
        {"x_train": pixel},
        {"y_train": label},
        test,
        {"x_test": None, "y_test": None},
        {"x_val": test["x_test"], "y_val": test["y_test"]},
        {"x_val": test["x_test"], "y_val": test["y_test"], "x_test": None, "y_test": None},
        {"x_train": IMAGES.reshape(24, 4, 5), "x_test": None, "y_test": None},
        {"classes": np.array(["a", "b", "c"])},
        {"classes": np.array(["a", "b", "d"])},
    ]
    found = [load(write_npz(tmp_path / "a.npz", **changes), cache).fingerprint for changes in variants]
    assert len(set(found)) == len(variants)


def test_data_move_to_a_device(tmp_path: Path, cache: Path) -> None:
    moved = load(write_npz(tmp_path / "a.npz"), cache).to("meta")
    tensors = [moved.train.images, moved.train.labels, moved.val.images, moved.val.labels]
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 4


# --------------------------------------------------------------------------------------------------- digits


def test_digits_are_32x32_grey_images_that_use_the_whole_range(cache: Path) -> None:
    found = load("digits", cache)
    assert (found.name, found.in_channels, found.size, found.num_classes) == ("digits", 1, (32, 32), 10)
    assert found.has_test
    assert (int(found.train.images.min()), int(found.train.images.max())) == (0, 255)
    assert not cache.exists()


def test_digits_are_the_published_ones_enlarged(cache: Path) -> None:
    from sklearn.datasets import load_digits

    found, test = load("digits", cache), load_test("digits", cache=cache)
    assert test is not None
    splits = (found.train, found.val, test)
    assert sum(len(split) for split in splits) == 1797
    # The 4x4 pixels that one source pixel became have nearly its value for their mean.
    small = torch.cat([s.images[..., 0].double().unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2)) for s in splits])
    labels = torch.cat([split.labels for split in splits])
    published = load_digits()
    original = torch.from_numpy(published.images)
    expected = torch.from_numpy(published.target)
    distances = torch.cdist(small.flatten(1), original.flatten(1) * 255 / 16)
    nearest = distances.argmin(dim=1)
    assert len(set(nearest.tolist())) > 1790  # every image is there; a few of them resemble one another
    assert (labels == expected[nearest]).double().mean() > 0.999


def test_the_digits_test_split_is_stratified_and_does_not_move(cache: Path) -> None:
    test = load_test("digits", cache=cache)
    assert test is not None
    assert test.images.shape == (360, 32, 32, 1)
    assert test.labels.bincount().tolist() == [36] * 10
    # Recorded: a change here changes what every reported digits result means.
    assert hashlib.md5(test.images.numpy().tobytes()).hexdigest() == "9cc201991489cb9002f49e335775e83f"
    known = {image.numpy().tobytes() for image in test.images}
    for seed in (0, 1):
        found = load("digits", cache, seed=seed)
        assert not known & {image.numpy().tobytes() for image in (*found.train.images, *found.val.images)}


# --------------------------------------------------------------------------------------- CIFAR, over loopback


def pickled_by_an_old_numpy(content: Arrays) -> bytes:
    """A pickle as those of the published archive are: dtypes with 0 and 1 for flags, and the module's old name."""
    new = pickle.dumps(content, protocol=2)
    flags, module = (b"\x89\x88\x87", b"K\x00K\x01\x87"), (b"numpy._core", b"numpy.core")
    assert flags[0] in new
    assert module[0] in new
    return new.replace(*flags).replace(*module)


CIFAR_LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
CIFAR_PIXELS = np.random.default_rng(0).integers(0, 256, (18, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A server with a CIFAR-like archive of 12 training and 6 test images, and torchvision told to use it."""
    monkeypatch.setenv("no_proxy", "*")
    flat = CIFAR_PIXELS.reshape(18, -1)
    files = {
        "data_batch_1": pickled_by_an_old_numpy({"data": flat[:6], "labels": CIFAR_LABELS[:6]}),
        "data_batch_2": pickled_by_an_old_numpy({"data": flat[6:12], "labels": CIFAR_LABELS[6:]}),
        "test_batch": pickled_by_an_old_numpy({"data": flat[12:], "labels": CIFAR_LABELS[:6]}),
        "batches.meta": pickle.dumps({"label_names": ["plane", "ship", "truck"]}, protocol=2),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}

    home = Home()
    home.archive = buffer.getvalue()
    tiny = type(
        "Tiny",
        (datasets.CIFAR10,),
        {
            "url": home.url,
            "tgz_md5": hashlib.md5(home.archive).hexdigest(),
            "train_list": [[name, md5[name]] for name in ("data_batch_1", "data_batch_2")],
            "test_list": [["test_batch", md5["test_batch"]]],
            "meta": {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]},
        },
    )
    monkeypatch.setattr(datasets, "CIFAR10", tiny)
    yield home
    home.stop()


def assert_is_tiny_cifar(cache: Path) -> None:
    found, test = load("cifar10", cache), load_test("cifar10", cache=cache)
    assert (found.name, found.classes, found.has_test) == ("cifar10", ("plane", "ship", "truck"), True)
    assert (len(found.train), len(found.val)) == (9, 3)
    published = CIFAR_PIXELS.transpose(0, 2, 3, 1)
    expected = dict(zip((image.tobytes() for image in published[:12]), CIFAR_LABELS, strict=True))
    for split in (found.train, found.val):
        for image, label in zip(split.images, split.labels.tolist(), strict=True):
            assert expected.pop(image.contiguous().numpy().tobytes()) == label
    assert not expected
    assert test is not None
    assert np.array_equal(test.images.numpy(), published[12:])
    assert test.labels.tolist() == CIFAR_LABELS[:6]


def test_cifar_is_downloaded_once_and_later_read_from_one_file(
    home: Home, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_is_tiny_cifar(cache)
    assert home.requests == 1
    assert [path.name for path in cache.iterdir()] == ["cifar10.npz"]
    home.stop()
    assert_is_tiny_cifar(cache)
    assert capfd.readouterr() == ("", "")


def test_the_download_tells_its_progress(home: Home, cache: Path) -> None:
    told: list[tuple[str, int, int]] = []
    load_training("cifar10", val_fraction=0.5, seed=0, cache=cache, progress=lambda *args: told.append(args))
    size = len(home.archive)
    assert told[-1] == ("downloading cifar-10-python.tar.gz", size, size)


@pytest.mark.parametrize("behaviour", ["cut", "missing", "stall", "changed"])
def test_a_failed_download_leaves_nothing_and_says_where_to_put_the_file(
    home: Home, cache: Path, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, home.behaviour = home.archive, behaviour
    if behaviour == "changed":
        home.behaviour, home.archive = "whole", whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]
    monkeypatch.setattr(downloads, "_TIMEOUT_S", 0.3)
    message = refusal("cifar10", cache)
    assert f"put cifar-10-python.tar.gz into {cache}" in message
    assert {"cut": "md5", "missing": "404", "stall": "timed out", "changed": "md5"}[behaviour] in message
    assert list(cache.iterdir()) == []
    home.behaviour, home.archive = "whole", whole
    assert_is_tiny_cifar(cache)


def test_without_a_network_the_message_says_where_to_put_the_file(home: Home, cache: Path) -> None:
    home.stop()
    message = refusal("cifar10", cache)
    assert "cannot download cifar10" in message
    assert f"put cifar-10-python.tar.gz into {cache}" in message
    assert list(cache.iterdir()) == []


def test_an_archive_in_the_cache_is_used_instead_of_a_download(home: Home, cache: Path) -> None:
    cache.mkdir()
    (cache / "cifar-10-python.tar.gz").write_bytes(home.archive)
    assert_is_tiny_cifar(cache)
    assert home.requests == 0
    assert {path.name for path in cache.iterdir()} == {"cifar10.npz", "cifar-10-python.tar.gz"}


def test_a_wrong_archive_in_the_cache_is_refused_and_left_to_its_owner(home: Home, cache: Path) -> None:
    cache.mkdir()
    archive = cache / "cifar-10-python.tar.gz"
    archive.write_bytes(home.archive[:-1])
    message = refusal("cifar10", cache)
    assert str(archive) in message
    assert "delete it" in message
    assert home.requests == 0
    assert list(cache.iterdir()) == [archive]


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import pathlib; pathlib.Path('owned').touch()",)


def test_an_archive_made_to_run_code_is_refused_though_its_checksum_is_right(
    home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        content = pickle.dumps({"data": Malicious(), "labels": CIFAR_LABELS[:6]}, protocol=2)
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    home.archive = buffer.getvalue()
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(home.archive).hexdigest())
    assert "holds more than arrays (" in refusal("cifar10", cache)
    assert not Path("owned").exists()
    assert list(cache.iterdir()) == []


def test_what_a_killed_download_leaves_does_not_count(home: Home, cache: Path) -> None:
    home.behaviour = "stall"
    program = (
        "import sys; from pathlib import Path; from torchvision import datasets; from train_core.data import load_test;"
        "datasets.CIFAR10.url = sys.argv[1]; load_test('cifar10', fingerprint='', cache=Path(sys.argv[2]))"
    )
    with subprocess.Popen([sys.executable, "-c", program, home.url, str(cache)]) as process:
        assert home.half_sent.wait(60)
        process.kill()
    assert list(cache.iterdir()) != []  # it was killed in the middle
    assert not (cache / "cifar10.npz").exists()
    home.release.set()
    home.behaviour = "whole"
    assert_is_tiny_cifar(cache)


def test_what_was_left_more_than_a_day_ago_is_swept_up(home: Home, cache: Path) -> None:
    yesterday = time.time() - 25 * 3600
    for name in (".partial-dead", ".partial-at-work", ".partial-new"):
        (cache / name / "cifar").mkdir(parents=True)
        (cache / name / "cifar" / "archive").write_bytes(b"half")
    for name in (".cifar10.npz.dead", ".cifar10.npz.new", "mine", ".cifar100.npz"):
        (cache / name).write_bytes(b"half")
    dead = [*(cache / ".partial-dead").rglob("*"), cache / ".partial-dead", cache / ".cifar10.npz.dead"]
    for path in (*dead, cache / ".partial-at-work", cache / "mine", cache / ".cifar100.npz"):
        os.utime(path, (yesterday, yesterday))
    assert_is_tiny_cifar(cache)
    kept = {".partial-at-work", ".partial-new", ".cifar10.npz.new", "mine", ".cifar100.npz"}
    assert {path.name for path in cache.iterdir()} == kept | {"cifar10.npz"}
    assert (cache / ".partial-at-work" / "cifar" / "archive").read_bytes() == b"half"


def test_a_damaged_cache_file_is_to_be_deleted(home: Home, cache: Path) -> None:
    load("cifar10", cache)
    cached = cache / "cifar10.npz"
    cached.write_bytes(cached.read_bytes()[:5000])
    message = refusal("cifar10", cache)
    assert str(cached) in message
    assert "delete it" in message
    cached.unlink()
    assert_is_tiny_cifar(cache)


# ------------------------------------------------------------------------------------------ a folder of images


def image(value: int | tuple[int, ...], mode: str = "L", size: tuple[int, int] = (4, 5)) -> Image.Image:
    return Image.new(mode, size, value)


def write_images(root: Path, **files: Image.Image) -> Path:
    """Write `split__class__name=image` as root/split/class/name.png."""
    for key, picture in files.items():
        path = root / (key.replace("__", "/") + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return root


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Four training images: owls of value 10 and 11, yaks of value 20 and 21."""
    return write_images(
        tmp_path / "my pets",
        train__yak__a=image(20),
        train__yak__b=image(21),
        train__owl__b=image(11),
        train__owl__a=image(10),
    )


def by_value(found: TrainingData) -> dict[int, str]:
    """The class of the image of each value, of both splits."""
    return {
        value: found.classes[label]
        for split in (found.train, found.val)
        for value, label in zip(first_pixels(split.images), split.labels.tolist(), strict=True)
    }


def test_a_folder_of_grey_images_is_read(pets: Path, cache: Path) -> None:
    found = load(pets, cache)
    assert (found.name, found.classes, found.in_channels, found.size) == ("my pets", ("owl", "yak"), 1, (5, 4))
    assert by_value(found) == {10: "owl", 11: "owl", 20: "yak", 21: "yak"}
    assert (len(found.train), len(found.val), found.has_test) == (2, 2, False)
    assert load_test(str(pets), cache=cache) is None


def test_validation_and_test_folders_are_used(pets: Path, cache: Path) -> None:
    write_images(pets, val__yak__a=image(120), test__owl__z=image(210), test__yak__y=image(220))
    found, test = load(pets, cache), load_test(str(pets), cache=cache)
    assert first_pixels(found.train.images) == [10, 11, 20, 21]
    assert (first_pixels(found.val.images), found.val.labels.tolist()) == ([120], [1])
    assert test is not None
    assert (first_pixels(test.images), test.labels.tolist()) == ([210, 220], [0, 1])
    assert (found.val.files, test.files) == (("val/yak/a.png",), ("test/owl/z.png", "test/yak/y.png"))


def test_images_keep_their_files_whatever_is_cut(pets: Path, cache: Path) -> None:
    def files() -> dict[int, str]:
        found = load(pets, cache)
        splits = (found.train, found.val, found.with_validation_in_training().train)
        return {n: file for s in splits for n, file in zip(first_pixels(s.images), s.files, strict=True)}

    expected = {10: "owl/a.png", 11: "owl/b.png", 20: "yak/a.png", 21: "yak/b.png"}
    assert files() == {value: f"train/{file}" for value, file in expected.items()}
    assert files() == {value: f"train/{file}" for value, file in expected.items()}  # now from the cache


def test_every_usual_format_is_read_whatever_the_case_of_its_name(pets: Path, cache: Path) -> None:
    for suffix in ("JPG", "jpeg", "bmp", "WebP", "gif", "tif", "TIFF", "ppm", "pgm"):
        mode = "RGB" if suffix == "ppm" else "L"
        image(77 if mode == "L" else (77, 77, 77), mode).save(pets / "train" / "owl" / f"c.{suffix}")
    found = load(pets, cache)
    images = torch.cat([found.train.images, found.val.images])
    assert images.shape == (13, 5, 4, 3)
    assert ((images.int() - 77).abs() <= 2).all(dim=(1, 2, 3)).sum() == 9


def test_hidden_files_and_other_files_are_left_out(pets: Path, cache: Path) -> None:
    image(99).save(pets / "train" / "owl" / ".hidden.png")
    (pets / "train" / "owl" / "notes.txt").write_text("no image")
    (pets / "train" / "README").write_text("no class")
    (pets / "train" / ".thumbnails").mkdir()
    assert set(by_value(load(pets, cache))) == {10, 11, 20, 21}


def test_one_colour_image_makes_all_rgb(pets: Path, cache: Path) -> None:
    write_images(pets, test__owl__c=image((1, 2, 3), "RGB"))
    found, test = load(pets, cache), load_test(str(pets), cache=cache)
    assert found.in_channels == 3
    assert sorted(found.train.images[:, 4, 3].tolist() + found.val.images[:, 4, 3].tolist()) == [
        [value] * 3 for value in (10, 11, 20, 21)
    ]
    assert test is not None
    assert test.images[0, 4, 3].tolist() == [1, 2, 3]


def transparent_palette() -> Image.Image:
    palette = image((200, 10, 20), "RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    palette.info["transparency"] = bytes([128, 128])  # one or more half transparent colours: of these Pillow warns
    return palette


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (image((200, 10, 20), "RGB"), [200, 10, 20]),
        (image((200, 10, 20, 255), "RGBA"), [200, 10, 20]),
        (image((200, 10, 20, 0), "RGBA"), [255, 255, 255]),
        (transparent_palette(), [227, 132, 137]),
        (image((90, 0), "LA"), [255]),
        (image(1, "1"), [255]),
        (image(0x5A80, "I;16"), [0xB5]),
        (image(0x5A, "I;16"), [0x5A]),
        (image(0xFFFF, "I;16"), [255]),
    ],
)
def test_modes_become_grey_or_rgb(tmp_path: Path, cache: Path, picture: Image.Image, expected: list[int]) -> None:
    write_images(tmp_path / "a", **{f"train__{name}": picture for name in ("cat__a", "cat__b", "yak__a", "yak__b")})
    found = load(tmp_path / "a", cache)
    assert found.train.images.shape == (2, 5, 4, len(expected))
    assert (found.train.images == torch.tensor(expected, dtype=torch.uint8)).all()


def test_photographs_are_turned_upright(pets: Path, cache: Path) -> None:
    turned = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    turned.save(pets / "train" / "owl" / "c.png", exif=exif)
    found = load(pets, cache)
    images = torch.cat([found.train.images, found.val.images])[..., 0]
    upright = torch.from_numpy(np.rot90(np.arange(20).reshape(4, 5), -1).copy())
    assert any(torch.equal(each, upright.to(torch.uint8)) for each in images)


def test_a_folder_is_read_once_and_a_changed_one_anew(pets: Path, cache: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def values() -> set[int]:
        told.clear()
        source = str(pets)
        found = load_training(source, val_fraction=0.5, seed=0, cache=cache, progress=lambda *args: told.append(args))
        return set(by_value(found))

    assert values() == {10, 11, 20, 21}
    assert told == [(what, n, 4) for what in ("looking at images", "reading images") for n in (1, 2, 3, 4)]
    assert [path.name.startswith("my pets-") for path in cache.iterdir()] == [True]
    assert values() == {10, 11, 20, 21}
    assert told == []
    write_images(pets, train__owl__c=image(12))
    assert values() == {10, 11, 12, 20, 21}
    assert told[-1] == ("reading images", 5, 5)


def test_a_file_changed_in_place_is_read_anew(pets: Path, cache: Path) -> None:
    file = pets / "train" / "owl" / "a.png"
    load(pets, cache)
    size = file.stat().st_size
    image(30).save(file)
    assert file.stat().st_size == size
    os.utime(file, ns=(1, 1))
    assert set(by_value(load(pets, cache))) == {30, 11, 20, 21}


def test_folders_of_one_name_do_not_share_a_cache_file(tmp_path: Path, cache: Path) -> None:
    for place, values in (("a", (1, 2, 3, 4)), ("b", (5, 6, 7, 8))):
        root = tmp_path / place / "pets"
        names = ("cat__a", "cat__b", "yak__a", "yak__b")
        write_images(root, **{f"train__{name}": image(value) for name, value in zip(names, values, strict=True)})
        for file in root.rglob("*.png"):
            os.utime(file, ns=(0, 0))  # as some archives unpack
        assert set(by_value(load(root, cache))) == set(values)


def test_a_damaged_cache_of_a_folder_is_to_be_deleted(pets: Path, cache: Path) -> None:
    load(pets, cache)
    [cached] = cache.iterdir()
    cached.write_bytes(cached.read_bytes()[:100])
    message = refusal(pets, cache)
    assert str(cached) in message
    assert "delete it" in message


def test_a_corrupt_image_is_named(pets: Path, cache: Path) -> None:
    file = pets / "train" / "yak" / "b.png"
    file.write_bytes(file.read_bytes()[:45])
    assert "cannot read the image train/yak/b.png" in refusal(pets, cache)
    file.write_text("no image")
    assert "cannot read the image train/yak/b.png" in refusal(pets, cache)
    assert list(cache.iterdir()) == []


def test_floating_point_images_are_refused(pets: Path, cache: Path) -> None:
    Image.new("F", (4, 5), 0.5).save(pets / "train" / "yak" / "c.tif")
    assert "floating-point" in refusal(pets, cache)


def test_an_image_that_claims_to_be_huge_is_refused(pets: Path, cache: Path) -> None:
    huge = bytearray((pets / "train" / "yak" / "b.png").read_bytes())
    huge[16:24] = struct.pack(">II", 60000, 60000)
    (pets / "train" / "yak" / "c.png").write_bytes(huge)
    assert "yak/c.png" in refusal(pets, cache)


def test_a_link_to_nowhere_is_refused(pets: Path, cache: Path) -> None:
    (pets / "train" / "yak" / "c.png").symlink_to(pets / "gone.png")
    assert "c.png" in refusal(pets, cache)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "holds no images in folders: put them into train/<class>/"),
        (["test/a"], "holds no images"),
        (["train"], "train holds no images"),
        (["train/a", "train/b"], "train/a holds no images"),
    ],
)
def test_a_folder_without_images_is_refused(tmp_path: Path, cache: Path, folders: list[str], message: str) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    for folder in folders:
        (root / folder).mkdir(parents=True)
    assert message in refusal(root, cache)


def test_an_empty_class_is_refused(pets: Path, cache: Path) -> None:
    (pets / "train" / "cat").mkdir()
    assert f"{pets / 'train' / 'cat'} holds no images" in refusal(pets, cache)


def test_a_folder_with_one_class_is_refused(tmp_path: Path, cache: Path) -> None:
    assert "one class only" in refusal(write_images(tmp_path / "a", train__cat__a=image(1)), cache)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_train_lacks_is_refused(pets: Path, cache: Path, split: str) -> None:
    write_images(pets, **{f"{split}__dodo__a": image(1)})
    message = refusal(pets, cache)
    assert f"{pets / split} has the class 'dodo', which train has not" in message


# ------------------------------------------------------------------------------------- names, and the cache folder


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("cifar-10", "did you mean cifar10?"),
        ("CIFAR100", "did you mean cifar100?"),
        ("digit", "did you mean digits?"),
        ("imagenet", "the names are cifar10, cifar100, digits"),
        ("", "the names are"),
        ("two\nlines", "the names are"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(cache: Path, source: str, expected: str) -> None:
    message = refusal(source, cache)
    assert expected in message
    assert "there is no folder of images or .npz file of that name" in message


def test_a_missing_npz_is_named(tmp_path: Path, cache: Path) -> None:
    assert f"there is no file {tmp_path / 'none.npz'}" in refusal(tmp_path / "none.npz", cache)


@pytest.mark.parametrize("source", ["x" * 5000, "~nobody-has-this-name/images"])
def test_a_path_that_cannot_be_looked_up_is_refused(cache: Path, source: str) -> None:
    assert "check the path" in refusal(source, cache)


@pytest.mark.parametrize("source", ["cifar10", "folder"])
def test_a_cache_folder_that_cannot_be_made_is_refused(home: Home, pets: Path, tmp_path: Path, source: str) -> None:
    (tmp_path / "file").write_text("in the way")
    message = refusal(pets if source == "folder" else source, tmp_path / "file" / "cache")
    assert str(tmp_path / "file" / "cache") in message
    assert "SEARCH_CACHE" in message
    assert home.requests == 0


def test_a_full_disk_leaves_nothing(pets: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def savez(file: io.BufferedWriter, **arrays: object) -> None:
        file.write(b"the first bytes")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", savez)
        message = refusal(pets, cache)
    assert os.strerror(errno.ENOSPC) in message
    assert "SEARCH_CACHE" in message
    assert list(cache.iterdir()) == []
    assert set(by_value(load(pets, cache))) == {10, 11, 20, 21}


def test_the_default_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SEARCH_CACHE", raising=False)
    assert default_cache() == tmp_path / "home" / ".cache" / "search"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "search"
    monkeypatch.setenv("SEARCH_CACHE", "~/mine")
    assert default_cache() == tmp_path / "home" / "mine"


def test_importing_the_module_imports_neither_torchvision_nor_sklearn() -> None:
    program = "import sys, train_core.data; print(*{'torchvision', 'sklearn', 'PIL'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_a_test_split_is_held_out_of_images_that_bring_none_the_same_for_every_seed(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), [40, 20, 2])
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)  # each is its number
    source, cache = str(tmp_path / "numbers.npz"), tmp_path / "cache"
    np.savez(source, x_train=images, y_train=labels)
    known = None
    for seed in (0, 1):
        found = data.load_training(source, val_fraction=0.2, test_fraction=0.15, seed=seed, cache=cache)
        test = data.load_test(source, fingerprint=found.fingerprint, test_fraction=0.15, cache=cache)
        assert test is not None
        assert found.has_test
        assert found.held_out == len(test) == 6 + 3
        assert test.labels.bincount(minlength=3).tolist() == [6, 3, 0]  # the class of two trains and validates
        splits = [set(split.images[:, 0, 0, 0].tolist()) for split in (found.train, found.val, test)]
        assert sum(map(len, splits)) == len(set.union(*splits)) == len(labels)
        assert known in (None, splits[2])
        known = splits[2]
    whole = data.load_training(source, val_fraction=0.2, seed=0, cache=cache)
    assert (whole.has_test, whole.held_out) == (False, 0)
    assert data.load_test(source, fingerprint=whole.fingerprint, cache=cache) is None


def test_a_test_split_that_the_source_brings_is_used_as_it_is(tmp_path: Path) -> None:
    found = data.load_training("digits", val_fraction=0.2, test_fraction=0.5, seed=0, cache=tmp_path)
    assert (found.has_test, found.held_out) == (True, 0)
    np.savez(tmp_path / "a.npz", x_train=np.zeros((4, 2, 2), np.uint8), y_train=np.array([0, 0, 1, 1]))
    with pytest.raises(DataError, match="the test split cannot be 2"):
        data.load_training(str(tmp_path / "a.npz"), val_fraction=0.2, test_fraction=2.0, seed=0, cache=tmp_path)
