from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]


def write_pair(root: Path, stem: str, mask: np.ndarray, image_size: tuple[int, int] | None = None) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(parents=True, exist_ok=True)
    size = image_size or mask.shape[:2]
    pixels = np.random.default_rng(len(stem)).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(root / "images" / f"{stem}.png")
    Image.fromarray(mask).save(root / "masks" / f"{stem}.png")


@pytest.fixture
def imitation(tmp_path: Path) -> Write:
    """A function that writes a plain folder of 4×6 samples whose masks hold the given ids."""

    def write(
        stems: Sequence[str] = ("a", "b", "c"), ids: Sequence[int] = (0, 1, 2, 255), folder: str = "set", **texts: str
    ) -> Path:
        root = tmp_path / folder
        mask = np.resize(np.array(ids), (4, 6)).astype(np.uint8)
        for stem in stems:
            write_pair(root, stem, mask)
        for name, text in texts.items():
            (root / name.replace("_", ".")).write_text(text)
        return root

    return write
