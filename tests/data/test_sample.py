import torch

from fullconv.data.sample import Sample, collate


def sample(stem: str, height: int, width: int) -> Sample:
    generator = torch.Generator().manual_seed(height)
    image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
    return Sample(stem, image, torch.randint(5, (height, width), generator=generator))


def test_equal_sizes_are_stacked_untouched() -> None:
    samples = [sample("a", 4, 6), sample("b", 4, 6)]
    batch = collate(samples, 255)
    assert torch.equal(batch.images, torch.stack([s.image for s in samples]).float())
    assert torch.equal(batch.targets, torch.stack([s.target for s in samples]))
    assert batch.stems == ("a", "b")


def test_smaller_images_are_padded_at_the_bottom_and_right() -> None:
    samples = [sample("a", 4, 6), sample("b", 5, 3)]
    batch = collate(samples, 99, fill=(1.0, 2.0, 3.0))
    assert batch.images.shape == (2, 3, 5, 6) and batch.ignore_index == 99
    for index, s in enumerate(samples):
        h, w = s.target.shape
        assert torch.equal(batch.images[index, :, :h, :w], s.image.float())
        assert torch.equal(batch.targets[index, :h, :w], s.target)
        outside = torch.ones(5, 6, dtype=torch.bool)
        outside[:h, :w] = False
        assert (batch.targets[index][outside] == 99).all()
        assert (batch.images[index][:, outside] == torch.tensor([[1.0], [2.0], [3.0]])).all()
