"""One image file: it is read the same way wherever it is read."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from train_core.description import Description
from train_core.formats import example
from train_core.images import FITS, decode, highest_value, read_header, why, with_channels
from train_core.reading import FitName, Preparation, Reading
from train_core.specs import ResNetSpec

PLAIN = Preparation(width=6, height=4)


def lies_on_its_side(path: Path, picture: Image.Image) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(path, exif=exif)
    return path


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    down, right = np.indices((height, width))
    colours = np.stack([right * 255 / width, down * 255 / height, 0 * down], axis=2)
    return Image.fromarray(colours.astype(np.uint8))


def test_a_photo_taken_sideways_is_read_upright() -> None:
    path = lies_on_its_side(Path("photo.jpg"), Image.new("RGB", (6, 4)))
    header = read_header(path)
    assert (header.width, header.height, header.deep) == (4, 6, False)
    assert decode(path, Preparation(width=4, height=6)).shape == (6, 4, 3)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_image_of_the_right_size_is_left_alone(fit: FitName, mode: str) -> None:
    picture = gradient(6, 4).convert(mode)
    picture.save("a.png")
    assert np.array_equal(decode(Path("a.png"), PLAIN.model_copy(update={"fit": fit})), np.asarray(picture))


def test_a_crop_is_the_middle_a_letterbox_has_bars_and_a_stretch_is_distorted() -> None:
    gradient(300, 100).save("wide.png")
    square = Preparation(width=20, height=20)
    made = {fit: decode(Path("wide.png"), square.model_copy(update={"fit": fit})) for fit in FITS}
    reds = {fit: each[10, :, 0].tolist() for fit, each in made.items()}
    assert 80 < reds["crop"][0] < reds["crop"][-1] < 175  # the middle third
    assert reds["stretch"][0] < 15
    assert reds["stretch"][-1] > 240
    assert (made["letterbox"][:6] == 255).all()
    assert (made["letterbox"][-6:] == 255).all()
    assert reds["letterbox"][0] < 15
    assert reds["letterbox"][-1] > 240
    orange = square.model_copy(update={"fit": "letterbox", "background": "#ff8800"})
    assert decode(Path("wide.png"), orange)[0, 0].tolist() == [255, 136, 0]
    Image.new("L", (30, 10)).save("grey.png")
    assert decode(Path("grey.png"), orange)[0, 0].tolist() == [255, 136, 0]


def test_a_large_jpeg_is_decoded_small_and_looks_the_same() -> None:
    gradient(1600, 1200).save("large.jpg", quality=95)
    small = decode(Path("large.jpg"), Preparation(width=32, height=24))
    exact = np.asarray(ImageOps.fit(gradient(1600, 1200), (32, 24)))
    assert np.abs(small.astype(int) - exact.astype(int)).max() <= 3


@pytest.mark.parametrize(("channels", "value"), [(1, [76]), (3, [255, 0, 0])])
def test_colours_become_what_the_network_takes(channels: int, value: list[int]) -> None:
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    assert with_channels(red, channels).tolist() == np.full((8, 8, channels), value).tolist()


def test_grey_becomes_three_equal_channels() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(with_channels(grey, 3), np.stack([grey] * 3, axis=2))


def test_another_size_is_shrunk_without_aliasing() -> None:
    checks = np.indices((64, 96)).sum(0).astype(np.uint8) % 2 * 255
    Image.fromarray(checks).save("checks.png")
    small = decode(Path("checks.png"), Preparation(width=12, height=8))
    assert small.shape == (8, 12)
    assert abs(small.astype(float) - 127.5).max() < 4


@pytest.mark.parametrize(("bits", "expected"), [(8, [0, 255, 255]), (12, [0, 16, 255]), (16, [0, 1, 255])])
def test_sixteen_bits_keep_what_they_hold(bits: int, expected: list[int]) -> None:
    values = np.array([[0, 257, 65535]], np.uint16)
    Image.fromarray(values).save("deep.png")
    assert read_header(Path("deep.png")).deep
    assert highest_value(Path("deep.png")) == 65535
    made = decode(Path("deep.png"), Preparation(width=3, height=1, bits=bits))
    assert made.tolist() == [expected]


def test_why_an_image_cannot_be_read_is_said_in_a_few_words() -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save("whole.png")
    huge = bytearray(Path("whole.png").read_bytes())
    huge[16:24] = struct.pack(">II", 60000, 60000)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    Path("huge.png").write_bytes(huge)
    Path("half.png").write_bytes(Path("whole.png").read_bytes()[:2000])
    Path("text.png").write_text("hello")
    Path("empty.png").touch()
    Image.new("F", (4, 4)).save("float.tif")
    reasons = {}
    for name in ("huge.png", "half.png", "text.png", "empty.png", "float.tif", "none.png"):
        with pytest.raises((OSError, ValueError, Image.DecompressionBombError)) as caught:
            decode(Path(name), PLAIN)
        reasons[name] = why(caught.value)
    assert reasons == {
        "huge.png": "3,600 megapixels, more than Pillow reads safely",
        "half.png": "truncated",
        "text.png": "not an image, or of a format that Pillow does not know",
        "empty.png": "the file is empty",
        "float.tif": "floating-point pixels",
        "none.png": "No such file or directory",
    }


@pytest.mark.parametrize(
    ("given", "size"), [(64, (64, 64)), ("64", (64, 64)), ("96x64", (96, 64)), ("96 X 64", (96, 64)), ("auto", None)]
)
def test_a_size_is_read_as_people_write_it(given: object, size: tuple[int, int] | None) -> None:
    assert Reading.model_validate({"size": given}).size == size


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "large"}, "give one as in 64 or 96x64"),
        ({"size": 0}, "greater than or equal to 1"),
        ({"background": "blurple"}, "'blurple' is no colour: give one as in white or #ff8800"),
        ({"fit": "squash"}, "'crop', 'letterbox' or 'stretch'"),
    ],
)
def test_what_a_reading_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reading.model_validate(values)


def code_of_the_card(preparation: Preparation, channels: int, image: str) -> str:
    """The lines of a model card's example that read an image, up to `pixels`."""
    about = Description(
        origin="a test",
        network=ResNetSpec(widths=(8, 8), blocks=(1, 1), in_channels=channels, num_classes=2),
        classes=("cat", "dog"),
        height=preparation.height,
        width=preparation.width,
        fit=preparation.fit,
        background=preparation.background,
        bits=preparation.bits,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    code = example("onnx", about, "model.onnx", image)
    return (
        "import numpy as np\nfrom PIL import Image, ImageOps\n"
        + code[code.index("# One image") : code.index("(logits,)")]
    )


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["sideways.jpg", "grey.png", "glass.png", "palette.png", "deep.png"])
def test_the_code_of_a_card_makes_the_same_pixels(fit: FitName, channels: int, name: str) -> None:
    lies_on_its_side(Path("sideways.jpg"), gradient(900, 500))
    gradient(70, 50).convert("L").save("grey.png")
    glass = gradient(70, 50)
    glass.putalpha(Image.fromarray(np.indices((50, 70)).sum(0).astype(np.uint8)))
    glass.save("glass.png")
    gradient(70, 50).quantize(16).save("palette.png", transparency=3)
    Image.fromarray(np.arange(3500, dtype=np.uint16).reshape(50, 70)).save("deep.png")
    preparation = Preparation(width=32, height=24, fit=fit, background="white", bits=12)
    names: dict[str, Any] = {}
    exec(code_of_the_card(preparation, channels, name), names)
    ours = with_channels(decode(Path(name), preparation), channels).transpose(2, 0, 1)[None]
    assert names["pixels"].shape == ours.shape
    # Transparent grey is made RGB by the card and grey again; a value may be rounded once more.
    assert np.abs(names["pixels"] - ours.astype(np.float32)).max() <= 1
    assert np.abs(names["pixels"] - ours.astype(np.float32)).mean() < 0.1
