"""The ways to mix the images of a batch: one record each, with everything that the rest of the code needs to know.

Imports no torch. To add a way, name it in `MixName`, give it a record here, and write its function in
`train_core/mixing.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from train_core.tables import table

if TYPE_CHECKING:
    from train_core.mixing import MixFunction

MixName = Literal["none", "mixup", "cutmix", "ricap"]


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A way to mix images. Its shares are drawn from the beta distribution Beta(alpha, alpha)."""

    description: str  # with its source, for the page of all keys
    alpha: float  # as in its paper
    function: str  # the name of its function in `train_core.mixing`
    parts: int  # number of images in each mixed image
    needs_area: bool = False  # it cuts images, so an image must be higher and wider than one pixel

    def build(self) -> MixFunction:
        """Its function, which draws and mixes."""
        from train_core import mixing

        function: MixFunction = getattr(mixing, self.function)
        return function


MIXES: dict[MixName, Mix] = table(
    "mix",
    MixName,
    {
        "none": Mix(description="single images", alpha=1.0, function="no_mix", parts=1),
        "mixup": Mix(
            description="weighted sums of two images (Zhang et al. 2018, arXiv:1710.09412)",
            alpha=1.0,
            function="mixup",
            parts=2,
        ),
        "cutmix": Mix(
            description="a box of another image in each image (Yun et al. 2019, arXiv:1905.04899)",
            alpha=1.0,
            function="cutmix",
            parts=2,
            needs_area=True,
        ),
        "ricap": Mix(
            description="four cropped images around a point (Takahashi et al. 2018, arXiv:1811.09030)",
            alpha=0.3,
            function="ricap",
            parts=4,
            needs_area=True,
        ),
    },
)
