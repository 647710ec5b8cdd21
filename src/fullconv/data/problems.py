"""What can be wrong with a data set, in one table; and a problem that was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import DataError

Severity = Literal["error", "warning"]

KINDS: dict[str, Severity] = {
    # which files there are
    "layout": "error",
    "missing_mask": "error",
    "missing_image": "error",
    "duplicate_stem": "error",
    "wrong_extension": "warning",
    # one file
    "empty_file": "error",
    "unreadable": "error",
    "size_mismatch": "error",
    "exif_rotation": "error",
    "lossy_mask": "error",
    "alpha_mask": "warning",
    "transparent_mask": "error",
    "antialiased_mask": "warning",
    "rgb_mask_without_table": "warning",
    "palette_order": "error",
    "binary_255_mask": "error",
    "off_by_one_ids": "error",
    "stray_ids": "error",
    "empty_mask": "warning",
    "sixteen_bit_image": "warning",
    "tiny_image": "warning",
    # the whole set
    "mixed_channels": "warning",
    "duplicate_across_splits": "warning",
    "near_duplicate_across_splits": "warning",
    "class_never_present": "warning",
    "class_in_one_split": "warning",
    "extreme_imbalance": "warning",
}
"""Every kind of problem, and whether training refuses (error) or goes on (warning)."""

_SHOWN = 3


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    Attributes:
        kind: One of ``KINDS``.
        files: The files it is in, most telling first.
        seen: What was seen in them.
        remedy: What to do.
        blocks: Training must refuse, although the kind by itself is only a warning.
    """

    kind: str
    files: tuple[Path, ...]
    seen: str
    remedy: str
    blocks: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of problem {self.kind!r}")

    @property
    def severity(self) -> Severity:
        """``error``: training refuses; ``warning``: it goes on."""
        return "error" if self.blocks else KINDS[self.kind]

    def __str__(self) -> str:
        """Return one line: the first file, what was seen, and the remedy."""
        return f"{self.files[0]}: {self.seen}; {self.remedy}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "files": [str(file) for file in self.files],
            "seen": self.seen,
            "remedy": self.remedy,
        }


def refuse(problems: Sequence[Problem]) -> None:
    """Raise the first error among ``problems``, if there is one.

    Raises:
        DataError: With the problem's line, and how many more there are.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more problems: fullconv check lists them)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}")
