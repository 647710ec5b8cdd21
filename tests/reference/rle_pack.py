"""An encoder for Label Studio's brush (thi.ng/rle-pack), written from the format's description."""

from collections.abc import Sequence


def encode(values: Sequence[int]) -> list[int]:
    """Pack 8-bit values: length, word size, four run sizes, then runs (1) of one value and chunks (0) of several."""
    bits: list[str] = []

    def put(number: int, width: int) -> None:
        bits.append(format(number, f"0{width}b"))

    sizes = (3, 4, 8, 16)
    put(len(values), 32)
    put(8 - 1, 5)
    for size in sizes:
        put(size - 1, 4)
    position = 0
    while position < len(values):
        count = 1
        while position + count < len(values) and values[position + count] == values[position] and count < 1 << 16:
            count += 1
        # Runs of one or two go into a chunk, to exercise that branch as well.
        if count <= 2:
            chunk = list(values[position : position + min(4, len(values) - position)])
            put(0, 1), put(0, 2), put(len(chunk) - 1, sizes[0])
            for value in chunk:
                put(value, 8)
            position += len(chunk)
            continue
        which = next(index for index, size in enumerate(sizes) if count - 1 < 1 << size)
        put(1, 1), put(which, 2), put(count - 1, sizes[which]), put(values[position], 8)
        position += count
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[start : start + 8], 2) for start in range(0, len(text), 8)]
