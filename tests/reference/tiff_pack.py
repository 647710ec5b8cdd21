"""A GeoTIFF by the book (TIFF 6.0 and OGC GeoTIFF 1.1), written byte by byte: one strip, no compression."""

import struct
from pathlib import Path

import numpy as np

SHORT, LONG, DOUBLE, ASCII = 3, 4, 12, 2
CODES = {SHORT: "H", LONG: "I", DOUBLE: "d", ASCII: "s"}


def write_geotiff(path: Path, pixels: np.ndarray, nodata: float | None = None) -> None:
    """Write h×w×c values with a pixel of 10 m and an origin at (500000, 4000000) in UTM 33N."""
    height, width, bands = pixels.shape
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    data = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"))).tobytes()
    tags = [
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [8 * pixels.dtype.itemsize] * bands),
        (259, SHORT, [1]),
        (262, SHORT, [1]),
        (273, LONG, [8]),
        (277, SHORT, [bands]),
        (278, LONG, [height]),
        (279, LONG, [len(data)]),
        (284, SHORT, [1]),
        *([(338, SHORT, [0] * (bands - 1))] if bands > 1 else []),
        (339, SHORT, [kind] * bands),
        (33550, DOUBLE, [10.0, 10.0, 0.0]),
        (33922, DOUBLE, [0.0, 0.0, 0.0, 500000.0, 4000000.0, 0.0]),
        (34735, SHORT, [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633]),
        *([(42113, ASCII, [f"{nodata}\0".encode()])] if nodata is not None else []),
    ]
    start = 8 + len(data)
    after = start + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, type_, values in tags:
        raw = values[0] if type_ == ASCII else struct.pack(f"<{len(values)}{CODES[type_]}", *values)
        count = len(raw) if type_ == ASCII else len(values)
        if len(raw) > 4:
            raw, extra = struct.pack("<I", after + len(extra)), extra + raw
        entries += struct.pack("<HHI", tag, type_, count) + raw.ljust(4, b"\0")
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + data + directory + extra)
