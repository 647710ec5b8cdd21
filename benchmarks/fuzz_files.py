"""Do damaged and hostile files end in our own error, quickly and in bounded memory?

    python benchmarks/fuzz_files.py --files 20000 --seed 0

Small images and masks of every kind but ``.mat`` and Parquet are mutated: cut off, bits flipped, bytes overwritten,
header numbers made huge, pieces repeated. Each is read as an image, as a mask, as bands, and for its size. Allowed: an
answer or our error.
"""

import argparse
import io
import random
import resource
import struct
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fullconv.errors import DataError
from fullconv.files.images import image_size, read_image, read_mask
from fullconv.files.raster import read_raster


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def originals() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))
    ids = Image.fromarray(rng.integers(0, 8, (48, 64), np.uint8))
    wide = Image.fromarray(rng.integers(0, 65536, (48, 64), np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    array = io.BytesIO()
    np.save(array, np.array(ids))
    return {
        "a.jpg": encoded(colour, "JPEG"),
        "progressive.jpg": encoded(colour, "JPEG", progressive=True, exif=exif),
        "a.png": encoded(colour, "PNG"),
        "ids.png": encoded(ids, "PNG"),
        "palette.png": encoded(colour.quantize(16), "PNG"),
        "wide.png": encoded(wide, "PNG"),
        "alpha.png": encoded(colour.convert("RGBA"), "PNG"),
        "a.tif": encoded(colour, "TIFF", compression="tiff_lzw"),
        "ids.tif": encoded(ids, "TIFF"),
        "a.webp": encoded(colour, "WEBP"),
        "a.gif": encoded(ids, "GIF"),
        "a.bmp": encoded(colour, "BMP"),
        "a.ppm": encoded(colour, "PPM"),
        "a.npy": array.getvalue(),
    }


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 2, 8, 64])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + chance.randbytes(min(chance.randrange(1, 40), len(data) - start)) + data[start + 40 :]


def huge_number(data: bytes, chance: random.Random) -> bytes:
    """Put a very large number somewhere in the first 64 bytes, where headers keep sizes."""
    form, number = chance.choice([(">I", 2**31 - 1), ("<I", 2**31 - 1), (">H", 65535), ("<H", 65535), (">I", 30000)])
    place = chance.randrange(min(64, len(data)))
    return data[:place] + struct.pack(form, number) + data[place + struct.calcsize(form) :]


def repeat(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.randrange(1, 400))
    return data[:end] + data[start:end] * chance.randrange(1, 50) + data[end:]


def bomb(data: bytes, chance: random.Random) -> bytes:
    """A PNG of a few kilobytes that says it is enormous, and whose rows really are there."""
    side = chance.choice([9000, 20000, 60000])
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side + 1) * min(side, 200), 9)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in chunks)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    mutation.__name__: mutation for mutation in (cut, flip, overwrite, huge_number, repeat, bomb)
}


def read_bands(path: Path) -> None:
    """Read ``.npy`` and TIFF files as rasters; others are no such thing."""
    if path.suffix in (".npy", ".tif"):
        read_raster(path)


READERS = (read_image, read_mask, image_size, read_bands)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    chance = random.Random(options.seed)
    files = originals()
    ends, wrong = Counter[str](), list[str]()
    slowest = (0.0, "")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.files):
            name = chance.choice(list(files))
            mutation = chance.choices(list(MUTATIONS), weights=[4, 8, 4, 4, 2, 0.1])[0]
            path = Path(folder) / name
            path.write_bytes(MUTATIONS[mutation](files[name], chance))
            for read in READERS:
                start = time.perf_counter()
                try:
                    read(path)
                    ends["answer"] += 1
                except DataError as error:
                    ends["our error"] += 1
                    if name not in str(error):
                        wrong.append(f"{number} {mutation} {name} {read.__name__}: the message names no file: {error}")
                except BaseException as error:
                    ends["other error"] += 1
                    wrong.append(f"{number} {mutation} {name} {read.__name__}: {type(error).__name__}: {error}")
                seconds = time.perf_counter() - start
                slowest = max(slowest, (seconds, f"{mutation} {name} {read.__name__}"))
                if seconds > 2:
                    wrong.append(f"{number} {mutation} {name} {read.__name__}: {seconds:.1f} s")
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    for line in wrong[:40]:
        print(line)
    print(f"{options.files} files, seed {options.seed}: {dict(ends)}; {len(wrong)} wrong")
    print(f"slowest {slowest[0]:.2f} s ({slowest[1]}); memory grew by {growth:.0f} MB")


if __name__ == "__main__":
    main()
