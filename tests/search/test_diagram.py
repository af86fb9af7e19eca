"""A picture says of a network and of a run what is so, in XML that can stand in any page."""

import random
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.diagram import LETTERS, WIDTH, _ticks, curve, diagram
from search.spec import load_study
from space import RandomTrial, Task, network, suggest
from tests.support.browser import Browser
from tests.support.networks import pyramidnet
from train_core.specs import ResNetSpec, num_madds, num_params

SVG = "{http://www.w3.org/2000/svg}"
LARGE = ResNetSpec(
    widths=(64, 96, 128, 256, 512),
    blocks=(8, 3, 5, 2, 1),
    block="preact",
    final_norm=True,
    k1=5,
    k2=7,
    shortcut="max-pool",
    shortcut_kernel=5,
    shortcut_norm="before",
    stem_stride=2,
    stem_pool=True,
    se_reduction=16,
    head_dropout=0.2,
    num_classes=100,
)


def words(svg: str) -> list[str]:
    """The lines of text in a picture."""
    return [str(each.text) for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def numbers(lines: list[str], unit: str) -> list[int]:
    found = (re.match(rf"([\d,]+) {unit}", line) for line in lines)
    return [int(match[1].replace(",", "")) for match in found if match]


def drawn_networks() -> list[ResNetSpec]:
    generator, space = random.Random(0), load_study("cifar10-wide", {}).space
    return [network(suggest(RandomTrial(generator, space), space), space, 500_000, Task()) for _ in range(40)]


def test_the_draws_hold_every_kind_of_block_and_shortcut() -> None:
    made = drawn_networks()
    assert {spec.block for spec in made} == {"basic", "preact"}
    assert {spec.shortcut for spec in made} == {"conv", "max-pool"}
    assert {len(spec.widths) for spec in made} == {3, 4, 5}


@pytest.mark.parametrize(
    "spec",
    [
        ResNetSpec(widths=(8, 8), blocks=(1, 1), norm="none"),
        LARGE,
        pyramidnet(110, 64, bottleneck=True),
        ResNetSpec(widths=(64, 128), blocks=(2, 2), block="bottleneck", groups=16),
        ResNetSpec(widths=(16, 24), blocks=(2, 2), block="inverted-residual", shortcut="none", se_reduction=4),
        *drawn_networks(),
    ],
    ids=str,
)
def test_the_parts_come_to_the_whole_and_every_block_has_its_bar(spec: ResNetSpec) -> None:
    svg = diagram(spec, (32, 24))
    lines = words(svg)
    for unit, whole in (("parameters", num_params(spec)), ("multiply-adds", num_madds(spec, (32, 24)))):
        *parts, total = numbers(lines, unit)
        assert len(parts) == len(spec.blocks) + 2
        assert sum(parts) == total == whole
    bars = ElementTree.fromstring(svg).findall(f".//{SVG}rect")
    assert len(bars) == sum(spec.blocks) + 3  # images, stem, head
    assert all(float(bar.get("width", 0)) > 0 and float(bar.get("height", 0)) > 0 for bar in bars)
    assert max(map(len, lines[:-2])) <= LETTERS + 1


def test_a_stage_says_what_it_is() -> None:
    lines = words(diagram(LARGE, (32, 32)))
    assert lines[0] == "Images, 32x32"
    assert lines[2:5] == ["Stem, 64 channels, 8x8", "3x3 convolution, stride 2, norm, ReLU", "3x3 max pool, stride 2"]
    assert lines[7:11] == [
        "Stage 1, 64 channels, 8x8",
        "8 preact blocks: 5x5, 7x7",
        "squeeze-and-excitation, ratio 16",
        "shortcut: identity",
    ]
    assert lines[13:17] == [
        "Stage 2, 96 channels, 4x4",
        "3 preact blocks: 5x5, 7x7, stride 2",
        "squeeze-and-excitation, ratio 16",
        "shortcut: norm, max pool, 5x5 conv",
    ]
    assert "Head, 100 classes" in lines
    basic = words(diagram(ResNetSpec(widths=(16, 32), blocks=(1, 1), in_channels=1), (32, 32)))
    assert basic[1] == "grey"
    assert "shortcut: 1x1 conv, stride 2, norm" in basic


def test_a_stage_of_another_kind_says_what_it_is() -> None:
    pyramid = words(diagram(pyramidnet(110, 64, bottleneck=True), (32, 32)))
    assert {"3x3 convolution, norm", "Stage 2, 156 to 236 channels, 16x16"} <= set(pyramid)
    assert {"12 pyramid-bottleneck blocks: 1x1,", "3x3, 1x1, stride 2"} <= set(pyramid)
    assert {"shortcut: mean of 2x2 pixels, added", "channels of zeros"} <= set(pyramid)
    assert "shortcut: added channels of zeros" in pyramid
    grouped = ResNetSpec(widths=(64, 128), blocks=(1, 2), block="bottleneck", groups=8, stem_width=64)
    assert {"1 bottleneck block: 1x1, 3x3 in 8", "groups, 1x1"} <= set(words(diagram(grouped, (32, 32))))
    spec = ResNetSpec(widths=(16, 24), blocks=(1, 2), block="inverted-residual", shortcut="none")
    inverted = words(diagram(spec, (32, 32)))
    assert {"depthwise, 1x1, stride 2", "shortcut: none in the first block"} <= set(inverted)


def test_wider_and_larger_stages_have_wider_and_higher_bars() -> None:
    svg = ElementTree.fromstring(diagram(ResNetSpec(widths=(16, 32), blocks=(1, 1)), (32, 32)))
    *_, first, second, _ = svg.findall(f".//{SVG}rect")
    assert float(second.get("width", 0)) == pytest.approx(2 * float(first.get("width", 0)))
    assert float(second.get("height", 0)) < float(first.get("height", 0))


@pytest.mark.parametrize(
    "svg", [diagram(LARGE, (32, 32)), curve([(1, 0.1), (2, 0.5)], "a run")], ids=["network", "curve"]
)
def test_a_picture_clashes_with_nothing_and_can_be_read_aloud(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in {"svg", "title", "g", "path", "rect", "text", "polyline", "circle"}
        assert not {"id", "class"} & set(element.attrib)
    assert root.get("role") == "img"
    assert root.get("aria-label") == root.findtext(f"{SVG}title") != ""
    assert "currentColor" in svg
    assert "#fff" not in svg


def test_a_standalone_picture_brings_its_paper() -> None:
    root = ElementTree.fromstring(diagram(LARGE, (32, 32), standalone=True))
    paper = root.find(f"{SVG}rect")
    assert paper is not None
    assert (paper.get("width"), paper.get("height"), paper.get("fill")) == (
        root.get("width"),
        root.get("height"),
        "#ffffff",
    )


def test_a_curve_has_a_point_for_each_epoch_and_says_where_it_ends() -> None:
    svg = curve([(epoch, epoch / 250) for epoch in range(1, 201)], 'a <b> & "run"')
    lines = words(svg)
    assert lines[0] == 'a <b> & "run"'
    assert {"Validation accuracy (%)", "Epoch", "80.00 % after 200 epochs"} <= set(lines)
    assert {"0", "20", "40", "60", "80", "50", "100", "150", "200"} <= set(lines)
    line = ElementTree.fromstring(svg).find(f"{SVG}polyline")
    assert line is not None
    places = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    assert len(places) == 200
    assert all(right[0] > left[0] and right[1] < left[1] for left, right in pairwise(places))


@pytest.mark.parametrize("points", [[(1, 0.5)], [(1, 0.5), (2, 0.5)], [(3, 0.0)], [(1, 1.0)]])
def test_a_curve_of_one_value_is_drawn(points: list[tuple[int, float]]) -> None:
    assert f"{100 * points[-1][1]:.2f} % after {points[-1][0]} epoch" in curve(points, "flat")


@given(low=st.floats(0, 100), spread=st.floats(0, 100), whole=st.booleans())
def test_ticks_are_few_round_and_go_from_end_to_end(low: float, spread: float, whole: bool) -> None:
    ticks = _ticks(low, low + spread, whole=whole)
    assert ticks[0] <= low + 1e-6
    assert ticks[-1] >= low + spread - 1e-6
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 9
    assert not whole or all(tick == int(tick) for tick in ticks)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_pictures_within_a_phones_width(dark: bool, browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<!doctype html><meta name="viewport" content="width=device-width">'
        "<style>:root { color-scheme: light dark }</style>"
        + diagram(LARGE, (32, 32))
        + curve([(1, 0.1), (2, 0.5)], "a run")
    )
    shown = browser.load(page, width=360, height=740, dark=dark)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 360
    overflowing = """[...document.querySelectorAll("svg")].flatMap(svg => {
        const edge = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text, rect")].filter(each => {
            const box = each.getBoundingClientRect();
            return box.right > edge.right || box.left < edge.left || box.bottom > edge.bottom;
        }).map(each => each.textContent);
    })"""
    assert shown.evaluate(overflowing) == []
    ink = shown.evaluate("getComputedStyle(document.querySelector('text')).fill")
    assert ink == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)")
    assert shown.errors == []
    assert shown.evaluate("document.querySelector('svg').getBoundingClientRect().width") < WIDTH
