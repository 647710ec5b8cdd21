import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from fullconv.data.sample import Sample
from fullconv.data.transforms import TrainingTransform, recoloured
from fullconv.errors import UsageError

SIDES = st.integers(1, 40)
SIZES = st.tuples(SIDES, SIDES)


def encoded(height: int, width: int) -> Sample:
    """A sample whose image says where each pixel came from: row, column; its target both at once."""
    rows = torch.arange(height).view(-1, 1).expand(height, width)
    columns = torch.arange(width).view(1, -1).expand(height, width)
    return Sample("x", torch.stack([rows, columns, rows]).to(torch.uint8), rows * 100 + columns)


@given(SIZES, SIZES, st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_without_scaling_image_and_target_move_together(
    size: tuple[int, int], crop: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    result = TrainingTransform(crop, scale=(1.0, 1.0), colour=0.0, fill=(201.0, 202.0, 203.0), ignore_index=-1)(
        encoded(*size)
    )
    assert tuple(result.target.shape) == crop
    image = result.image.long()
    void = result.target == -1
    assert torch.equal(torch.where(void, -1, image[0] * 100 + image[1]), result.target)
    assert (image[:, void] == torch.tensor([[201], [202], [203]])).all()
    assert int((~void).sum()) == min(crop[0], size[0]) * min(crop[1], size[1])


@given(SIZES, SIZES, st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_with_scaling_the_target_follows_the_image(size: tuple[int, int], crop: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    transform = TrainingTransform(crop, scale=(0.5, 2.0), colour=0.0, fill=(0.0, 0.0, 0.0), ignore_index=-1)
    result = transform(encoded(*size))
    assert tuple(result.target.shape) == crop and result.image.shape[1:] == crop
    inside = result.target >= 0
    rows, columns = result.target // 100, result.target % 100
    # On a ramp, bilinear and nearest resampling differ by half a source pixel, more only beside the image's border.
    assert ((result.image[0].long() - rows)[inside].abs() <= 1).all()
    assert ((result.image[1].long() - columns)[inside].abs() <= 1).all()


def test_down_to_a_single_pixel() -> None:
    """torch's own resizing of 8-bit images fails on a column of two."""
    torch.manual_seed(1)
    sample = encoded(2, 1)
    for _ in range(20):
        result = TrainingTransform((1, 1), scale=(0.5, 0.5), colour=0.0)(sample)
        assert result.image.dtype == torch.uint8 and result.image.shape == (3, 1, 1)


def test_scaling_has_no_shift() -> None:
    torch.manual_seed(0)
    for scale in (0.4, 0.5, 0.8, 1.7, 2.0):
        shifts = []
        for _ in range(20):
            result = TrainingTransform((24, 24), (scale, scale), flip=0.0, colour=0.0, ignore_index=-1)(encoded(90, 90))
            inside = result.target >= 0
            difference = (result.image[0].double() - result.target // 100)[inside]
            shifts.append(difference.mean().item())
        assert abs(sum(shifts) / 20) < 0.15


@given(SIZES)
@settings(deadline=None, max_examples=20)
def test_switched_off_it_is_the_identity(size: tuple[int, int]) -> None:
    sample = encoded(*size)
    for crop in (None, size):
        result = TrainingTransform(crop, scale=(1.0, 1.0), flip=0.0, colour=0.0)(sample)
        assert torch.equal(result.image, sample.image) and torch.equal(result.target, sample.target)
        assert type(result.image) is type(result.target) is torch.Tensor


def test_mirroring_happens_always_or_never() -> None:
    sample = encoded(3, 5)
    mirrored = TrainingTransform(None, flip=1.0, colour=0.0)(sample)
    assert torch.equal(mirrored.image, sample.image.flip(2)) and torch.equal(mirrored.target, sample.target.flip(1))
    assert torch.equal(TrainingTransform(None, flip=0.0, colour=0.0)(sample).image, sample.image)


def test_mirroring_happens_half_of_the_time() -> None:
    torch.manual_seed(0)
    flip = TrainingTransform(None, colour=0.0)
    assert 70 < sum(int(flip(encoded(1, 2)).target[0, 0]) for _ in range(200)) < 130


def test_scale_is_drawn_log_uniformly_and_every_place_is_reached() -> None:
    torch.manual_seed(0)
    transform = TrainingTransform((10, 10), (0.5, 2.0), flip=0.0, colour=0.0)
    results = [transform(encoded(40, 40)).target for _ in range(300)]
    spans = [int(target[-1, 0] // 100 - target[0, 0] // 100) for target in results]
    assert min(spans) >= 4 and max(spans) <= 20
    assert 110 < sum(span < 10 for span in spans) < 190
    assert {0, 39} <= {int(value) // 100 for target in results for value in (target[0, 0], target[-1, 0])}


@given(st.floats(0.7, 1.3), st.floats(0.7, 1.3), st.floats(0.7, 1.3), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_colour_is_torchvisions_but_for_rounding_between(b: float, c: float, s: float, seed: int) -> None:
    """Values are kept away from 0 and 255, where torchvision also clips in between."""
    image = torch.randint(90, 140, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    slow = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(image, b), c), s)
    assert (recoloured(image, b, c, s).int() - slow.int()).abs().max() <= 3
    exact = F.adjust_contrast(F.adjust_brightness(image / 255, b), c)
    exact = 255 * F.adjust_saturation(exact, s)
    torch.testing.assert_close(recoloured(image.float(), b, c, s), exact, atol=0.05, rtol=1e-3)
    assert (recoloured(image, b, c, s) - exact).abs().max() <= 0.55


def test_colour_of_one_channel_keeps_it_grey() -> None:
    image = torch.randint(0, 256, (1, 5, 7), dtype=torch.uint8)
    assert torch.equal(recoloured(image, 1.0, 1.0, 0.3), image), "there is no saturation to change"
    assert torch.equal(recoloured(image, 2.0, 1.0, 1.0), (2 * image.int()).clamp(max=255).to(torch.uint8))


def test_colour_changes_the_image_within_bounds_and_never_the_target() -> None:
    torch.manual_seed(0)
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    transform = TrainingTransform(None, flip=0.0, colour=0.3)
    results = [transform(Sample("x", image, torch.zeros(8, 8, dtype=torch.int64))) for _ in range(50)]
    # On a uniform grey image only brightness shows.
    values = {int(result.image[0, 0, 0]) for result in results}
    assert len(values) > 10 and min(values) >= 69 and max(values) <= 131
    assert all(not result.target.any() for result in results)


def test_contrast_and_saturation_change_too() -> None:
    torch.manual_seed(0)
    image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    image[:, 0], image[0, 1] = 100, 150
    results = [
        TrainingTransform(None, flip=0.0)(Sample("x", image, torch.zeros(2, 2, dtype=torch.int64))).image
        for _ in range(50)
    ]
    ratios = {(round(float(r[0, 1, 0] / r[0, 0, 0]), 2), int(r[1, 1, 0]) > 0) for r in results}
    assert len(ratios) > 10


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_the_number_of_threads_changes_no_colour(kind: torch.dtype) -> None:
    """As many threads as there are sum a large image in parts; a process that reads images has one."""
    image, threads = (torch.rand(3, 391, 387) * 255).to(kind), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = recoloured(image, 0.9, 0.8, 1.2)
        torch.set_num_threads(3)
        assert torch.equal(recoloured(image, 0.9, 0.8, 1.2), alone)
    finally:
        torch.set_num_threads(threads)


def test_padding_is_never_recoloured() -> None:
    torch.manual_seed(0)
    result = TrainingTransform((20, 20), (1.0, 1.0), fill=(10.0, 20.0, 30.0))(encoded(5, 5))
    assert result.image[:, 19, 19].tolist() == [10, 20, 30]


def test_cost_does_not_grow_with_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    from fullconv.data import transforms

    seen: list[tuple[int, ...]] = []
    resize = transforms.F.resize
    monkeypatch.setattr(
        transforms.F, "resize", lambda x, size, *a, **k: seen.append(x.shape) or resize(x, size, *a, **k)
    )
    TrainingTransform((16, 16), (4.0, 4.0))(encoded(40, 40))
    assert seen == [(3, 4, 4)]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"crop": (0, 5)}, r"crop is \(0, 5\); give"),
        ({"crop": None, "scale": (2.0, 0.5)}, r"scale is \(2.0, 0.5\); give the smaller"),
        ({"crop": None, "scale": (0.0, 0.5)}, "scale is .*; give"),
        ({"crop": None, "flip": 1.5}, "flip is 1.5; give a number from 0 to 1"),
        ({"crop": None, "colour": -0.1}, "colour is -0.1; give a number from 0 to 1"),
    ],
)
def test_impossible_settings(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingTransform(**settings_)


@given(SIZES, st.integers(1, 9), st.floats(0.05, 1.0), st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_cells_of_the_target_are_kept_whole_or_not_at_all(
    size: tuple[int, int], cell: int, keep: float, seed: int
) -> None:
    torch.manual_seed(seed)
    still = TrainingTransform(None, flip=0.0, colour=0.0, ignore_index=-1, keep=keep, cell=cell)
    sample = encoded(*size)
    result = still(sample)
    assert torch.equal(result.image, sample.image), "of the image everything is seen"
    for top in range(0, size[0], cell):
        for left in range(0, size[1], cell):
            window = (slice(top, top + cell), slice(left, left + cell))
            whole = torch.equal(result.target[window], sample.target[window])
            assert whole or bool((result.target[window] == -1).all())
            assert whole or keep < 1


def test_cells_are_kept_with_the_probability_asked_for() -> None:
    """Of 10,000 cells a quarter, to four standard deviations."""
    torch.manual_seed(0)
    result = TrainingTransform(None, flip=0.0, colour=0.0, ignore_index=-1, keep=0.25, cell=4)(encoded(400, 400))
    kept = float((result.target != -1).float().mean())
    assert abs(kept - 0.25) < 4 * (0.25 * 0.75 / 10_000) ** 0.5


def test_every_pixel_counts_in_an_image_that_is_made_smaller() -> None:
    """A quarter of the columns is white, between the centres of the pixels that they become."""
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, :, ::4] = 255
    still = TrainingTransform((8, 8), scale=(0.25, 0.25), flip=0.0, colour=0.0)
    grey = still(Sample("x", image, torch.zeros(32, 32, dtype=torch.long))).image.float()
    assert abs(float(grey.mean()) - 255 / 4) < 8
