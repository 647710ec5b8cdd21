"""More than red, green, blue: the bands, value ranges and further files that a ``dataset.yaml`` asks for."""

from dataclasses import replace
from pathlib import Path

from ..errors import DataError
from ..files.images import MASK_SUFFIXES
from ..files.pictures import Bands, Picture, Stack
from .description import Description
from .pairing import composed, files_in, plain_stem
from .problems import Problem
from .source import Contents, Record


def with_channels(contents: Contents, description: Description, root: Path) -> Contents:
    """Return the samples with their images read as ``bands``, ``range`` and ``stack`` say.

    Raises:
        DataError: A folder of ``stack`` does not exist.
    """
    if description.bands is None and description.range is None and not description.stack:
        return contents
    layers = {
        root / folder: ({plain_stem(path): path for path in files_in(root / folder, MASK_SUFFIXES)}, value_range)
        for folder, value_range in description.stack.items()
    }
    problems = list(contents.problems)
    splits: dict[str, tuple[Record, ...]] = {}
    for split, records in contents.splits.items():
        kept = []
        for record in records:
            parts: list[Picture] = [_main(record.image, description)]
            for folder, (files, value_range) in layers.items():
                if (stem := composed(record.stem)) in files:
                    parts.append(Bands(files[stem], None, value_range))
                else:
                    seen = f"has no file of the same stem in {folder}, which stack names"
                    remedy = "add it, or take the sample off its list"
                    problems.append(Problem("missing_image", (record.image.path,), seen, remedy))
            if len(parts) == 1 + len(layers):
                kept.append(replace(record, image=parts[0] if len(parts) == 1 else Stack(tuple(parts))))
        splits[split] = tuple(kept)
    return replace(contents, splits=splits, problems=tuple(problems))


def _main(image: Picture, description: Description) -> Picture:
    if description.bands is None and description.range is None:
        return image
    if isinstance(image, Stack):
        raise DataError(f"{image.path}: bands and range are for images of one file each; remove them")
    numbers = None if description.bands is None else tuple(description.bands)
    return Bands(image.path, numbers, description.range)
