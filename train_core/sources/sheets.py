"""Reads tables that name images and their classes: CSV, TSV, JSON lines or Parquet.

A table may be anywhere; its paths are looked up beside it, then by name in the folders below it.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from train_core.images import SUFFIXES as IMAGES
from train_core.sources.contents import SPLITS, SplitName, counted, data_error, some
from train_core.sources.listing import SET_ASIDE, Item, Listing, files_below, split_named, visible, without_double_names

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
    """A table, and the split of all its images if its name or place states one."""

    path: Path
    split: SplitName | None


def sheets_of(root: Path) -> list[Sheet]:
    """The tables that describe the images of a folder; none if its folders do.

    They are `metadata.csv` (or .jsonl, .parquet) in the folder or in its splits, as from Hugging Face, and tables
    beside folders of images that are not laid out by class.
    """
    metadata = [_sheet(path, None) for path in visible(root) if _is_metadata(path)]
    for folder in filter(Path.is_dir, visible(root)):
        if split := split_named(folder.name):
            metadata += [_sheet(path, split) for path in visible(folder) if _is_metadata(path)]
    if metadata:
        return metadata
    tables = [path for path in visible(root) if path.suffix.lower() in SUFFIXES]
    if not tables and (inside := root / "data").is_dir():  # as in a copy of a Hugging Face repository
        tables = [path for path in visible(inside) if holds_images(path)]
    return [] if not tables or _has_classes(root) else [_sheet(path, None) for path in tables]


def holds_images(table: Path) -> bool:
    """Whether a table contains the images themselves, as Hugging Face's Parquet files do."""
    if table.suffix.lower() != ".parquet":
        return False
    parquet = _pyarrow_parquet(table)
    try:
        schema = parquet.read_schema(table)
    except (OSError, ValueError):  # reported when it is read
        return False
    kinds = [str(field.type) for field in schema if _plain(field.name) in FILE_COLUMNS]
    return any(kind in ("binary", "large_binary") or "bytes: binary" in kind for kind in kinds)


def listed_by(sheets: Sequence[Sheet], root: Path, group: str, folder: Path | None = None) -> Listing:
    """The images that tables name; `root` is the folder in which they are looked up, `group` a column or empty.

    Images inside a table are written to `folder`. Their names are the table and the row number, from 0:
    `train.parquet/12.png`.

    Raises:
        DataError: a table cannot be read, has no column of files or classes, or names files that do not exist.

    """
    listed = _Listed(_Places(root), group, folder)
    for sheet in sheets:
        listed.read(sheet)
    if listed.missing:
        raise data_error(
            f"{sheets[0].path} names {counted(len(listed.missing), 'file')} that cannot be found: "
            f"{some(listed.missing)}: put them beside the table, or remove their rows"
        )
    items = without_double_names(listed.items)
    left_out = {**listed.left_out, "not named in any table": listed.unlisted(items)}
    return Listing(
        root=root,
        items=tuple(sorted(items, key=lambda item: (SPLITS.index(item.split), item.label, item.name))),
        notes=tuple(listed.notes),
        left_out={why: tuple(names) for why, names in left_out.items() if names},
        has_stated_classes=True,
    )


class _Listed:
    """The images of tables, collected one table after another."""

    def __init__(self, places: "_Places", group: str, folder: Path | None) -> None:
        self.items: list[Item] = []
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self.missing: list[str] = []
        self.notes: list[str] = []
        self._places, self._group, self._folder = places, group, folder

    def read(self, sheet: Sheet) -> None:
        """Read a table. If a test table has no classes, as in competitions, its images are set aside."""
        rows = read_rows(sheet.path)
        first = next(rows, None)
        if first is None:
            raise data_error(f"{sheet.path} has no rows: give one for each image")
        columns = _columns(sheet.path, first, self._group)
        is_set_aside = "label" not in columns and sheet.split == "test"
        if "label" not in columns and not is_set_aside:
            raise data_error(
                f"{sheet.path} has the columns {some(list(first), 8)}: give the one with the class the name label"
            )
        for number, row in enumerate(chain([first], rows)):
            path, name = self._places.image(row[columns["file"]], sheet.path, number, self._folder)
            if is_set_aside:
                self.left_out[SET_ASIDE] += [name] if name else []
            elif path is None:
                self.missing.append(str(row[columns["file"]] or ""))
            else:
                self._add(sheet, row, columns, number + 2, path, name)
        if not is_set_aside:
            self.notes.append(f"{sheet.path.name} says the classes (column {columns['label']})")

    def _add(self, sheet: Sheet, row: Row, columns: Mapping[str, str], line: int, path: Path, name: str) -> None:
        """Add an image whose file exists."""
        label, split = _text(row[columns["label"]]), sheet.split
        if split is None:
            split = _split(row[columns["split"]], sheet.path, line) if "split" in columns else "train"
        if not label:
            self.left_out[WITHOUT_A_LABEL].append(name)
            return
        belongs = _text(row[columns["group"]]) if self._group else ""
        if self._group and not belongs:
            raise data_error(f"{sheet.path}, line {line}: the group ({self._group}) is empty: fill it in")
        self.items.append(Item(path=path, name=name, split=split, label=label, group=belongs))

    def unlisted(self, items: Sequence[Item]) -> list[str]:
        """The names of the files that no table names, except the tables themselves."""
        places = self._places
        known = {item.path for item in items} | {
            places.root / name for names in self.left_out.values() for name in names
        }
        return [places.name(path) for path in places.files if path not in known and path.suffix.lower() not in SUFFIXES]


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
        # The sniffer of the standard library guesses wrong if paths have the same letters everywhere.
        delimiter = max(",;\t|", key=first.count)
        rows = csv.DictReader(file, delimiter=delimiter)
        names = rows.fieldnames or ()
        if double := [name for name in dict.fromkeys(names) if name and list(names).count(name) > 1]:
            raise ValueError(f"it has the column {double[0]} twice")
        yield from rows


def _parquet(path: Path) -> Iterator[Row]:
    """The rows; numbers that represent classes, as from Hugging Face, are replaced by the names of the classes."""
    with _pyarrow_parquet(path).ParquetFile(path) as file:
        names = _class_names(file.schema_arrow.metadata or {})
        for batch in file.iter_batches(1000):
            for row in batch.to_pylist():
                yield row | {column: _class(row[column], known) for column, known in names.items() if column in row}


def _pyarrow_parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise data_error(f"{path} needs pyarrow: pip install 'budget-search[parquet]', or save a CSV") from None
    return parquet


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names of the classes for each column of class numbers, from Hugging Face's metadata."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {column: list(each["names"]) for column, each in features.items() if each.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):  # some other metadata
        return {}


def _class(value: Any, names: Sequence[str]) -> Any:
    """The name of a class by its number; None for -1, which means that the class is not known."""
    if not isinstance(value, int) or value >= len(names):
        return value
    return names[value] if value >= 0 else None


def _columns(path: Path, row: Row, group: str) -> dict[str, str]:
    """Which column has the file, and which the class, the split and the group, if there are such columns."""
    plain = {_plain(name): name for name in row if isinstance(name, str)}
    found = {
        what: next(plain[name] for name in names if name in plain)
        for what, names in (("file", FILE_COLUMNS), ("label", LABEL_COLUMNS), ("split", SPLIT_COLUMNS))
        if any(name in plain for name in names)
    }
    if "file" not in found:
        raise data_error(f"{path} has the columns {some(list(row), 8)}: give the one with the paths the name file")
    if group:
        if _plain(group) not in plain:
            raise data_error(f"{path} has no column {group!r}: it has {some(list(row), 8)}")
        found["group"] = plain[_plain(group)]
    return found


def _plain(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _text(value: Any) -> str:
    """A cell as text; empty if it has no value. A number read as 3.0 is 3."""
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
    return Sheet(path, split or split_named(re.sub(r"-\d+-of-\d+$", "", path.stem)))  # train-00000-of-00002.parquet


def _is_metadata(path: Path) -> bool:
    return path.stem.casefold() == "metadata" and path.suffix.lower() in SUFFIXES


def _has_classes(root: Path) -> bool:
    """Whether the folders of `root`, or those of its training split, look like classes: two or more with files."""
    folders = [each for each in visible(root) if each.is_dir()]
    train = next((each for each in folders if split_named(each.name) == "train"), None)
    classes = [each for each in visible(train) if each.is_dir()] if train else folders
    return sum(bool(files_below(each)) for each in classes if split_named(each.name) is None) > 1


class _Places:
    """The paths of the files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = files_below(root) if root.is_dir() else []
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in self.files:
            for name in {path.name, path.stem}:
                self._by_name[name].append(path)

    def find(self, stated: str, beside: Path) -> Path | None:
        """The file that a table in the folder `beside` names: by its path, or by its name if only one file has it."""
        if not stated or "://" in stated:
            return None
        for place in (beside, self.root):
            path = place / stated.replace("\\", "/")
            if path.is_file():
                return path
        named = self._by_name.get(Path(stated).name, [])
        return named[0] if len(named) == 1 else None

    def image(self, cell: Any, table: Path, number: int, folder: Path | None) -> tuple[Path | None, str]:
        """The file of an image (None if it does not exist) and its name; an image in the cell is written to `folder`.

        `number` is the row number in the table, from 0.
        """
        if not isinstance(cell, Mapping | bytes) and (folder is None or cell is not None):
            path = self.find(str(cell or ""), table.parent)
            return path, self.name(path) if path else ""
        content, stated = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (cell, None)
        if not isinstance(content, bytes) or folder is None:
            raise data_error(f"{table}: row {number} (from 0) holds no image: fill it in, or remove the row")
        suffix = Path(str(stated or "")).suffix
        name = f"{self.name(table)}/{number}{suffix if suffix.lower() in IMAGES else '.png'}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path, name

    def name(self, path: Path) -> str:
        if path == self.root:  # a table that contains its images
            return path.name
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
