"""How many samples a second reach training, against the same work written with torchvision's reference presets?

    python benchmarks/input_pipeline.py --data siftflow --rounds 7
    python benchmarks/input_pipeline.py --data photos --rounds 7

Both sides read the same files in the same order, resize by 0.5–2, crop (256 of SIFT Flow's 256×256, 480 of the 640×480
photos), mirror, change colours by ±0.3 and collate batches of 8, in this process, on one thread of torch. The reference
is ``SegmentationPresetTrain`` of torchvision's references/segmentation (PIL and tensor back ends; its order: resize,
mirror, crop), with ``ColorJitter`` added since ours has it. Sides alternate; samples/s are medians over the rounds.
``--train`` measures instead how much of a training step's time goes into waiting for data.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from fullconv.data import Augmented, CachedDataset, DataSource, EpochSampler, TrainingTransform, collate, open_dataset

BATCH = 8


def siftflow(shared: Path, folder: Path) -> tuple[DataSource, int]:
    root = shared / "siftflow"
    description = folder / "dataset.yaml"
    names = {number: f"class {number}" for number in range(1, 34)}
    description.write_text(
        f"images: {root.resolve()}/images\nmasks: {root.resolve()}/semantic\nsplits: {{train: {root.resolve()}/"
        f"trainval.txt}}\nclasses: {names}\nlabel_map: {{0: void}}\n"
    )
    return open_dataset(description), 256


def photos(shared: Path, folder: Path) -> tuple[DataSource, int]:
    root = shared / "voc_animals"
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for file in sorted((root / "JPEGImages").iterdir())[:400]:
        Image.open(file).convert("RGB").resize((640, 480)).save(folder / "images" / file.name, quality=90)
        mask = Image.open(root / "SegmentationClass" / f"{file.stem}.png")
        mask.resize((640, 480), Image.Resampling.NEAREST).save(folder / "masks" / f"{file.stem}.png")
    names = [f"class {number}" for number in range(21)]
    (folder / "dataset.yaml").write_text(
        f"images: images\nmasks: masks\nclasses: {names}\nsplits: {{train: all.txt}}\n"
    )
    (folder / "all.txt").write_text("\n".join(file.stem for file in sorted((folder / "images").iterdir())))
    return open_dataset(folder), 480


DATA = {"siftflow": siftflow, "photos": photos}


def ours(source: DataSource, crop: int, order: list[tuple[int, int]], cached: CachedDataset | None) -> Iterator[object]:
    transform = TrainingTransform((crop, crop), ignore_index=source.labels.ignore_index)
    samples = Augmented(cached or source.dataset("train"), transform)
    for start in range(0, len(order), BATCH):
        yield collate([samples[key] for key in order[start : start + BATCH]], source.labels.ignore_index)


class PadIfSmaller(v2.Transform):
    """As in the reference: pads at the bottom and right, masks with 255."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image, mask):
        height, width = v2.functional.get_size(image)
        padding = [0, 0, max(0, self.size - width), max(0, self.size - height)]
        if any(padding):
            image, mask = v2.functional.pad(image, padding, 0), v2.functional.pad(mask, padding, 255)
        return image, mask


def preset(backend: str, base: int, crop: int) -> v2.Compose:
    return v2.Compose(
        [
            *([v2.ToImage()] if backend == "tensor" else []),
            v2.RandomResize(min_size=int(0.5 * base), max_size=int(2.0 * base), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            PadIfSmaller(crop),
            v2.RandomCrop(crop),
            v2.ColorJitter(0.3, 0.3, 0.3),
            *([v2.PILToTensor()] if backend == "pil" else []),
            v2.ToDtype({tv_tensors.Image: torch.float32, torch.Tensor: torch.float32, "others": None}, scale=True),
            v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )


def reference(source: DataSource, crop: int, order: list[tuple[int, int]], backend: str) -> Iterator[object]:
    records, base = source.records("train"), min(source.image_size(source.records("train")[0]))
    transform = preset(backend, base, crop)
    for start in range(0, len(order), BATCH):
        images, masks = [], []
        for index, _ in order[start : start + BATCH]:
            image = Image.open(records[index].image.path).convert("RGB")
            target = v2.functional.pil_to_tensor(Image.open(records[index].mask.path))
            image, mask = transform(image, tv_tensors.Mask(target.squeeze(0), dtype=torch.int64))
            images.append(image)
            masks.append(mask)
        yield torch.stack(images), torch.stack(masks)


def speed(batches: Iterator[object], count: int) -> float:
    start = time.perf_counter()
    for _ in batches:
        pass
    return count / (time.perf_counter() - start)


def compare(source: DataSource, crop: int, rounds: int, images: int) -> None:
    cached = CachedDataset(source.dataset("train"), 2 << 30)
    sides = {
        "ours": lambda order: ours(source, crop, order, None),
        "ours, decoded samples cached": lambda order: ours(source, crop, order, cached),
        "torchvision preset, PIL": lambda order: reference(source, crop, order, "pil"),
        "torchvision preset, tensors": lambda order: reference(source, crop, order, "tensor"),
    }
    results: dict[str, list[float]] = {name: [] for name in sides}
    torch.set_num_threads(1)
    sampler = EpochSampler(min(images, len(source.records("train"))), 0)
    for number in range(rounds + 1):
        sampler.set_epoch(number)
        order = list(sampler)
        for name, side in sides.items():
            rate = speed(side(order), len(order))
            if number:
                results[name].append(rate)
    best = max(statistics.median(results[name]) for name in list(sides)[2:])
    for name, rates in results.items():
        median = statistics.median(rates)
        spread = f"{min(rates):.1f}–{max(rates):.1f}"
        print(f"{name:30} {median:7.1f} samples/s  {median / best:5.2f} × the better preset  {spread}")


def waiting(source: DataSource, crop: int, steps: int) -> None:
    import fullconv
    from fullconv.losses import pixel_cross_entropy
    from fullconv.training.runtime import Runtime

    model = fullconv.fcn8s("timm:tf_efficientnet_lite0", num_classes=source.labels.num_classes, context=128).train()
    Runtime(device="cpu").prepare(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for cached in (False, True):
        kept = CachedDataset(source.dataset("train"), 2 << 30) if cached else None
        sampler = EpochSampler(BATCH * steps, 0)
        if kept:
            for index, _ in list(sampler):
                kept[index]
        batches, waited, start = ours(source, crop, list(sampler), kept), 0.0, time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            loss = pixel_cross_entropy(model(batch.images), batch.targets, ignore_index=batch.ignore_index)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        share = waited / (time.perf_counter() - start)
        how = "cached" if cached else "read anew"
        print(f"{how}: {100 * share:.1f} % of the time of {steps} steps went into waiting for data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, default="siftflow")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--train", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, crop = DATA[options.data](options.shared, Path(folder))
        if options.train:
            waiting(source, crop, 30)
        else:
            compare(source, crop, options.rounds, options.images)


if __name__ == "__main__":
    main()
