"""Patches: what is read is a window of the image, and where it lies follows the choice."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fullconv.data import EpochSampler, Patches, TrainingTransform, collate, open_dataset
from fullconv.data import source as module
from fullconv.errors import UsageError

H, W, CROP = 96, 160, (32, 32)


@pytest.fixture
def source(tmp_path):
    """Position written into the colours; one small object of class 1 in one of three images."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    rows, columns = np.mgrid[:H, :W].astype(np.uint8)
    for number, stem in enumerate("abc"):
        Image.fromarray(np.dstack([rows, columns, np.full_like(rows, number)])).save(tmp_path / f"images/{stem}.png")
        ids = np.zeros((H, W), np.uint8)
        if stem == "b":
            ids[70:74, 100:104] = 1
        Image.fromarray(ids).save(tmp_path / f"masks/{stem}.png")
    (tmp_path / "dataset.yaml").write_text(
        "images: images\nmasks: masks\nsplits: {train: [a, b, c]}\nclasses: [background, object]\n"
    )
    return open_dataset(tmp_path)


def patches(source, choice="uniform", **options):
    transform = TrainingTransform(CROP, **{"scale": (1.0, 1.0), "flip": 0.0, "colour": 0.0} | options)
    return Patches(source, source.records("train"), transform, choice)


def test_every_image_gets_as_many_as_crops_tile_it(source):
    assert len(patches(source)) == 3 * 3 * 5
    transform = TrainingTransform(CROP, scale=(1.5, 1.5))
    assert len(Patches(source, source.records("train"), transform, enlarged=1.5)) == 3 * 5 * 8, "as large as seen"
    assert [int(patches(source)[index, 0].image[2, 0, 0]) for index in (0, 14, 15, 30)] == [0, 0, 1, 2]


def test_a_patch_is_the_window_of_its_image(source):
    seen = set()
    for seed in range(40):
        sample = patches(source)[0, seed]
        top, left = sample.image[:2, 0, 0].tolist()
        expected = torch.stack(torch.meshgrid(torch.arange(32) + top, torch.arange(32) + left, indexing="ij"))
        assert sample.image[:2].equal(expected.to(torch.uint8))
        seen.add((top, left))
    assert len(seen) > 30 and max(top for top, _ in seen) > 55 and max(left for _, left in seen) > 110


@pytest.mark.parametrize("strip", [1 << 25, 1])
def test_rare_classes_are_met_as_often_as_others(source, monkeypatch, strip):
    """Also where masks are read a few rows at a time."""
    monkeypatch.setattr(module, "_STRIP", strip)

    def share(choice):
        drawn = patches(source, choice)
        return sum(bool((drawn[0, seed].target == 1).any()) for seed in range(200)) / 200

    assert share("uniform") == 0
    assert 0.4 < share("class") < 0.6
    assert 0.4 < share("foreground") < 0.6


def test_scale_changes_the_window_and_not_the_patch(source):
    """The columns of the image lie one apart, those of a patch at twice the scale a half."""
    for low, high in ((0.5, 0.5), (2.0, 2.0), (0.5, 2.0)):
        samples = [patches(source, "class", scale=(low, high))[0, seed] for seed in range(10)]
        assert all(sample.image.shape == (3, *CROP) for sample in samples)
        steps = [float(sample.image[1].float().diff(dim=1)[:, 5:25].mean()) for sample in samples]
        assert min(steps) > 0.9 / high and max(steps) < 1.1 / low
        assert low == high or (min(steps) < 0.8 and max(steps) > 1.25)


@pytest.mark.parametrize("scale", [(1.4, 3.0), (4.0, 16.0)])
def test_where_the_image_goes_on_a_patch_has_no_empty_border(source, scale):
    """A window is cut to whole pixels, and stretched to the patch's size."""
    drawn = patches(source, "foreground", scale=scale)
    assert all((drawn[index, seed].target != 255).all() for index in (0, 20) for seed in range(20))


def test_patches_do_not_depend_on_the_number_of_workers(source):
    def drawn(workers):
        sampler = EpochSampler(45, 3)
        sampler.set_epoch(2)
        loader = DataLoader(
            patches(source, "class", scale=(0.5, 2.0), flip=0.5, colour=0.3),
            batch_size=9,
            sampler=sampler,
            num_workers=workers,
            collate_fn=lambda samples: collate(samples, 255),
            multiprocessing_context="fork" if workers else None,
        )
        return [(batch.stems, batch.images.sum(), batch.targets.sum()) for batch in loader]

    assert drawn(0) == drawn(2)


def test_images_smaller_than_the_crop_are_padded(source):
    transform = TrainingTransform((128, 200), scale=(1.0, 1.0), flip=0.0)
    sample = Patches(source, source.records("train"), transform)[1, 0]
    assert sample.image.shape == (3, 128, 200) and (sample.target[H:] == 255).all()


@pytest.mark.parametrize("crop", [(32, 64), (64, 32)])
def test_height_and_width_of_the_crop_are_those_of_the_window(source, crop):
    drawn = Patches(source, source.records("train"), TrainingTransform(crop, scale=(1.0, 1.0), flip=0.0))
    target = drawn[0, 0].target
    assert target.shape == crop and not (target == 255).any()


def test_no_patch_is_sought_in_void(source):
    Image.fromarray(np.full((H, W), 255, np.uint8)).save(source.records("train")[2].mask.path)
    drawn = patches(source, "class")
    assert {int(drawn[0, seed].image[2, 0, 0]) for seed in range(40)} == {0, 1}


def test_patches_need_a_size(source):
    with pytest.raises(UsageError, match="patches need a size: set crop"):
        Patches(source, source.records("train"), TrainingTransform(None))
