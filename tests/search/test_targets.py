import tomllib
from pathlib import Path
from typing import Any

import pytest

from search.errors import SpecError
from search.spec import load_study
from search.targets import FILE, limits_at, targets


@pytest.mark.parametrize("name", targets())
def test_every_target_has_limits_a_title_and_a_source(name: str) -> None:
    record = tomllib.loads(FILE.read_text(encoding="utf-8"))[name]
    assert record["title"]
    assert record["source"].startswith(("https://", "Sandler et al."))
    spec = load_study("digits", {"target": name})
    assert {"max_memory", "max_madds"} & limits_at(name).keys()
    assert spec.limits.format == record["format"]


def test_a_target_sets_what_the_study_file_and_the_flags_leave_open(tmp_path: Path) -> None:
    study = tmp_path / "photos.toml"
    study.write_text('data = "digits"\nbudget = "20k"\ntarget = "arduino-nano-33-ble"\nmax_file = "100kB"\n')
    spec = load_study(str(study), {})
    assert (spec.max_memory, spec.max_file, spec.format) == (192 * 1024, 100_000, "tflite-header")
    other = load_study(str(study), {"target": "esp32-s3", "max_memory": 50_000})
    assert (other.max_memory, other.max_file) == (50_000, 2 * 1024**2)


def test_a_device_of_ones_own_is_a_file(tmp_path: Path) -> None:
    board = tmp_path / "board.toml"
    board.write_text('[my-board]\nmax_memory = "100kB"\nmax_file = "250kB"\nformat = "tflite-header"\n')
    spec = load_study("digits", {"target": str(board)})
    assert (spec.max_memory, spec.max_file) == (100_000, 250_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[one]\nmax_memory = 1\n[two]\nmax_memory = 1\n", "the file must have one device, as in [my-board], not 2"),
        ("[one]\nram = 1\n", "unknown key 'ram': it may have budget, max_madds, max_memory"),
        ("[one", "cannot be read"),
        ('[one]\ntitle = "a board"\n', "limits nothing: give it at least one of budget"),
    ],
)
def test_a_file_that_is_no_device_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    board = tmp_path / "board.toml"
    board.write_text(text)
    with pytest.raises(SpecError) as error:
        load_study("digits", {"target": str(board)})
    assert words in str(error.value)


def test_what_a_run_keeps_is_read_again_the_same(tmp_path: Path) -> None:
    flags: dict[str, Any] = {"target": "stm32h743", "max_file": 300_000}
    spec = load_study("digits", flags)
    kept = tmp_path / "study.toml"
    kept.write_text(spec.as_toml())
    assert load_study(str(kept), {}) == spec
