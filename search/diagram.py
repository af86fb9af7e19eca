"""Networks and learning curves as pictures, in SVG.

A picture takes the colour of the text around it, so it is as clear on white as on black. It has no ids, classes or
style sheets, so a page can contain any number of pictures. A `standalone` picture, for a file, has its own
background.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap

from search.colours import BLUE, GREEN, ORANGE, PURPLE
from train_core.blocks import BLOCKS
from train_core.specs import (
    BlockShape,
    ResNetSpec,
    block_shapes,
    convolves,
    in_stage,
    madds_by_part,
    num_madds,
    num_params,
    params_by_part,
    sizes_by_part,
)

WIDTH = 480  # of a picture; its text is as large as that of a page, and readable on a phone, at 320
LINE, LETTERS = 19, 38  # of text: the height of a line, and how many letters fit into one
WIDEST, HIGHEST, LOWEST = 150, 32, 6  # of a bar, in pixels
TALLEST = 170  # height of all bars of a stage; the bars of very deep stages are drawn thinner

LEGEND = (
    "A bar is a block: as wide as it has channels, and the",
    "higher, the more pixels. Orange: its shortcut convolves.",
)

INK, PAPER = "#1c1e21", "#ffffff"  # of a standalone picture


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The drawing of a part of a network: bars on the left, words on the right."""

    title: str
    lines: Sequence[str]
    colours: Sequence[str]  # one per bar (a bar is a block)
    channels: Sequence[int]  # one per bar
    size: tuple[int, int]  # height and width of its output, in pixels


def diagram(network: ResNetSpec, size: tuple[int, int], *, standalone: bool = False) -> str:
    """The network as an SVG: a bar for each block, with the kinds and the costs beside the bars.

    `size` is the height and width of the images, in pixels.
    """
    parts = list(_parts(network, size))
    most = max(max(part.channels) for part in parts)
    drawn, y = [], 8.0
    for part in parts:
        bars, height = _stacked(part, most, size)
        lines = [line for text in part.lines for line in wrap(text, LETTERS)]
        row = max(height, (len(lines) + 1) * LINE)
        top = y + (row - height) / 2
        drawn += [f'<g transform="translate(0 {top:.1f})">{bars}</g>', _text(172, y + 14, part.title, bold=True)]
        drawn += [_text(172, y + 14 + i * LINE, line, faint=True) for i, line in enumerate(lines, 1)]
        y += row + LINE
    # Behind the bars: a line from the first to the last.
    drawn.insert(
        0, f'<path d="M80 16V{y - 2 * LINE:.1f}" stroke="currentColor" stroke-opacity=".35" stroke-width="2"/>'
    )
    totals = [f"{num_params(network):,} parameters", f"{num_madds(network, size):,} multiply-adds"]
    drawn += [_text(172, y + 14 + i * LINE, line, bold=True) for i, line in enumerate(totals)]
    drawn += [_text(8, y + 24 + i * LINE, line, faint=True) for i, line in enumerate(LEGEND, len(totals))]
    y += (len(totals) + len(LEGEND)) * LINE
    return _picture(f"{network}: {', '.join(totals)}", drawn, y + 24, standalone)


def _parts(network: ResNetSpec, size: tuple[int, int]) -> Iterator[_Part]:
    """The network from the images to the classes."""
    colours = {1: "grey", 3: "RGB"}.get(network.in_channels, f"{network.in_channels} channels")
    yield _Part(
        title=f"Images, {_by(*size)}",
        lines=[colours],
        colours=["currentColor"],
        channels=[network.in_channels],
        size=size,
    )
    costs = [
        (f"{parameters:,} parameters ({100 * parameters / num_params(network):.1f} %)", f"{madds:,} multiply-adds")
        for parameters, madds in zip(params_by_part(network), madds_by_part(network, size), strict=True)
    ]
    sizes = sizes_by_part(network, size)
    norm = ", norm" if network.norm == "batch" else ""
    strided = f", stride {network.stem_stride}" if network.stem_stride != 1 else ""
    after = {"norm-relu": f"{norm}, ReLU", "norm": norm, "none": ""}[network.stem_end]
    lines = [f"{_by(network.stem_kernel, network.stem_kernel)} convolution{strided}{after}"]
    lines += ["3x3 max pool, stride 2"] if network.stem_pool else []
    yield _Part(
        title=_titled("Stem", network.stem_channels, sizes[0]),
        lines=[*lines, *costs[0]],
        colours=[GREEN],
        channels=[network.stem_channels],
        size=sizes[0],
    )
    for i, (stage, stage_size, cost) in enumerate(zip(block_shapes(network), sizes[1:], costs[1:-1], strict=True), 1):
        inputs, width, stride = stage[0]
        here = in_stage(network, i - 1)
        words = f"{len(stage)} {network.block} {'block' if len(stage) == 1 else 'blocks'}: "
        words += ", ".join(map(str, BLOCKS[network.block].convolutions(here, inputs, width)))
        lines = [words + (f", stride {stride}" if stride != 1 else "")]
        lines += [f"squeeze-and-excitation, ratio {network.se_reduction}"] if network.se_reduction else []
        widths = dict.fromkeys((width, stage[-1].width))
        yield _Part(
            title=_titled(f"Stage {i}", " to ".join(map(str, widths)), stage_size),
            lines=[*lines, f"shortcut: {_shortcut(here, stage, first=i == 1)}", *cost],
            colours=[ORANGE if convolves(network, shape) else BLUE for shape in stage],
            channels=[shape.width for shape in stage],
            size=stage_size,
        )
    head = ["norm, ReLU" if norm else "ReLU"] if network.final_norm else []
    head += ["mean over all pixels"] + ([f"dropout {network.head_dropout:g}"] if network.head_dropout else [])
    yield _Part(
        title=f"Head, {network.num_classes} classes",
        lines=[", ".join([*head, "linear"]), *costs[-1]],
        colours=[PURPLE],
        channels=[network.num_classes],
        size=(1, 1),
    )


def _shortcut(network: ResNetSpec, stage: Sequence[BlockShape], *, first: bool) -> str:
    """The shortcut of a stage's first block; blocks that keep the shape use the identity."""
    inputs, width, stride = stage[0]
    activated = "norm and ReLU of the block" if network.norm == "batch" else "ReLU of the block"
    if inputs == width and stride == 1:
        return activated if first and network.shortcut_input == "activated" else "identity"
    if network.shortcut == "none":
        return "none in the first block" if len(stage) > 1 else "none"
    if network.shortcut == "pad":
        steps = ["mean of 2x2 pixels"] if stride != 1 else []
        return ", ".join([*steps, "added channels of zeros" if width >= inputs else "fewer channels"])
    pools = network.shortcut == "max-pool" and stride == 2
    steps = ["max pool"] if pools else []
    steps.append(f"{_by(network.shortcut_kernel, network.shortcut_kernel)} conv")
    steps += [f"stride {stride}"] if stride != 1 and not pools else []
    if network.norm == "batch" and network.shortcut_norm != "none":
        steps.insert(len(steps) if network.shortcut_norm == "after" else 0, "norm")
    if network.shortcut_input == "activated":
        steps.insert(0, activated)
    return ", ".join(steps)


def _stacked(part: _Part, most: int, size: tuple[int, int]) -> tuple[str, float]:
    """The bars of a part, one above the other, and their total height; `most` channels are the widest."""
    height = LOWEST + (HIGHEST - LOWEST) * math.sqrt(math.prod(part.size) / math.prod(size))
    pitch = min(height + 4, TALLEST / len(part.colours))
    bars = []
    for i, (channels, colour) in enumerate(zip(part.channels, part.colours, strict=True)):
        width = max(WIDEST * channels / most, 3)
        bars.append(
            f'<rect x="{5 + (WIDEST - width) / 2:.1f}" width="{width:.1f}" height="{pitch - min(4, pitch / 3):.2f}" '
            f'rx="2" y="{i * pitch:.2f}" fill="{colour}"/>'
        )
    return "".join(bars), pitch * len(bars)


def curve(
    points: Sequence[tuple[int, float]], title: str, measure: str = "validation accuracy", *, standalone: bool = False
) -> str:
    """A learning curve as an SVG: scores (shares of 1) against epochs; `measure` is the name of the score."""
    left, right, top, bottom, height = 50, WIDTH - 16, 56, 270, 316
    values = [(epoch, 100 * share) for epoch, share in points]
    first, last = min(epoch for epoch, _ in values), max(epoch for epoch, _ in values)
    ticks = _ticks(min(value for _, value in values), max(value for _, value in values))
    low, high = ticks[0], ticks[-1]

    def place(epoch: float, value: float) -> tuple[float, float]:
        along = (epoch - first) / (last - first) if last > first else 0.5
        return left + along * (right - left), bottom - (value - low) / (high - low) * (bottom - top)

    drawn = [_text(8, 18, title, bold=True), _text(8, 42, f"{measure.capitalize()} (%)", faint=True)]
    for value in ticks:
        _, y = place(first, value)
        drawn.append(f'<path d="M{left} {y:.1f}H{right}" stroke="currentColor" stroke-opacity=".2"/>')
        drawn.append(_text(left - 8, y + 5, f"{value:g}", faint=True, anchor="end"))
    epochs = (epoch for epoch in _ticks(first, last, whole=True) if first <= epoch <= last)
    drawn += [_text(place(epoch, low)[0], bottom + 20, f"{epoch:g}", faint=True, anchor="middle") for epoch in epochs]
    drawn.append(_text((left + right) / 2, bottom + 40, "Epoch", faint=True, anchor="middle"))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*value) for value in values))
    drawn.append(f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-width="2.5" stroke-linejoin="round"/>')
    x, y = place(*values[-1])
    drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{BLUE}"/>')
    at_the_end = f"{values[-1][1]:.2f} % after {values[-1][0]} epoch{'' if values[-1][0] == 1 else 's'}"
    drawn.append(_text(right, 42, at_the_end, anchor="end"))
    return _picture(f"{title}: {at_the_end}", drawn, height, standalone)


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Four to eight round numbers that cover `low` to `high`."""
    if high - low < 1e-6:
        low, high = low - 1, high + 1
    least = (high - low) / 6
    power = 10 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
    step = max(step, 1) if whole else step
    return [round(i * step, 10) for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _picture(words: str, drawn: Sequence[str], height: float, standalone: bool) -> str:
    """The SVG of what is drawn; `words` describe it for readers who cannot see it."""
    colour = f' color="{INK}"' if standalone else ""
    paper = f'<rect width="{WIDTH}" height="{height:.0f}" fill="{PAPER}"/>' if standalone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" style="max-width:100%;height:auto" role="img" aria-label="{escape(words)}" '
        f'font-family="system-ui, sans-serif" font-size="14"{colour}><title>{escape(words)}</title>{paper}'
        f"{''.join(drawn)}</svg>"
    )


def _text(x: float, y: float, words: str, *, bold: bool = False, faint: bool = False, anchor: str = "start") -> str:
    style = ' font-weight="600"' if bold else ' fill-opacity=".75"' if faint else ""
    style += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="currentColor"{style}>{escape(words)}</text>'


def _titled(name: str, channels: object, size: tuple[int, int]) -> str:
    return f"{name}, {channels} channels, {_by(*size)}"


def _by(height: int, width: int) -> str:
    return f"{height}x{width}"
