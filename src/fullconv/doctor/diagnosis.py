"""A whole data set under the lens: every sample's problems, those between samples, and what to train with."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from ..data import DataSource, open_dataset
from ..data.labels import LabelSet
from ..data.problems import Problem, refuse
from ..data.source import Record
from ..errors import DataError
from .bound import StrideBound
from .examine import Examination, examine, unlabelled

NEAR_DUPLICATE = 0.995
"""Correlation of two images' thumbnails from which on they count as nearly the same."""

IMBALANCE = 1000
"""How many times more pixels the largest class may have than the smallest."""

COMPARED = 1024
"""How many images are compared with all others at once."""

ENOUGH = 0.98
"""Share of the bound at stride 4 that a coarser stride must reach to be recommended."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is wrong with a data set, and what it is like.

    Attributes:
        source: The data set.
        problems: Errors first.
        pixels: Split → labelled pixels of every class.
        sizes: (height, width) → number of images.
        mean: Of each channel over all images, 0–255.
        std: Their standard deviation.
        upper_bound: Stride → the best mean IU that one class a cell of that stride can reach on these masks.
    """

    source: DataSource
    problems: tuple[Problem, ...]
    pixels: Mapping[str, Int64[np.ndarray, "k"]]
    sizes: Mapping[tuple[int, int], int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    upper_bound: Mapping[int, float]

    @property
    def labels(self) -> LabelSet:
        """The classes."""
        return self.source.labels

    @property
    def has_errors(self) -> bool:
        """Whether training would refuse."""
        return any(problem.severity == "error" for problem in self.problems)

    @property
    def frequencies(self) -> Float[np.ndarray, "k"]:
        """Share of the labelled pixels that each class has."""
        total = np.sum(list(self.pixels.values()), axis=0)
        return np.asarray(total / max(1, total.sum()))

    @property
    def class_weights(self) -> Float[np.ndarray, "k"]:
        """Weights for those who want them: median frequency over frequency; 0 for classes that do not occur.

        Source: Eigen & Fergus 2015, section 4.3.2, with frequencies over the whole set.
        """
        frequencies = self.frequencies
        present = frequencies > 0
        median = float(np.median(frequencies[present])) if present.any() else 0.0
        return np.where(present, median / np.where(present, frequencies, 1), 0.0)

    @property
    def recommended_stride(self) -> int:
        """The coarsest stride whose bound is at least 98 % of that at stride 4, and at most 32."""
        finest = self.upper_bound[4]
        fitting = [stride for stride, bound in self.upper_bound.items() if bound >= ENOUGH * finest]
        return max(fitting, default=8)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "format": self.source.format,
            "root": str(self.source.root),
            "splits": {split: len(records) for split, records in self.source.splits.items()},
            "classes": list(self.labels.names),
            "ignore_index": self.labels.ignore_index,
            "problems": [problem.to_dict() for problem in self.problems],
            "upper_bound": {str(stride): _number(bound) for stride, bound in self.upper_bound.items()},
            "recommended_stride": self.recommended_stride,
            "frequencies": [round(float(value), 6) for value in self.frequencies],
            "class_weights": [round(float(value), 4) for value in self.class_weights],
            "sizes": {f"{height}x{width}": count for (height, width), count in self.sizes.items()},
            "mean": [_number(value, 3) for value in self.mean],
            "std": [_number(value, 3) for value in self.std],
        }


def check(
    data: str | Path | DataSource, format: str | None = None, *, progress: Callable[[int, int], object] | None = None
) -> Diagnosis:
    """Examine every sample of a data set; nothing is written.

    Args:
        data: As for :func:`fullconv.open_dataset`.
        format: Name of a layout; by default recognised by looking.
        progress: Called with the number of samples done and of all.

    Raises:
        DataError: No samples can be found at all.
    """
    source = data if isinstance(data, DataSource) else open_dataset(data, format, strict=False)
    study = _Study(source)
    records: dict[Record, list[str]] = {}
    for split, part in source.splits.items():
        for record in dict.fromkeys(part):
            records.setdefault(record, []).append(split)
    for done, (record, splits) in enumerate(records.items(), start=1):
        study.add(splits, examine(record, source.table))
        if progress:
            progress(done, len(records))
    study.problems += _further_problems(source, records, warn=True)
    return study.diagnosis()


def unusable(data: Path, error: DataError) -> dict[str, Any]:
    """Return plain values, with the keys that everyone reads, for data that cannot be opened at all."""
    seen, _, remedy = str(error).removeprefix(f"{data}: ").partition("; ")
    problem = Problem("layout", (data,), seen, remedy or "correct it")
    return {
        "format": None,
        "root": str(data),
        "splits": {},
        "classes": [],
        "ignore_index": None,
        "problems": [problem.to_dict()],
        "upper_bound": {},
    }


def refuse_bad(source: DataSource, splits: Iterable[str]) -> None:
    """Refuse a data set of which some split has a sample that cannot be used: what training does first.

    Masks are read, of images the headers: the cheap part of ``fullconv check``.

    Raises:
        DataError: With the first error that ``check`` would report, and how many more there are.
    """
    records = dict.fromkeys(record for split in splits for record in source.records(split))
    own, modes = list[Problem](), dict[str, list[Path]]()
    for record in records:
        found = examine(record, source.table, thorough=False, warn=False)
        own += found.problems
        if found.mode:
            modes.setdefault(found.mode, []).append(record.image.path)
    refuse(_lasting([*own, *_further_problems(source, records, warn=False), *_mixed(modes)], source))


def _further_problems(source: DataSource, records: Iterable[Record], *, warn: bool) -> list[Problem]:
    """Return what is wrong with the masks of further tasks."""
    pairs = [(other, other.of_same_image(record)) for other in source.further.values() for record in records]
    return [
        problem
        for other, record in pairs
        if record
        for problem in examine(record, other.table, thorough=False, warn=warn).problems
    ]


def _lasting(problems: Sequence[Problem], source: DataSource) -> list[Problem]:
    """Return the problems without those of masks of 0 and 255 among masks that tell further classes: 255 is void."""
    if all(problem.kind != "binary_255_mask" for problem in problems):
        return list(problems)
    told = [other for other in (source, *source.further.values()) if _tells_further_classes(other)]
    fine = {record.mask.path for other in told for part in other.splits.values() for record in part}
    return [problem for problem in problems if problem.kind != "binary_255_mask" or problem.files[0] not in fine]


def _tells_further_classes(source: DataSource) -> bool:
    """Return whether 0 and 255 are known, and a mask, of which no more are read, holds another class than that of 0.

    Where white is a class, 255 may be white stored as grey: masks of colours then tell nothing of it.
    """
    zero, void = source.table.from_ids(np.array([0, 255])).tolist()
    others = [number for number in range(source.labels.num_classes) if number != zero]
    if min(zero, void) < 0 or not others:
        return False
    records = dict.fromkeys(record for part in source.splits.values() for record in part)
    white = source.table.colours.get((255, 255, 255), source.labels.ignore_index) in others
    found = (examine(record, source.table, thorough=False) for record in records)
    targets = (one.target for one in found if not (white and one.by_colour))
    return any(target is not None and np.isin(target, others).any() for target in targets)


class _Study:
    """What has been seen so far."""

    def __init__(self, source: DataSource) -> None:
        classes = source.labels.num_classes
        self.source = source
        self.problems: list[Problem] = []
        self.pixels = {split: np.zeros(classes, np.int64) for split in source.splits}
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.modes: dict[str, list[Path]] = {}
        self.highest: dict[Path, int] = {}
        self.moments: list[tuple[Float[np.ndarray, c], Float[np.ndarray, c]]] = []
        self.bound = StrideBound(classes)
        self.seen: list[tuple[str, Record, bytes, Float[np.ndarray, 768]]] = []

    def add(self, splits: Sequence[str], found: Examination) -> None:
        """Take in one sample, which stands in these splits."""
        self.problems += found.problems
        if found.size and found.mean is not None and found.square is not None and found.thumbnail is not None:
            self.sizes[found.size] += 1
            self.modes.setdefault(_channels(found.mode), []).append(found.record.image.path)
            if found.highest is not None:
                self.highest[found.record.image.path] = found.highest
            self.moments.append((found.mean, found.square))
            self.seen += [(split, found.record, found.digest, found.thumbnail) for split in splits]
        if found.target is not None:
            classes = self.source.labels.num_classes
            for split in splits:
                self.pixels[split] += np.bincount(found.target.ravel(), minlength=classes + 1)[:classes]
            self.bound.add(found.target)
            if unlabelled(found.target, self.source.table):
                remedy = "label it, or take it out of the list: it teaches and scores nothing"
                self.problems.append(Problem("empty_mask", (found.record.mask.path,), "labels no pixel", remedy))

    def diagnosis(self) -> Diagnosis:
        """Judge the whole."""
        own = _lasting(self.problems, self.source)
        problems = [*self.source.problems, *own, *_mixed(self.modes), *_wide(self.highest)]
        problems += [*self._duplicates(), *self._classes()]
        alike = [moments for moments in self.moments if moments[0].shape == self.moments[0][0].shape]
        mean, square = np.mean(alike, axis=0) if alike else np.full((2, 3), math.nan)
        return Diagnosis(
            source=self.source,
            problems=tuple(sorted(grouped(problems), key=lambda problem: problem.severity)),
            pixels=self.pixels,
            sizes=dict(self.sizes.most_common()),
            mean=tuple(mean.tolist()),
            std=tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist()),
            upper_bound=self.bound.mean_iu(),
        )

    def _duplicates(self) -> Iterator[Problem]:
        """Report images that stand in two splits, as the same file or nearly the same picture."""
        for first, second, alike in _pairs_across_splits(self.seen):
            remedy = "keep it in one of the splits, or scores flatter"
            if self.seen[first][1] == self.seen[second][1]:
                seen = f"stands in {self.seen[first][0]} and in {self.seen[second][0]}"
                yield Problem("duplicate_across_splits", (self.seen[first][1].image.path,), seen, remedy)
                continue
            same = self.seen[first][2] == self.seen[second][2]
            files = (self.seen[second][1].image.path, self.seen[first][1].image.path)
            places = f"{self.seen[second][0]} and {self.seen[first][0]}"
            kind = "duplicate_across_splits" if same else "near_duplicate_across_splits"
            how = "the same file" if same else f"nearly the same picture (correlation {alike:.4f})"
            yield Problem(kind, files, f"is {how} as {files[1]}, in {places}", remedy)

    def _classes(self) -> Iterator[Problem]:
        names, table = self.source.labels.names, self.source.table.where
        total = np.sum(list(self.pixels.values()), axis=0)
        absent = [name for name, count in zip(names, total, strict=True) if not count]
        if absent and total.any():
            remedy = "check its id and its name; if it is meant to be absent, take it off the list of classes"
            yield Problem("class_never_present", (table,), f"no mask holds {_listed(absent)}", remedy)
        for split, pixels in self.pixels.items():
            others = total - pixels
            only = [name for name, mine, rest in zip(names, pixels, others, strict=True) if mine and not rest]
            if only and len(self.pixels) > 1:
                remedy = "move an image with it to the other splits: it cannot be learned and scored at once"
                yield Problem("class_in_one_split", (table,), f"only {split} holds {_listed(only)}", remedy)
        present = total[total > 0]
        if present.size and present.max() > IMBALANCE * present.min():
            least = [name for name, count in zip(names, total, strict=True) if 0 < count * IMBALANCE < present.max()]
            seen = f"{_listed(least)} have less than 1/{IMBALANCE} of the largest class's pixels"
            remedy = "collect more of them, merge them, or sample patches that hold them"
            yield Problem("extreme_imbalance", (table,), seen, remedy)


def _pairs_across_splits(
    seen: Sequence[tuple[str, Record, bytes, Float[np.ndarray, "768"]]],
) -> Iterator[tuple[int, int, float]]:
    """Yield index pairs (first, second) of nearly equal images of different splits, and their correlation."""
    if not seen:
        return
    thumbnails = np.stack([thumbnail for *_, thumbnail in seen])
    splits = np.array([split for split, *_ in seen])
    for start in range(0, len(seen), COMPARED):
        alike = thumbnails[start : start + COMPARED] @ thumbnails.T
        alike[splits[start : start + COMPARED, None] == splits[None]] = 0
        for row, column in zip(*np.nonzero(alike > NEAR_DUPLICATE), strict=True):
            if start + row < column:
                yield int(start + row), int(column), float(alike[row, column])


def grouped(problems: Sequence[Problem]) -> list[Problem]:
    """Return one problem for all that differ only in their files, those of one file each; order is kept."""
    groups: dict[Problem, list[Path]] = {}
    for problem in problems:
        groups.setdefault(replace(problem, files=()), []).extend(problem.files)
    return [replace(problem, files=tuple(dict.fromkeys(files))) for problem, files in groups.items()]


def _mixed(modes: Mapping[str, Sequence[Path]]) -> Iterator[Problem]:
    """Report images of other channels than most: an error where each has as many as it has, and not always three."""
    bands = Counter[str]()
    for mode, files in modes.items():
        bands[_bands(mode)] += len(files)
    most = max(bands, key=lambda mode: bands[mode], default="")
    common = max((mode for mode in modes if _bands(mode) == most), key=lambda mode: len(modes[mode]), default="")
    for mode, files in modes.items():
        if _bands(mode) != most:
            seen = f"has {_bands(mode)}, most images have {most}"
            remedy = "export them alike, or choose which to read (bands: [1, 2, 3] in a dataset.yaml)"
            yield Problem("mixed_channels", tuple(files), seen, remedy, blocks=True)
        elif mode != common:
            seen = f"is {mode}, most images are {common}"
            remedy = "nothing to do if that is meant (all are read as RGB); else export them alike"
            yield Problem("mixed_channels", tuple(files), seen, remedy)


def _wide(highest: Mapping[Path, int]) -> Iterator[Problem]:
    """Warn of images of 16 bits a channel: above all where not all of them are used."""
    if not highest:
        return
    bits = max(highest.values()).bit_length()
    seen = "has 16 bits a channel, read as 8"
    remedy = "nothing to do if that is fine; else say range: [lowest, highest] in a dataset.yaml to keep all 16"
    if 0 < bits < 15:
        most = (1 << bits) - 1
        levels = (most + 128) // 257 + 1
        seen = f"has 16 bits a channel, but none a value above {most}: read as 8 bits, that is {levels} levels of grey"
        remedy = f"say range: [0, {most}] in a dataset.yaml"
    yield Problem("sixteen_bit_image", tuple(highest), seen, remedy)


def _bands(mode: str) -> str:
    """Return how many bands a network gets of an image: picture files are all read as three."""
    return mode if mode.endswith("bands") else "3 bands"


def _channels(mode: str) -> str:
    """Return how a person calls Pillow's mode; a palette counts as colour, and so do three bands of an array."""
    if mode.endswith("bands") and mode != "3 bands":
        return mode
    if mode.startswith("I") or mode in ("L", "1", "F"):
        return "grey"
    return {"LA": "grey with alpha", "RGBA": "RGB with alpha", "PA": "RGB with alpha", "CMYK": "CMYK"}.get(mode, "RGB")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _number(value: float, digits: int = 4) -> float | None:
    return None if math.isnan(value) else round(value, digits)
