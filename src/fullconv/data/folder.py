"""A data set in a folder: images, masks, lists, and what the ids in the masks mean."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError
from .classes import ClassEntry, ClassTable, infer_entries, read_classes
from .description import Description, read_description
from .files import IMAGE_SUFFIXES, image_size, read_image, read_text
from .labels import LabelSet
from .sample import Sample

SPLITS = ("train", "val", "test")
_DESCRIPTIONS = ("dataset.yaml", "dataset.yml")
_LAYOUT = "give a folder with images/ and masks/ (or train/, val/, test/ with these inside), or a dataset.yaml"
_SHOWN = 3


@dataclass(frozen=True)
class Record:
    """Where one sample lies: its stem, its image file, its mask file."""

    stem: str
    image: Path
    mask: Path


@dataclass(frozen=True, eq=False)
class DataSource:
    """An opened data set: which samples there are; pixels are read when they are asked for.

    Attributes:
        root: Its folder.
        splits: Split → samples, in the order of its list.
        table: Its classes and how its masks spell them.
    """

    root: Path
    splits: dict[str, tuple[Record, ...]]
    table: ClassTable

    @property
    def labels(self) -> LabelSet:
        """The classes, with the one ``ignore_index`` of all targets."""
        return self.table.labels

    def records(self, split: str) -> tuple[Record, ...]:
        """Return the samples of a split, unread.

        Raises:
            DataError: There is no such split; the message names those there are.
        """
        if split not in self.splits:
            raise DataError(
                f"{self.root}: has no split {split!r}; choose one of {', '.join(self.splits)}, "
                f"or add {split}.txt with a stem per line"
            )
        return self.splits[split]

    def dataset(self, split: str, transform: Callable[[Sample], Sample] | None = None) -> "FolderDataset":
        """Return the samples of a split as a torch data set.

        Raises:
            DataError: There is no such split.
        """
        return FolderDataset(self, self.records(split), transform)

    def read_target(self, path: str | Path) -> Int64[Tensor, "h w"]:
        """Read a mask file as class ids; void is ``labels.ignore_index``.

        Raises:
            DataError: The mask cannot be read, or holds an id or colour that is no class.
        """
        return self.table.target(Path(path))

    def image_size(self, record: Record) -> tuple[int, int]:
        """Return (height, width) of a sample's image in pixels, from the file's header.

        Raises:
            DataError: The file cannot be read.
        """
        return image_size(record.image)

    def read_sample(self, record: Record) -> Sample:
        """Read one sample.

        Raises:
            DataError: A file cannot be read, sizes differ, or the mask holds an id or colour that is no
                class.
        """
        image, target = read_image(record.image), self.read_target(record.mask)
        _check_sizes(record, (image.shape[1], image.shape[2]), (target.shape[0], target.shape[1]))
        return Sample(record.stem, image, target, self.labels.ignore_index)

    def class_pixels(self, split: str) -> Int64[Tensor, "k"]:
        """Return how many pixels of every class a split has; every mask is read.

        Raises:
            DataError: There is no such split, or a mask cannot be read.
        """
        classes = self.labels.num_classes
        counts = torch.zeros(classes, dtype=torch.long)
        for record in self.records(split):
            target = self.read_target(record.mask)
            counts += torch.bincount(target[target < classes], minlength=classes)
        return counts

    def check(self, splits: Iterable[str] | None = None) -> None:
        """Read every mask and every image's header, so that training does not stop at a bad file hours later.

        Args:
            splits: Which splits; by default all.

        Raises:
            DataError: The first problem found, and how many more files have one.
        """
        names = self.splits if splits is None else splits
        records = dict.fromkeys(record for name in names for record in self.records(name))
        problems = [self._problem(record) for record in records]
        found = [problem for problem in problems if problem]
        if found:
            more = f"; {len(found) - 1} more samples have problems" if len(found) > 1 else ""
            raise DataError(found[0] + more)

    def _problem(self, record: Record) -> str | None:
        try:
            height, width = self.read_target(record.mask).shape
            _check_sizes(record, image_size(record.image), (height, width))
        except DataError as error:
            return str(error)
        return None


class FolderDataset(Dataset[Sample]):
    """Samples of a data set by position, read anew each time and passed through ``transform``."""

    def __init__(
        self,
        source: DataSource,
        records: Sequence[Record],
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        self.source = source
        self.records = records
        self.transform = transform

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        sample = self.source.read_sample(self.records[index])
        return self.transform(sample) if self.transform else sample


def _check_sizes(record: Record, image: tuple[int, int], mask: tuple[int, int]) -> None:
    if image == mask:
        return
    turned = " (is the image turned by its EXIF orientation?)" if image == mask[::-1] else ""
    raise DataError(
        f"{record.mask}: mask is {mask[0]}×{mask[1]} (height × width), its image {record.image} is "
        f"{image[0]}×{image[1]}{turned}; export the mask again at the image's size, without smoothing"
    )


def open_dataset(path: str | Path) -> DataSource:
    """Open a data set; of the pixels nothing is read, unless the classes must be inferred from the masks.

    Args:
        path: A ``dataset.yaml`` (see :class:`~fullconv.data.description.Description`) or a folder: one that
            holds a ``dataset.yaml``; ``images/`` and ``masks/`` with ``train.txt``, ``val.txt``, ``test.txt``
            of stems (any of them; without lists 80/10/10 % by a hash of the stem); or ``train/``, ``val/``,
            ``test/``, each with ``images/`` and ``masks/``. Classes stand in ``classes.txt`` (``name`` or
            ``name red green blue`` a line), else they are inferred from the masks: 0 to the largest id, 255
            being void.

    Raises:
        DataError: The data set cannot be used as it is; the message names the file and what to do.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml") and not path.is_dir():
        description = read_description(path)
        return _open(path.parent / description.path, description, path)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; {_LAYOUT}")
    for name in _DESCRIPTIONS:
        if (path / name).is_file():
            return open_dataset(path / name)
    return _open(path, Description(), path / "classes.txt")


def _open(root: Path, description: Description, where: Path) -> DataSource:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder, but {where} names it as path; {_LAYOUT}")
    splits = _splits(root, description)
    for name, records in splits.items():
        if not records:
            raise DataError(f"{root}: split {name!r} is empty; list at least one stem, or remove the split")
    entries, where = _entries(root, description, where, splits)
    return DataSource(root, splits, ClassTable.of(entries, where, description.ignore_index, description.label_map))


def _entries(
    root: Path, description: Description, where: Path, splits: Mapping[str, Sequence[Record]]
) -> tuple[list[ClassEntry], Path]:
    entries = description.entries()
    if entries is not None:
        return entries, where
    if (root / "classes.txt").is_file():
        return read_classes(root / "classes.txt"), root / "classes.txt"
    ignored = () if description.ignore_index is None else (description.ignore_index,)
    masks = sorted({record.mask for records in splits.values() for record in records})
    return infer_entries(masks, where, frozenset((*ignored, *description.label_map))), where


def _splits(root: Path, description: Description) -> dict[str, tuple[Record, ...]]:
    if description.splits is None and not (root / description.images).is_dir():
        nested = [name for name in SPLITS if (root / name / description.images).is_dir()]
        if nested:
            return {name: _pairs(root / name, description).every() for name in nested}
    pairs = _pairs(root, description)
    lists = description.splits
    if lists is None:
        lists = {name: f"{name}.txt" for name in SPLITS if (root / f"{name}.txt").is_file()}
    if not lists:
        return hash_split(pairs.every())
    return {name: pairs.listed(*_stems(root, name, stems)) for name, stems in lists.items()}


def _stems(root: Path, split: str, stems: str | list[str]) -> tuple[list[str], str]:
    if isinstance(stems, list):
        return stems, f"split {split!r}"
    lines = [line.strip() for line in read_text(root / stems).splitlines()]
    if not any(lines):
        raise DataError(f"{root / stems}: lists no stem; write one per line, or remove the file")
    return [line for line in lines if line], str(root / stems)


@dataclass(frozen=True)
class _Pairs:
    """The files of two folders by stem."""

    folders: tuple[Path, Path]
    images: dict[str, list[Path]]
    masks: dict[str, list[Path]]

    def every(self) -> tuple[Record, ...]:
        """Pair all files."""
        for folder, files, partners, kind in (
            (self.folders[0], self.images, self.masks, "mask"),
            (self.folders[1], self.masks, self.images, "image"),
        ):
            if not files:
                raise DataError(f"{folder}: holds no image files ({', '.join(IMAGE_SUFFIXES)}); {_LAYOUT}")
            if alone := sorted(set(files) - set(partners)):
                some = ", ".join(files[stem][0].name for stem in alone[:_SHOWN])
                raise DataError(
                    f"{folder}: {len(alone)} of {len(files)} files have no {kind} of the same stem, "
                    f"such as {some}; "
                    f"add the {kind}s, remove these files, or list the stems to use in train.txt and val.txt"
                )
        return tuple(self._record(stem) for stem in sorted(self.images))

    def listed(self, stems: Sequence[str], where: str) -> tuple[Record, ...]:
        """Pair the files of ``stems``."""
        seen: set[str] = set()
        for stem in stems:
            for folder, files, kind in zip(self.folders, (self.images, self.masks), ("image", "mask"), strict=True):
                if stem not in files:
                    raise DataError(
                        f"{where}: names {stem!r}, but {folder} holds no {kind} of that stem; "
                        f"add the file, or correct or remove the line (stems have no folder and no extension)"
                    )
            if stem in seen:
                raise DataError(f"{where}: names {stem!r} twice; remove one")
            seen.add(stem)
        return tuple(self._record(stem) for stem in stems)

    def _record(self, stem: str) -> Record:
        for folder, files in zip(self.folders, (self.images[stem], self.masks[stem]), strict=True):
            if len(files) > 1:
                names = ", ".join(sorted(file.name for file in files))
                raise DataError(f"{folder}: {len(files)} files have the stem {stem!r} ({names}); keep one of them")
        return Record(stem, self.images[stem][0], self.masks[stem][0])


def _pairs(root: Path, description: Description) -> _Pairs:
    folders = root / description.images, root / description.masks
    return _Pairs(folders, _by_stem(folders[0]), _by_stem(folders[1]))


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {_LAYOUT}")
    files: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            files.setdefault(path.stem, []).append(path)
    return files


def hash_split(records: Sequence[Record]) -> dict[str, tuple[Record, ...]]:
    """Split records 80/10/10 % into train, val and test by the SHA-256 of their stems.

    A sample's split does not change when others are added, except in sets so small that ``train`` or, from
    two samples on, ``val`` would be empty: they then take one from the largest split. An empty ``test`` is
    left out.
    """
    splits: dict[str, list[Record]] = {name: [] for name in SPLITS}
    for record in sorted(records, key=_hash):
        share = _hash(record)
        splits["train" if share < 0.8 else "val" if share < 0.9 else "test"].append(record)
    for name in SPLITS[: min(2, len(records))]:
        if not splits[name]:
            splits[name].append(max(reversed(splits.values()), key=len).pop())
    return {name: tuple(sorted(part, key=lambda record: record.stem)) for name, part in splits.items() if part}


def _hash(record: Record) -> float:
    return int.from_bytes(hashlib.sha256(record.stem.encode()).digest()[:8], "big") / 2**64
