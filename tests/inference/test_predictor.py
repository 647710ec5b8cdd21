import copy
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from fullconv import FCN, fcn8s, load
from fullconv.data.labels import LabelSet
from fullconv.errors import DataError, ModelError, UsageError
from fullconv.inference import Predictor, Views
from fullconv.inference.prediction import colours

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def predictor(noisy):
    torch.manual_seed(0)
    model = noisy(fcn8s("small", 3))
    model.labels["semantic"] = LabelSet.of(["a", "b", "c"], [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    return Predictor(model)


def rgb(height=20, width=30):
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2), (37, 70)])
def test_any_size(predictor, size):
    prediction = predictor.predict(rgb(*size))
    assert prediction.labels.shape == prediction.confidence.shape == size
    assert prediction.labels.max() < 3
    assert 1 / 3 - 1e-6 <= prediction.confidence.min() <= prediction.confidence.max() <= 1


def test_labels_and_confidence_are_softmaxes(predictor):
    """Twin: the plain softmax of the logits."""
    image = rgb()
    logits = predictor.model.logits(torch.from_numpy(image).permute(2, 0, 1)[None].float())["semantic"][0]
    best, labels = logits.softmax(0).max(0)
    prediction = predictor.predict(image)
    assert np.array_equal(prediction.labels, labels.numpy())
    assert np.allclose(prediction.confidence, best.detach().numpy(), atol=1e-5)
    assert torch.equal(predictor.labels(torch.from_numpy(image).permute(2, 0, 1)), labels)


def test_every_way_of_giving_an_image_is_the_same(predictor, tmp_path):
    image = rgb()
    Image.fromarray(image).save(tmp_path / "image.png")
    ways = [image, Image.fromarray(image), tmp_path / "image.png", str(tmp_path / "image.png")]
    ways += [np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]), torch.from_numpy(image).permute(2, 0, 1)]
    first, *others = [predictor.predict(way).labels for way in ways]
    assert all(np.array_equal(first, other) for other in others)


def test_modes_of_images(predictor, tmp_path):
    grey = RNG.integers(0, 256, (20, 30), np.uint8)
    as_rgb = predictor.predict(np.dstack([grey] * 3)).labels
    assert np.array_equal(predictor.predict(grey).labels, as_rgb)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(predictor.predict(tmp_path / "deep.png").labels, as_rgb)
    palette = Image.fromarray(rgb()).quantize(16)
    assert np.array_equal(predictor.predict(palette).labels, predictor.predict(palette.convert("RGB")).labels)


def test_rotated_photos_are_turned_upright(predictor, tmp_path):
    image = Image.fromarray(rgb(20, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    assert predictor.predict(tmp_path / "turned.png").labels.shape == (30, 20)


def test_saved_labels_are_class_ids_in_class_colours(predictor, tmp_path):
    prediction = predictor.predict(rgb())
    prediction.save(tmp_path / "labels.png")
    again = Image.open(tmp_path / "labels.png")
    assert again.mode == "P"
    assert np.array_equal(np.asarray(again), prediction.labels)
    assert np.array_equal(np.asarray(again.convert("RGB")), colours(prediction.labels, predictor.label_set))


def test_predictions_are_told_apart_as_objects(predictor):
    one, other = predictor.predict(rgb()), predictor.predict(rgb())
    assert one == one and one != other and len({one, other, one}) == 2


def test_overlay_goes_from_image_to_colours(predictor):
    prediction = predictor.predict(rgb())
    assert np.array_equal(np.asarray(prediction.overlay(0.0)), prediction.image)
    assert np.array_equal(np.asarray(prediction.overlay(1.0)), colours(prediction.labels, predictor.label_set))
    assert prediction.overlay().size == (30, 20)


def test_nothing_is_left_where_a_file_cannot_be_written(predictor, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"labels\.png"):
        predictor.predict(rgb()).save(tmp_path / "file" / "labels.png")


def test_load_takes_models_and_runs(predictor, tmp_path):
    for folder in ("model", "run/best", "stopped/last"):
        predictor.model.save_pretrained(tmp_path / folder)
    fcn8s("small", 3).save_pretrained(tmp_path / "run" / "last")
    image = rgb()
    expected = predictor.predict(image).labels
    assert not np.array_equal(load(tmp_path / "run" / "last").predict(image).labels, expected)
    for folder in ("model", "run", "stopped"):
        assert np.array_equal(load(tmp_path / folder).predict(image).labels, expected)
    with torch.inference_mode():
        assert np.array_equal(load(tmp_path / "model").predict(image).labels, expected)


def test_errors_are_named(predictor, tmp_path):
    with pytest.raises(ModelError, match="nowhere: no such model"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"none\.jpg"):
        predictor.predict(tmp_path / "none.jpg")
    with pytest.raises(UsageError, match="no task 'depth'; it has semantic"):
        Predictor(predictor.model, task="depth")


def test_one_channel_networks_take_any_image():
    assert Predictor(fcn8s("small", 2, in_channels=1)).predict(rgb()).labels.shape == (20, 30)
    with pytest.raises(UsageError, match="takes 4 channels"):
        Predictor(fcn8s("small", 2, in_channels=4)).predict(rgb())
    with pytest.raises(UsageError, match="takes 1 channels, the image has 2"):
        Predictor(fcn8s("small", 2, in_channels=1)).labels(torch.zeros(2, 20, 30))


def test_arrays_of_channels_must_be_scaled():
    predictor = Predictor(fcn8s("small", 2, in_channels=2))
    image = np.zeros((20, 30, 2))
    image[5, 5, 1] = 255 + 1e-5
    assert predictor.predict(image).labels.shape == (20, 30), "to within rounding"
    for wrong in (-1, 65535, np.nan):
        image[5, 5, 1] = wrong
        with pytest.raises(UsageError, match=r"values go from .* to .*; scale each channel to 0–255 by the range of"):
            predictor.predict(image)


def test_a_network_in_training_predicts_as_ever_and_learns_nothing(predictor):
    image = rgb()
    network = copy.deepcopy(predictor.model)
    kept = Predictor(network)
    before = {name: value.clone() for name, value in network.train().state_dict().items()}
    assert np.array_equal(kept.predict(image).confidence, predictor.predict(image).confidence)
    assert all(layer.training for layer in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_task_is_chosen_by_name():
    model = fcn8s("small", {"semantic": 4, "geometric": 3})
    assert Predictor(model).label_set.num_classes == 4
    assert Predictor(model, task="geometric").label_set.num_classes == 3
    assert isinstance(model, FCN)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_a_network_of_less_precision_predicts_about_the_same(predictor, precision):
    image = rgb(60, 70)
    full, less = (Predictor(model).predict(image) for model in (predictor.model, copied(predictor.model, precision)))
    assert np.abs(full.confidence - less.confidence).mean() < 0.02
    assert (full.labels == less.labels).mean() > 0.95


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_what_is_resized_may_be_of_less_precision(noisy, precision):
    image = rgb(60, 70)
    model = noisy(fcn8s("small", 3, input_scale=1.5))
    full, less = (
        Predictor(network, views=Views((1.0, 0.5), mirror=True)).predict(image)
        for network in (model, copied(model, precision))
    )
    assert (full.labels == less.labels).mean() > 0.9


def copied(model, precision):
    return copy.deepcopy(model).to(precision)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_agrees_with_the_cpu(predictor):
    image = rgb(64, 64)
    cpu = predictor.predict(image)
    gpu = Predictor(predictor.model, device="cuda").predict(image)
    Predictor(predictor.model, device="cpu")
    assert np.abs(cpu.confidence - gpu.confidence).max() < 1e-3


def test_an_image_too_large_for_the_memory_is_named(predictor, tmp_path, monkeypatch):
    def short_of_memory(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    Image.fromarray(rgb()).save(tmp_path / "image.png")
    monkeypatch.setattr(predictor.model, "logits", short_of_memory)
    with pytest.raises(DataError, match=r"image\.png: 20×30 pixels .* the memory \(cpu\); scale .* \(\[enforce"):
        predictor.predict(tmp_path / "image.png")
    monkeypatch.undo()
    monkeypatch.setattr(torch, "logsumexp", short_of_memory)
    with pytest.raises(DataError, match=r"image\.png: 20×30 pixels are too much for the memory"):
        predictor.predict(tmp_path / "image.png")
    monkeypatch.setattr(predictor.model, "logits", lambda *_: torch.zeros(2)[3:].reshape(7))
    with pytest.raises(RuntimeError, match="shape"):
        predictor.predict(rgb())


@pytest.mark.parametrize("where", ["logits", "logsumexp"])
def test_the_error_of_an_image_too_large_holds_no_tensor(predictor, monkeypatch, where):
    """Notebooks keep the last error."""
    held = []

    def short_of_memory(*inputs):
        scores = inputs[0] * 1
        held.append(weakref.ref(scores))
        raise RuntimeError("can't allocate memory")

    def maximum(scores, axis):
        held.append(weakref.ref(scores))
        return real(scores, axis)

    real = torch.Tensor.max
    monkeypatch.setattr(torch.Tensor, "max", maximum)
    monkeypatch.setattr(predictor.model if where == "logits" else torch, where, short_of_memory)
    with pytest.raises(DataError) as raised:
        predictor.predict(rgb())
    assert held and all(tensor() is None for tensor in held), raised


def test_more_classes_than_a_byte_holds(tmp_path):
    model = fcn8s("small", 300, context="none")
    next(iter(model.heads["semantic"].score.values())).bias.data[299] = 1
    prediction = Predictor(model).predict(rgb())
    prediction.save(tmp_path / "labels.png")
    assert (prediction.labels == 299).all() and (np.asarray(Image.open(tmp_path / "labels.png")) == 299).all()
