"""Finds the images of a folder, with the split and the class of each, in the layouts that are in common use.

    root/train/<class>/...        with val, valid, validation and test in any case; images may be deeper
    root/<class>/...              all images are training images
    root/<class>/train/...        a split inside each class
    root/train, root/val          with images outside of folders, whose classes a file names
    (`train_core.sources.sheets`)

If a folder contains only one other folder, that one is used instead. No image is opened here.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from train_core.errors import DataError
from train_core.images import SUFFIXES
from train_core.sources.contents import NO_IMAGE, SPLITS, LeftOut, SplitName, counts_in_words, data_error, some

NAMES_OF_SPLITS: Mapping[str, SplitName] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
JUNK = frozenset(["__macosx", "thumbs.db", "desktop.ini", "$recycle.bin"])

HEAPS = frozenset(["images", "image", "img", "imgs", "photos", "unlabeled", "unlabelled", "unknown", "data"])
"""Names of folders inside a split that are not classes."""

WITHOUT_A_CLASS = "without a class"
HIDDEN = "hidden, by a dot before their name or that of their folder"
SET_ASIDE = "without a class, set aside for `search predict`"


@dataclass(frozen=True, kw_only=True)
class Item:
    """A file that may be an image."""

    path: Path
    name: str  # its path inside the requested folder, with slashes
    split: SplitName
    label: str
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a source, in the order of splits, classes and names."""

    root: Path
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_stated_classes: bool = False  # by a folder `train` or a table: a class without images is then a mistake

    def of(self, split: SplitName) -> list[Item]:
        """The files of one split."""
        return [item for item in self.items if item.split == split]


def split_named(name: str) -> SplitName | None:
    """The split that a name stands for; None: it stands for none."""
    return NAMES_OF_SPLITS.get(name.strip().casefold())


def visible(folder: Path) -> list[Path]:
    """The contents of `folder`, sorted, without hidden files and files that systems leave behind."""
    return sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden or was made by the system."""
    return name.startswith(".") or name.casefold() in JUNK


def hidden_images(folder: Path) -> list[Path]:
    """Images with a dot at the start of their name or of a folder's name, sorted; without files made by the system."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name.casefold() not in JUNK]
        is_inside = any(part.startswith(".") for part in Path(place).relative_to(folder).parts)
        found += [
            Path(place, name)
            for name in files
            if Path(name).suffix.lower() in SUFFIXES
            and not name.startswith("._")  # macOS writes these beside each file
            and (is_inside or name.startswith("."))
        ]
    return sorted(found)


def files_below(folder: Path) -> list[Path]:
    """All visible files in a folder and its subfolders, sorted. Links to folders are followed, once each."""
    found: list[Path] = []
    seen: set[str] = set()
    around = [os.path.realpath(folder), *map(str, Path(os.path.realpath(folder)).parents)]
    for place, folders, files in os.walk(folder, onerror=_raised, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or (place != str(folder) and real in around):  # a link to a folder that contains this one
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found += [Path(place, name) for name in files if not is_hidden(name)]
    return sorted(found)


def _raised(error: OSError) -> None:
    raise error  # otherwise an unreadable folder would be left out silently


def listed(root: Path) -> Listing:
    """The files of the folder `root`, which is absolute.

    Raises:
        DataError: the folder cannot be read, or its layout is not known.

    """
    try:
        return _Layout(root).listing()
    except OSError as error:
        raise data_error(f"cannot read the folder {root} ({error})") from error


class _Layout:
    """A folder whose layout is being determined."""

    def __init__(self, asked: Path) -> None:
        self.asked = asked
        self.notes: list[str] = []
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self.root = self._unwrapped(asked)

    def listing(self) -> Listing:
        """The complete listing."""
        folders = [entry for entry in visible(self.root) if entry.is_dir()]
        splits = self._splits(folders)
        others = [folder for folder in folders if folder not in splits.values()]
        items: list[Item] = []
        if train := splits.get("train"):
            items += self._classes("train", [each for each in visible(train) if each.is_dir()])
            self._loose(train)
            if not items:
                advice = "put them into a folder for each class"
                if any(self.left_out.values()):
                    raise data_error(
                        f"{train} has no folders for classes: {advice}; if it is a class itself, rename it"
                    )
                raise data_error(f"{train} holds no images: {advice}")
            for folder in others:
                self._leave_out("outside of train, val and test", files_below(folder))
        elif inside := self._splits_inside(others):
            items += inside
        else:
            items += self._without_train(others)
        self._loose(self.root)
        self._leave_out(HIDDEN, hidden_images(self.root))
        self._note_levels([*splits.values()] or others)
        classes = list(dict.fromkeys(item.label for item in items))
        if len(classes) < 2:  # it would be found later too, but only after reading all images
            raise one_class(splits.get("train", self.root), classes[0], sorted_out(self.left_out))
        evaluated: tuple[SplitName, ...] = ("val", "test")
        for split in evaluated:
            if place := splits.get(split):
                items += self._evaluated(split, place, classes)
        return Listing(
            root=self.asked,
            items=tuple(sorted(items, key=lambda item: (SPLITS.index(item.split), item.label, item.name))),
            notes=tuple(self.notes),
            left_out={why: tuple(names) for why, names in self.left_out.items() if names},
            has_stated_classes="train" in splits,
        )

    # ------------------------------------------------------------------------------------------------ the folders

    def _unwrapped(self, folder: Path) -> Path:
        """The folder, without outer folders that contain only one other folder."""
        entries = visible(folder)
        while (
            len(entries) == 1
            and entries[0].is_dir()
            and split_named(entries[0].name) is None
            and any(each.is_dir() for each in visible(entries[0]))
        ):
            folder = entries[0]
            entries = visible(folder)
        return folder

    def _splits(self, folders: Sequence[Path]) -> dict[SplitName, Path]:
        """Which folder is which split."""
        found: dict[SplitName, Path] = {}
        for folder in folders:
            if split := split_named(folder.name):
                if split in found:
                    raise data_error(
                        f"{self.root} has {found[split].name} and {folder.name}, which both mean {split}: keep one, or "
                        "give them other names"
                    )
                found[split] = folder
                if folder.name != split:
                    purpose = {"train": "training", "val": "validation", "test": "test"}[split]
                    self.notes.append(f"{folder.name}/ has the {purpose} images")
        return found

    def _splits_inside(self, folders: Sequence[Path]) -> list[Item]:
        """The images if each class has folders for its splits: `cat/train`, `cat/test`; empty otherwise."""
        inside = {folder: _splits_of(folder) for folder in folders}
        if not inside or not all("train" in splits for splits in inside.values()):
            return []
        self.notes.append("each class has a folder for each split")
        return [
            self._item(path, split, folder.name)
            for folder, splits in inside.items()
            for split, place in splits.items()
            for path in files_below(place)
        ]

    def _without_train(self, folders: Sequence[Path]) -> list[Item]:
        """The images of a folder with classes and no `train`."""
        items = self._classes("train", folders)
        if not items:
            loose = sum(each.suffix.lower() in SUFFIXES for each in visible(self.root))
            beside = f"; the {loose:,} that lie in it directly have no class" if loose else ""
            raise data_error(
                f"{self.asked} holds no images in folders: put them into train/<class>/, or into a folder for each "
                f"class{beside}"
            )
        return items

    def _note_levels(self, around: Sequence[Path]) -> None:
        """Add a note if all classes contain the same folders: perhaps these are the classes."""
        train = next((each for each in around if split_named(each.name) == "train"), None)
        classes = [each for each in (visible(train) if train else around) if each.is_dir()]
        inside = [{each.name for each in visible(folder) if each.is_dir()} for folder in classes]
        if len(inside) > 1 and len(inside[0]) > 1 and all(each == inside[0] for each in inside):
            self.notes.append(
                f"each class has the same folders inside ({some(sorted(inside[0]))}), whose images are taken together: "
                "if these are the classes, exchange the two levels"
            )

    def _classes(self, split: SplitName, folders: Iterable[Path]) -> list[Item]:
        """The files in a folder for each class."""
        items = []
        for folder in folders:
            files = files_below(folder)
            if not files:
                raise data_error(f"{folder} holds no images: add some, or remove the folder")
            items += [self._item(path, split, folder.name) for path in files]
        return items

    def _evaluated(self, split: SplitName, folder: Path, classes: Sequence[str]) -> list[Item]:
        """The images of `val` or `test`: in a folder for each class, or set aside if their classes are not known."""
        folders = [each for each in visible(folder) if each.is_dir()]
        names = {each: self._class_like(each.name, classes) for each in folders}
        if not any(names.values()) and all(each.name.casefold() in HEAPS for each in folders):
            return self._annotated(split, folder, classes) or self._set_aside(split, folder)
        if unknown := [each.name for each, name in names.items() if name is None]:
            raise data_error(f"{folder} has the class {unknown[0]!r}, which train has not: give it training images")
        self._loose(folder)
        return [self._item(path, split, name) for each, name in names.items() if name for path in files_below(each)]

    def _class_like(self, name: str, classes: Sequence[str]) -> str | None:
        """The class of this name, or of a name that differs only in case."""
        if name in classes:
            return name
        alike = [each for each in classes if each.casefold() == name.casefold()]
        if len(alike) == 1:
            self.notes.append(f"{name} is taken for the class {alike[0]}")
            return alike[0]
        return None

    def _annotated(self, split: SplitName, folder: Path, classes: Sequence[str]) -> list[Item]:
        """The images of a split whose classes are in a text file, as for Tiny-ImageNet; empty if there is none."""
        labels = annotations_of(folder)
        files = files_below(folder)
        named = [path for path in files if labels.get(path.name) in classes]
        if named:
            self.notes.append(f"{folder.name}/ has its classes in a text file")
            self._leave_out(WITHOUT_A_CLASS, [path for path in files if path.name not in labels])
        return [self._item(path, split, labels[path.name]) for path in named]

    def _set_aside(self, split: SplitName, folder: Path) -> list[Item]:
        files = files_below(folder)
        if not files:
            raise data_error(f"{folder} holds no images: put them into a folder for each class, or remove it")
        self._leave_out(SET_ASIDE, files)
        return []

    def _loose(self, folder: Path) -> None:
        self._leave_out(WITHOUT_A_CLASS, [entry for entry in visible(folder) if entry.is_file()])

    def _leave_out(self, why: str, files: Iterable[Path]) -> None:
        self.left_out[why] += map(self._name, files)

    def _item(self, path: Path, split: SplitName, label: str) -> Item:
        if not label.isascii() and label.encode(errors="replace").decode() != label:
            raise data_error(f"the name of the class folder {label!r} is not UTF-8: rename it")
        return Item(path=path, name=self._name(path), split=split, label=label)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.asked).as_posix()


def _splits_of(folder: Path) -> dict[SplitName, Path]:
    """The subfolders of a folder that are named as splits."""
    return {split: each for each in visible(folder) if each.is_dir() and (split := split_named(each.name))}


def annotations_of(folder: Path) -> dict[str, str]:
    """The class of each image of a split without folders for classes, by file name; empty if not known.

    Tiny-ImageNet has them in `val_annotations.txt`: the name, a tab, the class, and a box.
    """
    classes: dict[str, str] = {}
    for path in folder.glob("*_annotations.txt"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, *rest = line.split("\t")
            if rest:
                classes[name] = rest[0]
    return classes


def sorted_out(left_out: LeftOut) -> dict[str, list[str]]:
    """The files by the reason for leaving them out; files that are not meant as images are under that reason only."""
    found: dict[str, list[str]] = defaultdict(list)
    for reason, names in left_out.items():
        for name in names:
            meant = Path(name).suffix.lower() in SUFFIXES
            found[reason if meant or reason.startswith("in ") else NO_IMAGE].append(name)
    return dict(found)


def one_class(source: Path, label: str, left_out: LeftOut) -> DataError:
    """The error for a source that only has images of the class `label`."""
    without = counts_in_words(left_out)
    besides = f" (left out: {without})" if without else ""
    return data_error(f"{source} has one class only, {label!r}{besides}: a classifier needs two or more")


def without_double_names(items: Sequence[Item]) -> list[Item]:
    """The items; each file once.

    Raises:
        DataError: a file is listed twice.

    """
    double = [name for name, number in Counter(item.name for item in items).items() if number > 1]
    if double:
        raise data_error(f"listed more than once: {some(double)}: name each image once")
    return list(items)
