"""How image files become pixels: the user's settings (`Reading`), and what is done to each image (`Preparation`).

Imports no torch.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator

from train_core.specs import Frozen

FitName = Literal["crop", "letterbox", "stretch"]
LARGEST_SIDE = 4096


def parse_size(value: Any) -> Any:
    """A size as a user writes it: `64`, `"64"` (a square), `"96x64"` (width x height) or `auto`; else the value."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, str):
        if value.strip().lower() == "auto":
            return None
        if match := re.fullmatch(r"(\d+)(?:\s*x\s*(\d+))?", value.strip().lower()):
            width, height = match.groups()
            return (int(width), int(height or width))
        raise ValueError(f"{value!r} is no size: give one as in 64 or 96x64 (width x height), or auto")
    return value


Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Size = Annotated[tuple[Side, Side] | None, BeforeValidator(parse_size)]


class Reading(Frozen):
    """How image files are read: to which size, and how images of other shapes are fitted."""

    size: Size = Field(
        default=None,
        description="width and height that all images are brought to, as in 64 or 96x64; auto: chosen from the images",
    )
    fit: FitName = Field(
        default="crop",
        description="how an image of another shape is brought to the size. crop: its middle; letterbox: all of it, "
        "with bars; stretch: all of it, distorted",
    )
    background: str = Field(
        default="white", description="colour behind transparent images and of the bars, by name or as in #ff8800"
    )
    group: str = Field(
        default="",
        description="column (of a table of images) or array (of a .npz file) that says which images belong together; "
        "no group stands on both sides of a split",
    )
    skip_broken: bool = Field(default=False, description="leave out image files that cannot be read")

    @field_validator("background")
    @classmethod
    def _is_a_colour(cls, name: str) -> str:
        rgb(name)
        return name


class Preparation(Frozen):
    """What is done to each image: in training, in `search predict`, and in the example of a model's card."""

    width: int
    height: int
    fit: FitName = "stretch"
    background: str = "white"
    bits: int = Field(default=16, ge=8, le=16, description="that images of more than 8 bits for each value use")

    @classmethod
    def of_arrays(cls, size: tuple[int, int]) -> Self:
        """The preparation for data without image files; `size` is height and width."""
        return cls(width=size[1], height=size[0])


def rgb(name: str) -> tuple[int, int, int]:
    """The colour of this name.

    Raises:
        ValueError: there is none.

    """
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise ValueError(f"{name!r} is no colour: give one as in white or #ff8800") from None
