from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train_core.images import decode, fitted


def test_a_photo_taken_sideways_is_read_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (6, 4)).save("photo.jpg", exif=exif)
    assert decode(Path("photo.jpg")).shape == (6, 4, 3)


@pytest.mark.parametrize(("channels", "value"), [(1, [76]), (3, [255, 0, 0])])
def test_colours_become_what_the_network_takes(channels: int, value: list[int]) -> None:
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    assert fitted(red, channels, 8, 8).tolist() == np.full((8, 8, channels), value).tolist()


def test_grey_becomes_three_equal_channels() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(fitted(grey, 3, 8, 8), np.stack([grey] * 3, axis=2))


def test_another_size_is_shrunk_without_aliasing() -> None:
    checks = np.indices((64, 96)).sum(0).astype(np.uint8) % 2 * 255
    small = fitted(checks, 1, 8, 12)
    assert small.shape == (8, 12, 1)
    assert abs(small.astype(float) - 127.5).max() < 4
