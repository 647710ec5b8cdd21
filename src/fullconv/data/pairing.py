"""Which image belongs to which mask: by stem, with every file that has no partner reported."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from ..errors import DataError
from ..files.images import MASK_SUFFIXES
from ..files.masks import MaskFile
from ..files.pictures import PICTURE_SUFFIXES, picture
from ..files.text import read_text
from .problems import Problem
from .source import SPLIT_WORDS, Contents, Record

Stem = Callable[[Path], str]
"""Gives the part of a file's path that an image and its mask have in common."""


def plain_stem(path: Path) -> str:
    """Return a file's name without its extension."""
    return composed(path.stem)


def composed(stem: str) -> str:
    """Return a stem with its accents composed: é is one character or two, by the system that wrote it."""
    return unicodedata.normalize("NFC", stem)


def split_folders(place: Path) -> dict[str, Path]:
    """Return the folders in a place that are called like splits, such as ``train``, ``valid`` or ``Test``, by split."""
    return _called_like_splits(place, "", Path.is_dir)


def split_lists(place: Path) -> dict[str, Path]:
    """Return the text files in a place that are called like splits, by split; ``trainval`` only without ``train``."""
    return _called_like_splits(place, ".txt", Path.is_file)


def _called_like_splits(place: Path, suffix: str, is_there: Callable[[Path], bool]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for word, split in SPLIT_WORDS.items():
        for path in (place / f"{word}{suffix}", place / f"{word.capitalize()}{suffix}"):
            if split not in found and is_there(path):
                found[split] = path
    return found


@dataclass
class Pairs:
    """Images and masks by stem.

    Attributes:
        folders: Where images and where masks lie.
        images: Stem → image files.
        masks: Stem → mask files.
        problems: What was found wrong so far.
    """

    folders: tuple[Path, Path]
    images: dict[str, list[Path]]
    masks: dict[str, list[Path]]
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, images: Path, masks: Path, *, stems: tuple[Stem, Stem] = (plain_stem, plain_stem)) -> "Pairs":
        """Look into two folders.

        Args:
            images: Folder of the images.
            masks: Folder of the masks.
            stems: How to get the common stem from an image's and from a mask's path.

        Raises:
            DataError: A folder does not exist.
        """
        return cls(
            (images, masks),
            _by_stem(files_in(images, PICTURE_SUFFIXES), stems[0]),
            _by_stem(files_in(masks, MASK_SUFFIXES), stems[1]),
        )

    def every(self) -> tuple[Record, ...]:
        """Return all pairs; a file without a partner is a problem."""
        images, masks = self.folders
        self._report_alone(self.images, self.masks, masks, "mask")
        self._report_alone(self.masks, self.images, images, "image")
        return self._records(sorted(self.images.keys() & self.masks.keys()))

    def listed(self, stems: Sequence[str], where: Path | str) -> tuple[Record, ...]:
        """Return the pairs of ``stems``; a stem without image or mask, or one that stands twice, is a problem.

        Args:
            stems: One a sample, as :func:`composed`.
            where: The list's file, for messages.
        """
        for kind, files, folder in (
            ("image", self.images, self.folders[0]),
            ("mask", self.masks, self.folders[1]),
        ):
            for stem in dict.fromkeys(stems):
                if stem not in files:
                    seen = f"names {stem!r}, but {folder} holds no {kind} of that stem"
                    remedy = "add the file, or correct or remove the line (stems have no folder and no extension)"
                    self.problems.append(Problem(f"missing_{kind}", (Path(where), folder / stem), seen, remedy))
        self.problems += _twice(stems, where)
        return self._records([stem for stem in dict.fromkeys(stems) if stem in self.images and stem in self.masks])

    def _records(self, stems: Iterable[str]) -> tuple[Record, ...]:
        records = []
        for stem in stems:
            for files in (self.images[stem], self.masks[stem]):
                if len(files) > 1:
                    seen = f"{len(files)} files have the stem {stem!r} ({', '.join(file.name for file in files)})"
                    self.problems.append(Problem("duplicate_stem", tuple(files), seen, "keep one of them"))
            records.append(Record(stem, picture(self.images[stem][0]), MaskFile(self.masks[stem][0])))
        return tuple(records)

    def _report_alone(
        self, files: Mapping[str, list[Path]], partners: Mapping[str, object], folder: Path, partner: str
    ) -> None:
        seen = f"has no {partner} of the same stem in {folder}"
        remedy = f"add the {partner}, remove this file, or list the stems to use in train.txt and val.txt"
        for stem in sorted(files.keys() - partners.keys()):
            self.problems += [Problem(f"missing_{partner}", (file,), seen, remedy) for file in files[stem]]


def files_in(folder: Path, suffixes: Sequence[str], *, deep: bool = False) -> list[Path]:
    """Return the files of a folder that have one of these extensions, sorted; hidden ones are left out.

    Raises:
        DataError: There is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; correct the path, or add it")
    found = folder.rglob("*") if deep else folder.iterdir()
    return visible(path for path in found if path.suffix.lower() in suffixes)


def visible(paths: Iterable[Path]) -> list[Path]:
    """Return the files that are not hidden, such as the ``._a.png`` that a Mac leaves beside ``a.png``, sorted."""
    return sorted({path for path in paths if not path.name.startswith(".")})


def read_stems(path: Path) -> list[str]:
    """Return the lines of a list of stems.

    Raises:
        DataError: The file cannot be read, or lists nothing.
    """
    lines = [composed(line.strip()) for line in read_text(path).splitlines()]
    if not any(lines):
        raise DataError(f"{path}: lists no stem; write one per line, or remove the file")
    return [line for line in lines if line]


def described_stems(root: Path, split: str, stems: str | list[str]) -> tuple[list[str], Path | str]:
    """Return the stems that a ``dataset.yaml`` gives a split, or those of the list it names, and where they stand.

    Raises:
        DataError: The list cannot be read, or lists nothing.
    """
    if isinstance(stems, str):
        return read_stems(root / stems), root / stems
    return list(map(composed, stems)), f"split {split!r}"


def split_anew(contents: Contents, root: Path, splits: Mapping[str, str | list[str]]) -> Contents:
    """Return the samples that a ``dataset.yaml`` puts into each split; what is wrong with its lists is a problem.

    What is wrong with samples that are on no list is none.

    Args:
        contents: All samples, whatever split they are in by themselves.
        root: The data set's folder, or the one file that holds it, beside which lists lie.
        splits: Split → a text file of stems, or the stems.

    Raises:
        DataError: A list cannot be read, or lists nothing.
    """
    samples: dict[str, list[Record]] = {}
    for record in dict.fromkeys(chain.from_iterable(contents.splits.values())):
        samples.setdefault(composed(record.stem), []).append(record)
    chosen, problems = dict[str, tuple[Record, ...]](), list[Problem]()
    for split, listed in splits.items():
        stems, where = described_stems(root if root.is_dir() else root.parent, split, listed)
        problems += _twice(stems, where)
        for stem in dict.fromkeys(stems):
            found = samples.get(stem, [])
            if not found:
                known = ", ".join(map(repr, [*samples][:2])) or "none"
                seen = f"names {stem!r}, but {root} holds no image with a mask of that stem (the first are {known})"
                remedy = "add it, or correct or remove the line (stems have no folder and no extension)"
                problems.append(Problem("missing_image", (Path(where), root / stem), seen, remedy))
            if len(found) > 1:
                images = tuple(record.image.path for record in found)
                seen = f"names {stem!r}, but {len(found)} images have that stem ({images[0]}, {images[1]})"
                problems.append(Problem("duplicate_stem", (Path(where), *images), seen, "rename all but one of them"))
        chosen[split] = tuple(samples[stem][0] for stem in dict.fromkeys(stems) if stem in samples)
    used = {path for part in chosen.values() for record in part for path in (record.image.path, record.mask.path)}
    kept = [one for one in contents.problems if not one.kind.startswith("missing_") and used & {*one.files}]
    return replace(contents, splits=chosen, problems=(*kept, *problems))


def _twice(stems: Sequence[str], where: Path | str) -> list[Problem]:
    """Return a problem for each stem that stands more than once in a list."""
    remedy = "remove one of the lines"
    return [
        Problem("duplicate_stem", (Path(where),), f"names {stem!r} twice", remedy)
        for stem, count in Counter(stems).items()
        if count > 1
    ]


def _by_stem(files: Iterable[Path], stem: Stem) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(stem(file), []).append(file)
    return groups
