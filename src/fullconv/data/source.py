"""A data set that was opened: which samples there are, and what the ids in their masks mean."""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError
from ..files.arrays import Window
from ..files.images import is_turned
from ..files.masks import Mask
from ..files.pictures import ImageFile, Picture
from .classes import ClassEntry, ClassTable
from .description import Description
from .labels import DEFAULT_TASK, LabelSet
from .problems import Problem
from .sample import Sample

SPLITS = ("train", "val", "test")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What splits are called, in lower case → split."""

Moments = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation, 0–255, of each channel."""

_STRIP = 1 << 25
_SOME, _EVERY = 256, 4


@dataclass(frozen=True)
class Record:
    """Where one sample lies: its stem, its image, and its truth."""

    stem: str
    image: Picture
    mask: Mask


@dataclass(frozen=True)
class Contents:
    """What a format finds in a folder before any pixel is read.

    Attributes:
        splits: Split → samples; the one split ``""`` where the data set makes no difference.
        where: The file in which the classes stand or could stand, for messages.
        entries: The classes; None where they must be learned from the masks.
        ignore_index: Id in the masks that is void.
        label_map: Other ids in the masks → name or id of a class, or ``void``.
        problems: What is wrong with the files' names and places.
    """

    splits: dict[str, tuple[Record, ...]]
    where: Path
    entries: list[ClassEntry] | None = None
    ignore_index: int | None = 255
    label_map: dict[int, int | str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, eq=False)
class DataSource:
    """An opened data set: which samples there are; pixels are read when they are asked for.

    Attributes:
        root: Its folder.
        format: How it is laid out: a name of ``fullconv.data.formats.FORMATS``.
        splits: Split → samples, in the order of its list.
        table: Its classes and how its masks spell them.
        problems: What is wrong with the files' names and places; errors only where they were asked for.
        description: What a ``dataset.yaml`` in ``root`` would have to say.
        further: Further tasks on the same images: their masks and classes, by task.
    """

    root: Path
    format: str
    splits: dict[str, tuple[Record, ...]]
    table: ClassTable
    problems: tuple[Problem, ...] = ()
    description: Description = field(default_factory=Description)
    further: Mapping[str, "DataSource"] = field(default_factory=dict)
    _pixels: dict[str, Int64[Tensor, "_"]] = field(default_factory=dict, init=False, repr=False)
    _moments: dict[str, Moments] = field(default_factory=dict, init=False, repr=False)
    _sizes: dict[Record, tuple[int, int]] = field(default_factory=dict, init=False, repr=False)

    @property
    def labels(self) -> LabelSet:
        """The classes, with the one ``ignore_index`` of all targets."""
        return self.table.labels

    @cached_property
    def tasks(self) -> dict[str, "DataSource"]:
        """All tasks on these images by name, first that of the data set's own masks; their splits are its own."""
        return {DEFAULT_TASK: self, **{task: self.split_alike(other) for task, other in self.further.items()}}

    def split_alike(self, other: "DataSource") -> "DataSource":
        """Return another task's source with these splits: of each, the samples that it has on the same images."""
        found = {split: [other.of_same_image(record) for record in part] for split, part in self.splits.items()}
        return replace(other, splits={split: tuple(filter(None, part)) for split, part in found.items()})

    def records(self, split: str) -> tuple[Record, ...]:
        """Return the samples of a split, unread.

        Raises:
            DataError: There is no such split; the message names those there are.
        """
        return self.splits[self.split_called(split)]

    def split_called(self, word: str) -> str:
        """Return the name of the split that is called so here, or by another word: ``val`` for ``valid``.

        Raises:
            DataError: There is no such split; the message names those there are.
        """
        for name in (word, SPLIT_WORDS.get(word.lower())):
            if name in self.splits:
                return name
        raise DataError(
            f"{self.root}: has no split {word!r}; choose one of {', '.join(self.splits)}, "
            f"or add {word}.txt with a stem per line"
        )

    def dataset(self, split: str, transform: Callable[[Sample], Sample] | None = None) -> "SampleDataset":
        """Return the samples of a split as a torch data set.

        Raises:
            DataError: There is no such split.
        """
        return SampleDataset(self, self.records(split), transform)

    def read_target(self, record: Record, window: Window | None = None) -> Int64[Tensor, "h w"]:
        """Read a sample's truth, or a window of it, as class ids; void is ``labels.ignore_index``.

        Raises:
            DataError: It cannot be read, or holds an id or colour that is no class.
        """
        return self.table.target(record.mask.read(window), record.mask.path)

    def image_size(self, record: Record) -> tuple[int, int]:
        """Return (height, width) of a sample's image in pixels, from the file's header, which is read once.

        Raises:
            DataError: The file cannot be read.
        """
        if record not in self._sizes:
            self._sizes[record] = record.image.size()
        return self._sizes[record]

    def class_pixels(self, split: str) -> Int64[Tensor, "k"]:
        """Return how many pixels of every class a split has; every mask is read, once.

        Raises:
            DataError: There is no such split, or a mask cannot be read.
        """
        if split not in self._pixels:
            classes = self.labels.num_classes
            counts = torch.zeros(classes, dtype=torch.long)
            for record in self.records(split):
                for _, target in self.target_strips(record):
                    counts += torch.bincount(target[target < classes], minlength=classes)
            self._pixels[split] = counts
        return self._pixels[split].clone()

    def channel_moments(self, split: str) -> Moments:
        """Return mean and deviation of each channel over a split's images, at most 256 of them, which are read once.

        Raises:
            DataError: There is no such split, or an image cannot be read.
        """
        if split not in self._moments:
            records = self.records(split)
            chosen = records[:: math.ceil(len(records) / _SOME)]
            mean, square = torch.stack([self._image_moments(record) for record in chosen]).mean(0)
            std = (square - mean.square()).clamp(min=1).sqrt()
            self._moments[split] = tuple(mean.tolist()), tuple(std.tolist())
        return self._moments[split]

    def _image_moments(self, record: Record) -> Float64[Tensor, "2 c"]:
        """Return the mean of each channel and of its square, of every fourth row and column."""
        sums, pixels = torch.zeros(2, record.image.channels(), dtype=torch.float64), 0
        for window in _strips(*self.image_size(record)):
            part = record.image.read(window)[:, ::_EVERY, ::_EVERY].flatten(1).double()
            sums += torch.stack([part.sum(1), part.square().sum(1)])
            pixels += part.shape[1]
        return sums / pixels

    def target_strips(self, record: Record) -> Iterator[tuple[int, Int64[Tensor, "h w"]]]:
        """Yield a sample's truth in strips of bounded size, with the number of their first row.

        Raises:
            DataError: It cannot be read.
        """
        for window in _strips(*self.image_size(record)):
            yield window.top if window else 0, self.read_target(record, window)

    def read_sample(self, record: Record, window: Window | None = None) -> Sample:
        """Read one sample, or a window of it.

        Raises:
            DataError: A file cannot be read, sizes differ, or the mask holds an id or colour that is no
                class.
        """
        image, target = record.image.read(window), self.read_target(record, window)
        _check_sizes(record, image, target)
        further = {}
        for task, source in self.further.items():
            other = source.of_same_image(record)
            if other is None:
                raise DataError(f"{record.image.path}: has no mask of the task {task!r}; add it, or remove the image")
            further[task] = source.read_target(other, window)
            _check_sizes(other, image, further[task])
        return Sample(record.stem, image, target, self.labels.ignore_index, further)

    def of_same_image(self, record: Record) -> Record | None:
        """Return the sample here of the image that another data set's sample has, or None."""
        return self._by_image.get(_place(record))

    @cached_property
    def _by_image(self) -> dict[str, Record]:
        """The samples by their image's path: splits may have equal stems, and masks in folders of their own."""
        return {_place(record): record for part in self.splits.values() for record in part}


def _strips(height: int, width: int) -> list[Window | None]:
    """Return windows of bounded size, from multiples of ``_EVERY`` rows on; None, the whole, where one would do."""
    rows = max(1, _STRIP // (_EVERY * width)) * _EVERY
    if rows >= height:
        return [None]
    return [Window(top, 0, min(rows, height - top), width) for top in range(0, height, rows)]


def _place(record: Record) -> str:
    """Return where a sample's image lies, from the root; links stay links, as two names may have masks of their own."""
    return os.path.normpath(record.image.path.absolute())


class SampleDataset(Dataset[Sample]):
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


def _check_sizes(record: Record, image: Tensor, target: Tensor) -> None:
    if image.shape[1:] != target.shape:
        seen = (image.shape[1], image.shape[2]), (target.shape[0], target.shape[1])
        raise DataError(str(size_problem(record, *seen)))


def size_problem(record: Record, image: tuple[int, int], mask: tuple[int, int]) -> Problem:
    """Return what is wrong with a mask whose (height, width) is not its image's."""
    seen = f"mask is {mask[0]}×{mask[1]} (height × width), its image {record.image.path} is {image[0]}×{image[1]}"
    if image == mask[::-1] and isinstance(record.image, ImageFile) and is_turned(record.image.path):
        return Problem(
            "exif_rotation",
            (record.mask.path, record.image.path),
            f"{seen} once turned by its EXIF orientation",
            "turn the mask as well, or remove the orientation from the image if the mask was drawn without it",
        )
    remedy = "export the mask again at the image's size, without smoothing"
    return Problem("size_mismatch", (record.mask.path, record.image.path), seen, remedy)


def made_splits(records: Sequence[Record]) -> dict[str, tuple[Record, ...]]:
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
    # A name that is not UTF-8 holds surrogates in its place.
    stem = record.stem.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(stem).digest()[:8], "big") / 2**64
