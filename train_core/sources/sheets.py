"""Reads tables that name images and their classes: CSV, TSV, JSON lines or Parquet.

A table may lie anywhere; its paths are looked up beside it, then by name in the folders below it.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train_core.sources.contents import SPLITS, SplitName, counted, data_error, some
from train_core.sources.listing import Item, Listing, files_below, split_named, visible, without_double_names

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
FILE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "filepath",
    "path",
    "image_path",
    "image",
    "image_name",
    "img",
    "image_id",
    "id",
)
LABEL_COLUMNS = (
    "label",
    "class",
    "class_name",
    "label_name",
    "category",
    "target",
    "y",
    "labels",
    "diagnosis",
    "breed",
)
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "dataset")
WITHOUT_A_LABEL = "without a label"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sheet:
    """A table, and the split of all its images if its name or place says one."""

    path: Path
    split: SplitName | None


def sheets_of(root: Path) -> list[Sheet]:
    """The tables that describe the images of a folder; none where its folders do.

    They are `metadata.csv` (or .jsonl, .parquet) in the folder or in its splits, as Hugging Face has them, and tables
    beside folders of images that are not laid out by class.
    """
    metadata = [_sheet(path, None) for path in visible(root) if _is_metadata(path)]
    for folder in filter(Path.is_dir, visible(root)):
        if split := split_named(folder.name):
            metadata += [_sheet(path, split) for path in visible(folder) if _is_metadata(path)]
    if metadata:
        return metadata
    tables = [path for path in visible(root) if path.suffix.lower() in SUFFIXES]
    return [] if not tables or _has_classes(root) else [_sheet(path, None) for path in tables]


def listed_by(sheets: Sequence[Sheet], root: Path, group: str) -> Listing:
    """The images that tables name; `root` is the folder that they are looked up in, `group` a column or nothing.

    Raises:
        DataError: a table cannot be read, has no column of files or classes, or names files that do not exist.

    """
    places = _Places(root)
    items: list[Item] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    missing: list[str] = []
    notes = []
    for sheet in sheets:
        rows = list(read_rows(sheet.path))
        if not rows:
            raise data_error(f"{sheet.path} has no rows: give one for each image")
        columns = _columns(sheet.path, rows[0], group)
        if "label" not in columns and sheet.split == "test":
            notes.append(
                f"{sheet.path.name} says no classes: set aside, for `search predict` ({counted(len(rows), 'image')})"
            )
            continue
        if "label" not in columns:
            raise data_error(
                f"{sheet.path} has the columns {some(list(rows[0]), 8)}: give the one with the class the name label"
            )
        for number, row in enumerate(rows, 2):
            stated = str(row[columns["file"]] or "")
            path = places.find(stated, sheet.path.parent)
            if path is None:
                missing.append(stated)
                continue
            label, split = _text(row[columns["label"]]), sheet.split
            if split is None:
                split = _split(row[columns["split"]], sheet.path, number) if "split" in columns else "train"
            if label:
                belongs = _text(row[columns["group"]]) if group else ""
                if group and not belongs:
                    raise data_error(f"{sheet.path}, line {number}: the group ({group}) is empty: fill it in")
                items.append(Item(path=path, name=places.name(path), split=split, label=label, group=belongs))
            else:
                left_out[WITHOUT_A_LABEL].append(places.name(path))
        notes.append(f"{sheet.path.name} says the classes (column {columns['label']})")
    if missing:
        raise data_error(
            f"{sheets[0].path} names {counted(len(missing), 'file')} that cannot be found: {some(missing)}: put them "
            "beside the table, or remove their rows"
        )
    items = without_double_names(items)
    listed = {item.path for item in items} | {root / name for names in left_out.values() for name in names}
    unlisted = [path for path in places.files if path not in listed and path.suffix.lower() not in SUFFIXES]
    left_out["that no table names"] = [places.name(path) for path in unlisted]
    return Listing(
        root=root,
        items=tuple(sorted(items, key=lambda item: (SPLITS.index(item.split), item.label, item.name))),
        notes=tuple(notes),
        left_out={why: tuple(names) for why, names in left_out.items() if names},
        has_stated_classes=True,
    )


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a table, by column."""
    try:
        match path.suffix.lower():
            case ".jsonl":
                yield from map(json.loads, filter(str.strip, path.read_text(encoding="utf-8").splitlines()))
            case ".parquet":
                yield from _parquet(path)
            case _:
                yield from _separated(path)
    except UnicodeDecodeError as error:
        raise data_error(f"the table {path} is not UTF-8: save it as UTF-8") from error
    except (OSError, ValueError, csv.Error) as error:
        raise data_error(f"cannot read the table {path} ({error}): check the file") from error


def _separated(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        start = file.read(1 << 16)
        file.seek(0)
        first = start.partition("\n")[0]
        # The sniffer of the standard library guesses wrong where paths hold the same letters everywhere.
        delimiter = max(",;\t|", key=first.count)
        rows = csv.DictReader(file, delimiter=delimiter)
        names = rows.fieldnames or ()
        if double := [name for name in dict.fromkeys(names) if name and list(names).count(name) > 1]:
            raise ValueError(f"it has the column {double[0]} twice")
        yield from rows


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise data_error(f"{path} needs pyarrow: pip install 'budget-search[parquet]', or save a CSV") from None
    yield from parquet.read_table(path).to_pylist()


def _columns(path: Path, row: Row, group: str) -> dict[str, str]:
    """Which column says the file, and which the class, the split and the group, where there are such."""
    plain = {_plain(name): name for name in row if isinstance(name, str)}
    found = {
        what: next(plain[name] for name in names if name in plain)
        for what, names in (("file", FILE_COLUMNS), ("label", LABEL_COLUMNS), ("split", SPLIT_COLUMNS))
        if any(name in plain for name in names)
    }
    if "file" not in found:
        raise data_error(f"{path} has the columns {some(list(row), 8)}: give the one with the paths the name file")
    if isinstance(row[found["file"]], Mapping):
        raise data_error(f"{path} holds the images themselves: write them to files, and name the files in the table")
    if group:
        if _plain(group) not in plain:
            raise data_error(f"{path} has no column {group!r}: it has {some(list(row), 8)}")
        found["group"] = plain[_plain(group)]
    return found


def _plain(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _text(value: Any) -> str:
    """A cell as text; empty where it says nothing. A number read as 3.0 is 3."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _split(value: Any, path: Path, number: int) -> SplitName:
    if split := split_named(_text(value)):
        return split
    raise data_error(f"{path}, line {number}: the split is {_text(value)!r}: write train, val or test")


def _sheet(path: Path, split: SplitName | None) -> Sheet:
    return Sheet(path, split or split_named(path.stem))


def _is_metadata(path: Path) -> bool:
    return path.stem.casefold() == "metadata" and path.suffix.lower() in SUFFIXES


def _has_classes(root: Path) -> bool:
    """Whether the folders of `root`, or those of its training split, look like classes: two or more with files."""
    folders = [each for each in visible(root) if each.is_dir()]
    train = next((each for each in folders if split_named(each.name) == "train"), None)
    classes = [each for each in visible(train) if each.is_dir()] if train else folders
    return sum(bool(files_below(each)) for each in classes if split_named(each.name) is None) > 1


class _Places:
    """Where the files below a folder are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = files_below(root)
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in self.files:
            for name in {path.name, path.stem}:
                self._by_name[name].append(path)

    def find(self, stated: str, beside: Path) -> Path | None:
        """The file that a table in the folder `beside` names: its path, or its name alone if only one file has it."""
        if not stated or "://" in stated:
            return None
        for place in (beside, self.root):
            path = place / stated.replace("\\", "/")
            if path.is_file():
                return path
        named = self._by_name.get(Path(stated).name, [])
        return named[0] if len(named) == 1 else None

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
