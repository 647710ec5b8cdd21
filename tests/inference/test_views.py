import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fullconv import Predictor, Views, fcn8s
from fullconv.errors import UsageError


@pytest.fixture(scope="module")
def model(noisy):
    torch.manual_seed(0)
    return noisy(fcn8s("small", 3))


def image(height=24, width=36):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_the_image_alone_is_the_plain_prediction(model):
    assert torch.equal(Predictor(model, views=Views((1.0,))).labels(image()), Predictor(model).labels(image()))


def test_a_mirrored_image_gets_the_mirrored_prediction(model):
    """Law: with its mirror image in the average, prediction commutes with flipping; without, it does not."""
    size = 24, 33

    def gap(views):
        predictor = Predictor(model, views=views)
        straight = predictor.predict(image(*size)).confidence
        return np.abs(predictor.predict(image(*size).flip(-1)).confidence[:, ::-1] - straight).max()

    assert gap(Views((0.7, 1.3), mirror=True)) < 1e-5 < gap(Views((0.7, 1.3))) / 100


def test_the_mean_of_probabilities(model):
    """Twin: each view on its own."""
    views, pixels = Views((0.5, 1.0, 1.5), mirror=True), image()
    expected = []
    for height, width in [(12, 18), (24, 36), (36, 54)]:
        view = F.interpolate(pixels[None].float(), size=(height, width), mode="bilinear", antialias=True)
        for flipped in (False, True):
            with torch.no_grad():
                logits = model(view.flip(-1) if flipped else view)
            logits = logits.flip(-1) if flipped else logits
            expected.append(F.interpolate(logits, size=(24, 36), mode="bilinear", antialias=True).softmax(1)[0])
    best, labels = torch.stack(expected).mean(0).max(0)
    prediction = Predictor(model, views=views).predict(pixels)
    assert torch.equal(torch.from_numpy(prediction.labels).long(), labels)
    assert torch.allclose(torch.from_numpy(prediction.confidence), best, atol=1e-5)


def test_a_single_pixel_has_views_too(model):
    assert Predictor(model, views=Views((0.1, 2.0), mirror=True)).labels(image(1, 1)).shape == (1, 1)


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -0.5), (75.0, 100.0), (math.nan,), (math.inf,)])
def test_scales_are_positive(scales):
    with pytest.raises(UsageError, match="factors above 0, at most 8"):
        Views(scales)
