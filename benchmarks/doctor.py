"""Does ``fullconv check`` find every defect, and nothing else? Random corpora with injected defects.

    python benchmarks/doctor.py --shared ../shared --corpora 20 --images 500

Each corpus is a copy of images of a real data set. The clean copy is examined first: what is found there is the data
set's own. Then defects of 24 kinds, all that lie in files but for ``palette_order`` and ``binary_255_mask``, are
injected at random places, and the difference is compared with what was injected, file by file.
"""

import argparse
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import fullconv

# Folder of images, of masks, and number of classes. Any other folder is taken for the generated data set.
BASES = {"stanford_bg": ("images", "semantic", 8), "siftflow": ("images", "semantic", 34)}
OWN = {"class_never_present", "class_in_one_split", "extreme_imbalance"}
PER_KIND = 2


class Corpus:
    """A data set of copies: ``images/``, ``masks/``, two lists and a table of classes."""

    def __init__(self, root: Path, classes: int, chance: random.Random) -> None:
        self.root, self.classes, self.chance = root, classes, chance
        self.expected: set[tuple[str, str]] = set()
        self.free: list[str] = []

    def image(self, stem: str) -> Path:
        return next((self.root / "images").glob(f"{stem}.*"))

    def mask(self, stem: str) -> Path:
        return self.root / "masks" / f"{stem}.png"

    def ids(self, stem: str) -> np.ndarray:
        return np.array(Image.open(self.mask(stem)))

    def expect(self, kind: str, path: Path) -> None:
        self.expected.add((kind, path.name))


def write_clean(base: Path, root: Path, count: int, chance: random.Random, avoid: set[str]) -> Corpus:
    images, masks, classes = BASES.get(base.name, ("images", "masks", 6))
    files = {path.stem: path for path in sorted((base / images).iterdir())}
    stems = sorted(files.keys() - avoid)
    chosen = chance.sample(stems, min(count, len(stems)))
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for stem in chosen:
        if files[stem].suffix == ".jpg":
            shutil.copyfile(files[stem], root / "images" / f"{stem}.jpg")
        else:
            Image.open(files[stem]).save(root / "images" / f"{stem}.jpg", quality=95)
        shutil.copyfile(base / masks / f"{stem}.png", root / "masks" / f"{stem}.png")
    cut = len(chosen) * 4 // 5
    (root / "train.txt").write_text("\n".join(chosen[:cut]))
    (root / "test.txt").write_text("\n".join(chosen[cut:]))
    (root / "classes.txt").write_text("\n".join(f"class{number}" for number in range(classes)))
    corpus = Corpus(root, classes, chance)
    corpus.free = chosen[:]
    chance.shuffle(corpus.free)
    return corpus


def missing_mask(c: Corpus, stem: str) -> None:
    c.mask(stem).unlink()
    c.expected.add(("missing_mask", stem))


def missing_image(c: Corpus, stem: str) -> None:
    c.image(stem).unlink()
    c.expected.add(("missing_image", stem))


def duplicate_stem(c: Corpus, stem: str) -> None:
    copy = c.image(stem).with_suffix(".png")
    Image.open(c.image(stem)).save(copy)
    c.expect("duplicate_stem", copy)


def wrong_extension(c: Corpus, stem: str) -> None:
    path = c.image(stem)
    Image.open(path).copy().save(path, "PNG")
    c.expect("wrong_extension", path)


def empty_image(c: Corpus, stem: str) -> None:
    c.image(stem).write_bytes(b"")
    c.expect("empty_file", c.image(stem))


def empty_mask_file(c: Corpus, stem: str) -> None:
    c.mask(stem).write_bytes(b"")
    c.expect("empty_file", c.mask(stem))


def truncated_image(c: Corpus, stem: str) -> None:
    data = c.image(stem).read_bytes()
    c.image(stem).write_bytes(data[: int(len(data) * c.chance.uniform(0.1, 0.9))])
    c.expect("unreadable", c.image(stem))


def truncated_mask(c: Corpus, stem: str) -> None:
    data = c.mask(stem).read_bytes()
    c.mask(stem).write_bytes(data[: int(len(data) * c.chance.uniform(0.1, 0.9))])
    c.expect("unreadable", c.mask(stem))


def garbage(c: Corpus, stem: str) -> None:
    c.image(stem).write_bytes(c.chance.randbytes(5000))
    c.expect("unreadable", c.image(stem))


def size_mismatch(c: Corpus, stem: str) -> None:
    mask = Image.open(c.mask(stem))
    scale = c.chance.choice([0.5, 0.9, 2])
    mask.resize((round(mask.width * scale), round(mask.height * scale)), Image.Resampling.NEAREST).save(c.mask(stem))
    c.expect("size_mismatch", c.mask(stem))


def exif_rotation(c: Corpus, stem: str) -> None:
    path = c.image(stem)
    image = Image.open(path).copy()
    if image.width == image.height:
        # A square picture's mask has the right size either way: make both oblong first.
        image = image.crop((0, 0, image.width, image.height - 32))
        Image.fromarray(c.ids(stem)[:-32]).save(c.mask(stem))
    exif = Image.Exif()
    exif[0x0112] = c.chance.choice([6, 8])
    image.save(path, "JPEG", quality=90, exif=exif)
    c.expect("exif_rotation", c.mask(stem))


def lossy_mask(c: Corpus, stem: str) -> None:
    Image.open(c.mask(stem)).convert("L").save(c.mask(stem).with_suffix(".jpg"), quality=90)
    c.mask(stem).unlink()
    c.expected.add(("lossy_mask", f"{stem}.jpg"))


def alpha_mask(c: Corpus, stem: str) -> None:
    ids = c.ids(stem)
    Image.fromarray(np.stack([ids, np.full_like(ids, 255)], axis=2), "LA").save(c.mask(stem))
    c.expect("alpha_mask", c.mask(stem))


def transparent_mask(c: Corpus, stem: str) -> None:
    ids = c.ids(stem)
    Image.fromarray(np.stack([np.zeros_like(ids), ids], axis=2), "LA").save(c.mask(stem))
    c.expect("transparent_mask", c.mask(stem))


def antialiased_mask(c: Corpus, stem: str) -> None:
    ids = c.ids(stem)
    if np.ptp(ids[ids != 255]) < 3:
        # Between neighbouring ids there is none that smoothing could put there.
        ids[ids == ids.min()] = c.classes - 1
    mask = Image.fromarray(ids)
    small = mask.resize((mask.width // 2, mask.height // 2), Image.Resampling.NEAREST)
    small.resize(mask.size, Image.Resampling.BILINEAR).save(c.mask(stem))
    c.expect("antialiased_mask", c.mask(stem))


def rgb_mask_without_table(c: Corpus, stem: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    Image.fromarray(colours[c.ids(stem)]).save(c.mask(stem))
    c.expect("rgb_mask_without_table", c.mask(stem))


def off_by_one_ids(c: Corpus, stem: str) -> None:
    ids = c.ids(stem).astype(int)
    ids[:20, :20] = c.classes - 1
    Image.fromarray(np.where(ids == 255, 255, ids + 1).astype(np.uint8)).save(c.mask(stem))
    c.expect("off_by_one_ids", c.mask(stem))


def stray_ids(c: Corpus, stem: str) -> None:
    ids = c.ids(stem)
    top, left = c.chance.randrange(ids.shape[0] - 8), c.chance.randrange(ids.shape[1] - 8)
    ids[top : top + 8, left : left + 8] = c.chance.randrange(60, 250)
    Image.fromarray(ids).save(c.mask(stem))
    c.expect("stray_ids", c.mask(stem))


def empty_mask(c: Corpus, stem: str) -> None:
    Image.fromarray(np.full_like(c.ids(stem), 255)).save(c.mask(stem))
    c.expect("empty_mask", c.mask(stem))


def sixteen_bit_image(c: Corpus, stem: str) -> None:
    path = c.image(stem)
    grey = np.array(Image.open(path).convert("L")).astype(np.uint16) * 257
    path.unlink()
    Image.fromarray(grey).save(path.with_suffix(".png"))
    c.expect("sixteen_bit_image", path.with_suffix(".png"))
    c.expect("mixed_channels", path.with_suffix(".png"))


def tiny_image(c: Corpus, stem: str) -> None:
    side = c.chance.randrange(8, 32)
    height, width = c.ids(stem).shape
    left, top = c.chance.randrange(width - side), c.chance.randrange(height - side)
    Image.open(c.image(stem)).crop((left, top, left + side, top + side)).save(c.image(stem), quality=95)
    Image.fromarray(c.ids(stem)[top : top + side, left : left + side]).save(c.mask(stem))
    c.expect("tiny_image", c.image(stem))


def mixed_channels(c: Corpus, stem: str) -> None:
    Image.open(c.image(stem)).convert("L").save(c.image(stem), quality=95)
    c.expect("mixed_channels", c.image(stem))


def other_list(c: Corpus, stem: str) -> Path:
    train = c.root / "train.txt"
    return c.root / "test.txt" if stem in train.read_text().split("\n") else train


def duplicate_across_splits(c: Corpus, stem: str) -> None:
    twin = f"{stem}_again"
    shutil.copyfile(c.image(stem), c.root / "images" / f"{twin}.jpg")
    shutil.copyfile(c.mask(stem), c.mask(twin))
    with other_list(c, stem).open("a") as file:
        file.write(f"\n{twin}")
    c.expected.add(("duplicate_across_splits", f"{twin}.jpg"))


def near_duplicate_across_splits(c: Corpus, stem: str) -> None:
    twin = f"{stem}_near"
    image = Image.open(c.image(stem))
    size = (round(image.width * 0.9), round(image.height * 0.9))
    image.resize(size, Image.Resampling.BICUBIC).save(
        c.root / "images" / f"{twin}.jpg", quality=c.chance.randrange(40, 90)
    )
    Image.open(c.mask(stem)).resize(size, Image.Resampling.NEAREST).save(c.mask(twin))
    with other_list(c, stem).open("a") as file:
        file.write(f"\n{twin}")
    c.expected.add(("near_duplicate_across_splits", f"{twin}.jpg"))


DEFECTS: dict[str, Callable[[Corpus, str], None]] = {
    defect.__name__: defect
    for defect in (
        missing_mask, missing_image, duplicate_stem, wrong_extension, empty_image, empty_mask_file, truncated_image,
        truncated_mask, garbage, size_mismatch, exif_rotation, lossy_mask, alpha_mask, transparent_mask,
        antialiased_mask, rgb_mask_without_table, off_by_one_ids, stray_ids, empty_mask,
        sixteen_bit_image, tiny_image, mixed_channels, duplicate_across_splits, near_duplicate_across_splits,
    )
}  # fmt: skip


def found(root: Path) -> tuple[set[tuple[str, str]], float]:
    """Return (kind, file name) of everything that the doctor finds, and milliseconds an image."""
    start = time.perf_counter()
    diagnosis = fullconv.check(root)
    seconds = time.perf_counter() - start
    images = sum(len(records) for records in diagnosis.source.splits.values())
    pairs = {(problem.kind, file.name) for problem in diagnosis.problems for file in problem.files}
    return pairs, 1000 * seconds / images


def matches(expected: tuple[str, str], pairs: set[tuple[str, str]]) -> bool:
    return expected in pairs


def run(
    base: Path, folder: Path, count: int, seed: int, avoid: set[str]
) -> tuple[Counter[str], Counter[str], list[str], float]:
    chance = random.Random(seed)
    corpus = write_clean(base, folder, count, chance, avoid)
    own, milliseconds = found(folder)
    assert {kind for kind, _ in own} <= OWN, f"the clean corpus has problems of its own: {sorted(own)[:5]}"
    injected, missed, wrong = Counter[str](), Counter[str](), list[str]()
    for name, defect in DEFECTS.items():
        for _ in range(PER_KIND):
            before = set(corpus.expected)
            defect(corpus, corpus.free.pop())
            injected[name] += len(corpus.expected - before)
    pairs, _ = found(folder)
    for kind, file in corpus.expected:
        if (kind, file) not in pairs:
            missed[kind] += 1
            wrong.append(f"missed {kind} {file}")
    named = {file for _, file in corpus.expected} | {Path(file).stem for _, file in corpus.expected}
    for kind, file in pairs - own - corpus.expected:
        # A pair names both of its files, a mask of another size also its image; lists stand for the stems they name.
        partner = Path(file).stem in {name.removesuffix("_again").removesuffix("_near").split(".")[0] for name in named}
        if not (kind in OWN or file.endswith(".txt") or (partner and any(kind == k for k, _ in corpus.expected))):
            wrong.append(f"false alarm {kind} {file}")
    return injected, missed, wrong, milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/stanford_bg and data/siftflow")
    parser.add_argument("--corpora", type=int, default=20)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    injected, missed, wrong, speeds = Counter[str](), Counter[str](), list[str](), list[float]()
    avoid = {name: own_problems(options.shared / "data" / name) for name in BASES}
    for number in range(options.corpora):
        name = list(BASES)[number % len(BASES)]
        with tempfile.TemporaryDirectory() as folder:
            one = run(
                options.shared / "data" / name, Path(folder) / "set", options.images, options.seed + number, avoid[name]
            )
        injected += one[0]
        missed += one[1]
        wrong += [f"corpus {number} ({name}): {line}" for line in one[2]]
        speeds.append(one[3])
        print(f"corpus {number} {name}: {sum(one[0].values())} injected, {len(one[2])} wrong, {one[3]:.2f} ms an image")
    for line in wrong[:40]:
        print(line)
    total = sum(injected.values())
    print(
        f"{len(DEFECTS)} defects, {total} injected, {sum(missed.values())} missed, {len(wrong) - sum(missed.values())} "
        f"false alarms; {statistics.median(speeds):.2f} ms an image (median)"
    )


def own_problems(base: Path) -> set[str]:
    """Return the stems that have a problem in the data set itself, duplicates above all: corpora are made without."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        stems = write_clean(base, root, 10**9, random.Random(0), set()).free
        # Each image in a split of its own, so that every pair of equal images is seen.
        splits = "\n".join(f"  s{number}: ['{stem}']" for number, stem in enumerate(stems))
        (root / "dataset.yaml").write_text(f"splits:\n{splits}\n")
        return {Path(file).stem for kind, file in found(root)[0] if kind not in OWN}


if __name__ == "__main__":
    main()
