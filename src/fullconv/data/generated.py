"""The embedded demo data set: shapes on textures, drawn from a seed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from ..errors import UsageError
from ..files.atomic import write_atomically
from .formats import open_dataset
from .labels import LabelSet
from .source import DataSource

SHAPES = LabelSet.of(["background", "disc", "square", "triangle", "ring", "cross"])
"""The classes of the demo data set."""

_BORDER = 1.25
_LEAST_VISIBLE = 0.65
_FAITHFUL = 0.95

Plane = Float[np.ndarray, "h w"]
Pattern = Callable[[np.random.Generator, Plane, Plane], Plane]


def write_shapes(root: str | Path, count: int = 400, seed: int = 0, sizes: tuple[int, int] = (72, 128)) -> DataSource:
    """Write and open the demo data set: ``images/``, ``masks/``, ``classes.txt`` and three lists of stems.

    Discs, squares, triangles, rings and crosses of any size, turn and colour lie on a texture and on one another. Form
    tells the class, and mostly a bold pattern too; colour never does. A border of 2–3 pixels around each is void
    (255). The same seed gives the same pixels, and sample ``i`` does not depend on ``count``. 80 % train, 10 % val,
    the rest test.

    Args:
        root: The folder to write; missing folders are made.
        count: Number of images, at least 3.
        seed: Any whole number ≥ 0.
        sizes: Smallest and largest side in pixels; height and width are drawn independently.

    Returns:
        The data set, opened.

    Raises:
        UsageError: ``count`` or ``sizes`` are too small, or the folder cannot be written.
    """
    if count < 3 or seed < 0:
        raise UsageError(f"count {count}, seed {seed}: give a count of at least 3 and a seed of at least 0")
    if not 32 <= sizes[0] <= sizes[1]:
        raise UsageError(f"sizes is {sizes}; give the smaller side first, at least 32 pixels, such as (72, 128)")
    root = Path(root)
    stems = [f"shapes-{index:04d}" for index in range(count)]
    # The lists come first, so that an interrupted call leaves a folder that says what is missing.
    _write_lists(root, stems)
    for index, stem in enumerate(stems):
        image, mask = draw_shapes(seed, index, sizes)
        _save(Image.fromarray(image), root / "images" / f"{stem}.png")
        _save(_palette_image(mask), root / "masks" / f"{stem}.png")
    return open_dataset(root)


def _save(image: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        image.save(path, compress_level=1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}; choose another folder") from error


def _palette_image(mask: UInt8[np.ndarray, "h w"]) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette(SHAPES.png_palette())
    return image


def _write_lists(root: Path, stems: list[str]) -> None:
    held_out = max(1, len(stems) // 10)
    first, second = len(stems) - 2 * held_out, len(stems) - held_out
    lists = {"train": stems[:first], "val": stems[first:second], "test": stems[second:]}
    texts = {f"{split}.txt": "\n".join(part) + "\n" for split, part in lists.items()}
    rows = zip(SHAPES.names, SHAPES.palette, strict=True)
    texts["classes.txt"] = "".join(f"{name} {red} {green} {blue}\n" for name, (red, green, blue) in rows)
    for name, text in texts.items():
        write_atomically(root / name, partial(Path.write_text, data=text, encoding="utf-8"))


def draw_shapes(
    seed: int, index: int, sizes: tuple[int, int] = (72, 128)
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Return image ``index`` of the demo data set (RGB, 0–255) and its mask (class ids, 255 = void).

    Args:
        seed: The data set's seed.
        index: Which image.
        sizes: Smallest and largest side in pixels.
    """
    rng = np.random.default_rng([seed, index])
    height, width = rng.integers(sizes[0], sizes[1] + 1, 2)
    canvas = _Canvas(rng, int(height), int(width))
    for _ in range(rng.integers(1, 5)):
        canvas.add_shape()
    return canvas.picture(), canvas.mask


class _Canvas:
    """An image and its mask while shapes are laid on them."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.y, self.x = np.mgrid[:height, :width].astype(np.float32)
        self.pixels = _texture(rng, self.y, self.x, _colour(rng))
        self.mask = np.zeros((height, width), np.uint8)
        self.visible: list[Bool[np.ndarray, "h w"]] = []
        self.areas: list[int] = []

    def add_shape(self) -> None:
        """Lay a random shape on top, unless it would hide too much of an earlier one."""
        number = int(self.rng.integers(1, SHAPES.num_classes))
        form, pattern = _FORMS[SHAPES.names[number]]
        distance = self._distance(form)
        inside = distance < 0
        visible = [shape & ~inside for shape in self.visible]
        if any(shape.sum() < _LEAST_VISIBLE * area for shape, area in zip(visible, self.areas, strict=True)):
            return
        under = self.pixels[inside].mean(0) if inside.any() else self.pixels.mean((0, 1))
        texture = _texture(self.rng, self.y, self.x, _colour(self.rng, under), pattern)
        cover = np.clip(0.5 - distance, 0, 1)[:, :, None]
        self.pixels += cover * (texture - self.pixels)
        self.mask[inside] = number
        self.mask[np.abs(distance) < _BORDER] = SHAPES.ignore_index
        self.visible = [*visible, inside]
        self.areas.append(int(inside.sum()))

    def _distance(self, form: Callable[[Plane, Plane, float], Plane]) -> Plane:
        """Return the signed distance to a form of random place, turn and size, in pixels, negative inside."""
        height, width = self.mask.shape
        radius = min(height, width) * self.rng.uniform(0.2, 0.38)
        y = self.y - self.rng.uniform(0.6 * radius, height - 0.6 * radius)
        x = self.x - self.rng.uniform(0.6 * radius, width - 0.6 * radius)
        turn = self.rng.uniform(0, 2 * np.pi)
        sine, cosine = np.float32(np.sin(turn)), np.float32(np.cos(turn))
        return form(cosine * y - sine * x, sine * y + cosine * x, float(radius))

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """Return the image under uneven light and with noise, 0–255."""
        slope = self.rng.uniform(-0.15, 0.15, 2)
        height, width = self.mask.shape
        light = 1 + slope[0] * (self.y / height - 0.5) + slope[1] * (self.x / width - 0.5)
        noise = self.rng.standard_normal(self.pixels.shape, np.float32) * self.rng.uniform(2, 10)
        return np.asarray(np.clip(self.pixels * light[:, :, None] + noise, 0, 255).astype(np.uint8))


def _disc(y: Plane, x: Plane, radius: float) -> Plane:
    return np.asarray(np.hypot(y, x) - np.float32(0.9 * radius))


def _box(y: Plane, x: Plane, half_height: float, half_width: float) -> Plane:
    dy, dx = np.abs(y) - np.float32(half_height), np.abs(x) - np.float32(half_width)
    return np.asarray(np.hypot(np.maximum(dy, 0), np.maximum(dx, 0)) + np.minimum(np.maximum(dy, dx), 0))


def _square(y: Plane, x: Plane, radius: float) -> Plane:
    return _box(y, x, 0.8 * radius, 0.8 * radius)


def _triangle(y: Plane, x: Plane, radius: float) -> Plane:
    slant = np.float32(np.sqrt(0.75)) * np.abs(x) - 0.5 * y
    return np.asarray(np.maximum(slant, y) - np.float32(0.55 * radius))


def _ring(y: Plane, x: Plane, radius: float) -> Plane:
    return np.asarray(np.abs(np.hypot(y, x) - np.float32(0.75 * radius)) - np.float32(0.25 * radius))


def _cross(y: Plane, x: Plane, radius: float) -> Plane:
    return np.asarray(np.minimum(_box(y, x, radius, 0.32 * radius), _box(y, x, 0.32 * radius, radius)))


def _colour(rng: np.random.Generator, under: Float[np.ndarray, "3"] | None = None) -> Float[np.ndarray, "3"]:
    """Return a random colour, 0–255, that can be told from the one ``under`` it."""
    while True:
        colour = rng.uniform(20, 235, 3).astype(np.float32)
        if under is None or np.abs(colour - under).sum() > 110:
            return colour


def _texture(
    rng: np.random.Generator, y: Plane, x: Plane, colour: Float[np.ndarray, "3"], favourite: Pattern | None = None
) -> Float[np.ndarray, "h w 3"]:
    """Return a pattern around a colour, 0–255: the favourite one mostly and boldly, or any one faintly."""
    if favourite is not None and rng.uniform() < _FAITHFUL:
        pattern, contrast = favourite, rng.uniform(25, 60, 3) * rng.choice([-1, 1], 3)
    else:
        pattern, contrast = _PATTERNS[int(rng.integers(len(_PATTERNS)))], rng.uniform(-20, 20, 3)
    return np.asarray(colour + contrast.astype(np.float32) * pattern(rng, y, x)[:, :, None])


def _plain(rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
    return np.zeros_like(y)


def _wave(rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
    turn, length = rng.uniform(0, np.pi), rng.uniform(4, 14)
    return _ripple(rng, y, x, turn, length)


def _ripple(rng: np.random.Generator, y: Plane, x: Plane, turn: float, length: float) -> Plane:
    along = np.float32(np.sin(turn)) * y + np.float32(np.cos(turn)) * x
    return np.sin(along * np.float32(2 * np.pi / length) + np.float32(rng.uniform(0, 2 * np.pi)))


def _stripes(rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
    return np.asarray(np.sign(_wave(rng, y, x)))


def _checks(rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
    turn, length = rng.uniform(0, np.pi), rng.uniform(4, 14)
    return np.asarray(np.sign(_ripple(rng, y, x, turn, length)) * np.sign(_ripple(rng, y, x, turn + np.pi / 2, length)))


def _clouds(rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
    cells = int(rng.integers(3, 16))
    small = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.array(small.resize((y.shape[1], y.shape[0]), Image.Resampling.BICUBIC))


def _speckle(rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
    return rng.choice(np.array([-1, 0, 0, 1], np.float32), y.shape)


_PATTERNS = (_plain, _wave, _stripes, _checks, _clouds, _speckle)
_FORMS = {
    "disc": (_disc, _speckle),
    "square": (_square, _checks),
    "triangle": (_triangle, _stripes),
    "ring": (_ring, _plain),
    "cross": (_cross, _clouds),
}
