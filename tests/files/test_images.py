import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fullconv.errors import DataError, UsageError
from fullconv.files import atomic, images
from fullconv.files.atomic import write_atomically
from fullconv.files.images import image_size, mask_palette, read_image, read_mask, to_rgb
from fullconv.files.masks import RasterMask
from fullconv.files.raster import read_raster

COLOUR = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = COLOUR[:, :, 0]


def expect(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def saved(tmp_path: Path, image: Image.Image, name: str = "x.png", **options: object) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image, truth = Image.fromarray(GREY.astype(np.uint16) * 257), np.repeat(GREY[:, :, None], 3, 2)
    else:
        image = Image.fromarray(COLOUR).convert(mode)
        truth = np.array(image.convert("RGB"))
    read = read_image(saved(tmp_path, image, "x.tif" if mode == "CMYK" else "x.png"))
    assert torch.equal(read, expect(truth))


def test_wide_grey_is_scaled_and_rounded(tmp_path: Path) -> None:
    wide = np.array([[0, 128, 129, 257, 65535]], np.uint16)
    assert read_image(saved(tmp_path, Image.fromarray(wide)))[0].tolist() == [[0, 0, 1, 1, 255]]


def test_transparent_pixels_keep_their_colour(tmp_path: Path) -> None:
    alpha = np.zeros((5, 7, 1), np.uint8)
    assert torch.equal(read_image(saved(tmp_path, Image.fromarray(np.dstack([COLOUR, alpha])))), expect(COLOUR))


def test_transparent_palette_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR).quantize(8)
    path = saved(tmp_path, image, transparency=bytes([0, 100, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(read_image(path), expect(np.array(image.convert("RGB"))))


def test_one_pixel(tmp_path: Path) -> None:
    assert read_image(saved(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3)))).flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_and_its_size(tmp_path: Path, suffix: str, orientation: int) -> None:
    # A wide picture, dark at the top left: orientation n says where the stored top left belongs.
    upright = np.full((16, 24), 255, np.uint8)
    upright[:8, :8] = 0
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), f"x.{suffix}", exif=exif)
    read = read_image(path)
    assert image_size(path) == (16, 24) == tuple(read.shape[1:])
    assert torch.equal(read[0] < 128, torch.from_numpy(upright < 128))


def test_exif_in_memory_counts_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.fromarray(COLOUR), exif=exif)
    assert torch.equal(to_rgb(Image.open(path)), read_image(path))


def test_broken_exif_is_no_exif(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(GREY), "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert read_image(path).shape == (3, 5, 7)
    assert image_size(path) == (5, 7)


def test_exif_that_cannot_be_parsed_is_no_exif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.fromarray(GREY), "x.jpg")

    def fail(image: Image.Image) -> Image.Exif:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert read_image(path).shape == (3, 5, 7)
    assert image_size(path) == (5, 7)


def test_arrays_and_tensors_in_memory() -> None:
    assert torch.equal(to_rgb(COLOUR), expect(COLOUR))
    assert torch.equal(to_rgb(np.dstack([COLOUR, GREY])), expect(COLOUR))
    assert torch.equal(to_rgb(GREY), expect(np.repeat(GREY[:, :, None], 3, 2)))
    assert torch.equal(to_rgb(GREY[:, :, None]), to_rgb(GREY))
    assert torch.equal(to_rgb(expect(COLOUR)), expect(COLOUR))


def test_the_tensor_is_not_the_callers_array() -> None:
    # One pixel is the case in which moving the channels first copies nothing.
    for pixels in (COLOUR, COLOUR[:1, :1]):
        array = pixels.copy()
        tensor = to_rgb(array)
        array[:] = 0
        assert torch.equal(tensor, expect(pixels))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (COLOUR.astype(np.float32), "is float32; convert it to uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\); give height × width"),
        (np.zeros(4, np.uint8), r"shape \(4,\); give height × width"),
        (np.zeros((0, 4), np.uint8), "no pixels .*; give at least 1×1"),
        (torch.zeros(4, 4, dtype=torch.uint8), r"shape \(4, 4\); give 3 × height × width"),
        (Image.new("F", (2, 2)), "floating-point pixels.*range: .*, or save it as 8- or 16-bit PNG"),
    ],
)
def test_pictures_in_memory_that_are_none(image: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_rgb(image)


def test_masks_give_raw_ids(tmp_path: Path) -> None:
    palette = Image.fromarray(GREY % 4)
    palette.putpalette([9, 9, 9] * 4)
    assert np.array_equal(read_mask(saved(tmp_path, palette)), GREY % 4)
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(GREY))), GREY)
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(GREY > 99))), GREY > 99)
    wide = GREY.astype(np.uint16) * 200
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(wide))), wide)
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(np.dstack([GREY, GREY])))), GREY)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_masks_of_few_bits_give_their_values(tmp_path: Path, bits: int) -> None:
    """A PNG by the book, of one row; as an image, it fills 8 bits."""
    values = (np.arange(8) * 37 % (1 << bits)).astype(np.uint8)
    values[-1] = (1 << bits) - 1
    row = np.packbits((values[:, None] >> np.arange(bits - 1, -1, -1, dtype=np.uint8)) & 1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    path = tmp_path / "m.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    mask = read_mask(path)
    assert mask.dtype == np.uint8 and mask.tolist() == [values.tolist()]
    assert read_image(path)[0].tolist() == [(values.astype(int) * 255 // ((1 << bits) - 1)).tolist()]


def test_colour_masks_give_colours(tmp_path: Path) -> None:
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(COLOUR))), COLOUR)
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(np.dstack([COLOUR, GREY])))), COLOUR)


def test_palettes_are_read_by_index(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 2)
    image.putpalette([1, 2, 3, 4, 5, 6])
    palette = mask_palette(saved(tmp_path, image))
    assert palette is not None and palette[:2] == ((1, 2, 3), (4, 5, 6))
    assert mask_palette(saved(tmp_path, Image.fromarray(GREY))) is None


def truncated() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()[:2000]


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "no such file; check the path"),
        (b"", r"is empty \(0 bytes\); replace the file"),
        (b"not an image", "is not an image that Pillow can read; replace the file"),
        (truncated(), "cannot be decoded .*; replace the file"),
        (b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n", "is PostScript, a program; save it as PNG"),
    ],
)
def test_unreadable_files(tmp_path: Path, read: object, contents: bytes | None, message: str) -> None:
    path = tmp_path / "x.png"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(DataError, match=f"x.png: {message}"):
        read(path)


def test_a_small_file_that_unfolds_to_a_huge_image_is_refused(tmp_path: Path) -> None:
    """34 million pixels of one colour in some 100 kB; as a mask, of one byte a pixel, they are honest."""
    Image.new("RGB", (6000, 5700)).save(tmp_path / "bomb.png")
    Image.new("L", (6000, 5700)).save(tmp_path / "mask.png")
    for name in ("bomb", "mask"):
        with pytest.raises(DataError, match=rf"{name}\.png: unfolds \d+ bytes to 130 MiB, as decompression bombs do; "):
            read_image(tmp_path / f"{name}.png")
    assert read_mask(tmp_path / "mask.png").shape == (5700, 6000)


@pytest.mark.parametrize(
    ("mode", "side", "read", "refused"),
    [
        ("RGB", 150, read_image, True),
        ("RGB", 150, image_size, True),
        ("RGB", 150, read_mask, False),
        ("RGB", 200, read_mask, True),
        ("RGB", 200, mask_palette, True),
        ("I;16", 200, read_mask, False),
        ("I;16", 300, read_mask, True),
        ("I;16", 150, read_image, True),
        ("P", 300, mask_palette, False),
    ],
)
def test_masks_may_unfold_further_than_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, side: int, read: object, refused: bool
) -> None:
    """Colours take 4 bytes a pixel and 16-bit grey 2. Here with limits 4096 times as small."""
    monkeypatch.setattr(images, "_BOMB_BYTES", images._BOMB_BYTES >> 12)
    monkeypatch.setattr(images, "_MASK_BYTES", images._MASK_BYTES >> 12)
    path = saved(tmp_path, Image.new(mode, (side, side)))
    if refused:
        with pytest.raises(DataError, match=r"x\.png: unfolds \d+ bytes to .*, as decompression bombs do; "):
            read(path)
    else:
        read(path)


def test_masks_in_geotiffs_may_unfold_further_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, value in (("_BOMB_BYTES", 1 << 15), ("_MASK_BYTES", 1 << 17), ("_BOMB_RATIO", 10)):
        monkeypatch.setattr(images, limit, value)
    small, large = (
        saved(tmp_path, Image.new("F", (side, side)), f"{side}.tif", compression="tiff_deflate") for side in (150, 200)
    )
    assert RasterMask(small).read().shape == (150, 150)
    for read in (lambda: read_raster(small), RasterMask(large).read):
        with pytest.raises(DataError, match=r"0\.tif: unfolds \d+ bytes to .*, as decompression bombs do; "):
            read()


@pytest.mark.parametrize("read", [read_image, read_mask, image_size])
def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: object) -> None:
    path = saved(tmp_path, Image.fromarray(GREY))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"x.png: too many pixels .*; scale or tile it first"):
        read(path)


def test_masks_that_cannot_hold_ids(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x.jpg: is a JPEG.*; save masks as PNG"):
        read_mask(saved(tmp_path, Image.fromarray(GREY), "x.jpg"))
    with pytest.raises(DataError, match=r"x.tif: has floating-point pixels; save masks as"):
        read_mask(saved(tmp_path, Image.fromarray(GREY.astype(np.float32)), "x.tif"))


def test_output_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.png"
    write_atomically(path, lambda part: Image.fromarray(GREY).save(part))
    before = path.read_bytes()

    def fail(part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match=r"out.png: cannot be written: No space left on device; choose another --to"):
        write_atomically(path, fail, "choose another --to")
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["out.png"]


def test_output_into_something_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"out.txt: cannot be written: .*; choose another --out"):
        write_atomically(tmp_path / "file" / "out.txt", lambda part: part.write_text("x"))
    with pytest.raises(UsageError, match="cannot be written"):
        write_atomically(tmp_path, lambda part: part.write_text("x"))


def test_devices_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    # Through a link: were the guard to fail, the link would be replaced and not the machine's device.
    link = tmp_path / "out"
    link.symlink_to(os.devnull)
    write_atomically(link, lambda part: part.write_text("x"))
    assert link.is_symlink()


def test_output_where_modes_cannot_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems without them, whose files are all another user's."""

    def forbidden(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    def replaced(path: Path) -> None:
        path.unlink()
        path.write_text("new")
        os.chmod(path, 0o600)  # noqa: PTH101

    monkeypatch.setattr(Path, "chmod", forbidden)
    write_atomically(tmp_path / "a.txt", replaced)
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_file_that_another_program_reads_is_replaced_a_little_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows."""
    real, waits = Path.replace, list[float]()

    def replaced_after(refusals: int) -> None:
        def replace(path: Path, target: Path) -> Path:
            if len(waits) < refusals:
                raise PermissionError(13, "The process cannot access the file")
            return real(path, target)

        waits.clear()
        monkeypatch.setattr(Path, "replace", replace)

    monkeypatch.setattr(atomic.time, "sleep", waits.append)
    replaced_after(2)
    write_atomically(tmp_path / "a.txt", lambda part: part.write_text("x"))
    assert (tmp_path / "a.txt").read_text() == "x" and 0 < sum(waits) < 2
    replaced_after(9)
    with pytest.raises(UsageError, match=r"a\.txt: cannot be written: The process cannot access"):
        write_atomically(tmp_path / "a.txt", lambda part: part.write_text("y"))
    assert (tmp_path / "a.txt").read_text() == "x" and len(list(tmp_path.iterdir())) == 1
