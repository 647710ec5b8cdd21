"""One step: what it changes, what it does where memory runs out, and what stops it."""

import copy
import math
import re
import warnings
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fullconv import fcn8s
from fullconv.data import Batch
from fullconv.errors import FullconvError, NotFinite, UsageError
from fullconv.models import FCN
from fullconv.nn import strips
from fullconv.training.config import OptimSection, load_config
from fullconv.training.interrupt import Abandoned
from fullconv.training.optim import build_optimiser
from fullconv.training.progress import rate_in_words
from fullconv.training.runtime import Runtime
from fullconv.training.step import Objective, accumulate_gradients, check_step, class_weights, step_size, train_step


def step(model, batch, config=None, runtime=None, optim=None, classes=4):
    """One of a new optimiser, of the recipe where nothing else is said."""
    config = config or load_config("modern")
    objective = Objective(config, runtime or Runtime(device="cpu"), {"semantic": torch.ones(classes)})
    return train_step(model, [batch], build_optimiser(model, optim or config.optim), objective)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("said otherwise"),
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 10 bytes.",
        "could not create a primitive",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_a_batch_too_large_for_the_memory_is_taken_in_parts(model, batch, monkeypatch, error):
    """A network that runs out of memory above two images ends where one with enough ends."""
    config = load_config("modern", {"optim.jaccard": 0})
    monkeypatch.setattr(FCN, "train", lambda model, mode=True: model)  # Batch statistics do depend on the parts.
    twin, real, seen = copy.deepcopy(model), model.coarse, []

    def short_of_memory(images):
        seen.append(len(images))
        if len(images) > 2:
            raise RuntimeError(error) if isinstance(error, str) else error
        return real(images)

    monkeypatch.setattr(model, "coarse", short_of_memory)
    runtime, sgd = Runtime(device="cpu"), OptimSection(optimiser="sgd", rate=0.1)
    with pytest.warns(UserWarning, match="out of memory: batches are now taken in 4 parts"):
        loss = step(model, batch, config, runtime, sgd)
    assert seen == [6, 3, 2, 2, 2]
    expected = step(twin, batch, config, optim=sgd)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, msg=lambda text, name=name: name + text)
    step(model, batch, config, runtime)
    assert seen[5:] == [2, 2, 2], "later steps start in parts"


def test_the_error_of_an_image_too_large_holds_no_activations(model, batch, monkeypatch):
    """Notebooks keep the last error."""
    held = []

    def short_of_memory(images):
        activations = images * 2
        held.append(weakref.ref(activations))
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(model, "coarse", short_of_memory)
    with (
        pytest.warns(UserWarning, match="out of memory"),
        pytest.raises(FullconvError, match="one image at a time is too much") as raised,
    ):
        step(model, batch)
    assert held and all(tensor() is None for tensor in held), raised


def test_a_pass_that_ran_out_of_memory_does_not_count(batch, monkeypatch):
    """Twin: weights and statistics of a step that was taken in two parts from the first, dropping out the same."""
    torch.manual_seed(0)
    model = fcn8s("small", num_classes=4, context=8, dropout=0.5)
    torch.nn.init.normal_(model.heads["semantic"].score["context"].weight)
    twin, real, runtime = copy.deepcopy(model), model.coarse, Runtime(device="cpu")
    runtime.seed(0, 1)

    def short_of_memory(images):
        outputs = real(images)
        if len(images) > 3:
            raise RuntimeError("can't allocate memory")
        return outputs

    monkeypatch.setattr(model, "coarse", short_of_memory)
    with pytest.warns(UserWarning, match="in 2 parts"):
        step(model, batch, runtime=runtime)
    runtime.seed(0, 1)
    step(twin, batch, runtime=runtime)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, msg=lambda text, name=name: name + text)


def test_a_rank_short_of_memory_asks_no_more_of_the_others(model, batch, monkeypatch):
    """Or they would wait for each other in different places."""

    class Asking(Runtime):
        def total(self, number):
            asked.append("total")
            return super().total(number)

        def largest(self, number):
            asked.append("largest")
            return super().largest(number)

    real, all_asked = model.coarse, []

    def short_of_memory(images):
        if len(images) > 2:
            raise RuntimeError("can't allocate memory")
        return real(images)

    for coarse in (real, short_of_memory):
        asked = []
        monkeypatch.setattr(model, "coarse", coarse)
        with warnings.catch_warnings(action="ignore"):
            step(model, batch, runtime=Asking(device="cpu"))
        all_asked.append(asked)
    assert all_asked[0] == all_asked[1] != []


def test_ranks_that_wait_for_each_other_do_not_part_a_batch(model, batch, monkeypatch):
    """One would wait for ever for another that had the memory."""

    def short_of_memory(images):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(model, "coarse", short_of_memory)
    runtime = Runtime(device="cpu")
    runtime.lockstep = True
    with pytest.raises(FullconvError, match=r"set a smaller data\.batch_size"):
        step(model, batch, runtime=runtime)
    assert runtime.pieces == 1


@pytest.mark.parametrize("kind", ["frozen", "batch"])
def test_frozen_statistics_stay_those_of_the_context_too(batch, kind):
    network = fcn8s("small", 4, context=8)
    running = {name: tensor.clone() for name, tensor in network.named_buffers() if "running" in name}
    assert any("context" in name for name in running)
    step(network, batch, load_config("modern", {"optim.batch_norm": kind}))
    same = {name: tensor.equal(running[name]) for name, tensor in network.named_buffers() if name in running}
    assert all(same.values()) if kind == "frozen" else not any(same.values())


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_changes_nothing(model, batch, monkeypatch, clip):
    """Of a loss that is finite; it names the images, and clipping does not hide it."""
    config, before = load_config("modern", {"optim.clip": clip}), copy.deepcopy(model.state_dict())

    def overflow(self, network):
        next(parameter for parameter in network.parameters() if parameter.grad is not None).grad.flatten()[3] = math.inf

    monkeypatch.setattr(Runtime, "add_gradients", overflow)
    with pytest.raises(NotFinite, match="the gradient's norm is inf in a step on images a, b, c, d, e, f"):
        step(model, batch, config)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_one_image_too_large_for_the_memory(model, batch, monkeypatch):
    def short_of_memory(images):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(model, "coarse", short_of_memory)
    with pytest.warns(UserWarning), pytest.raises(FullconvError, match="use smaller crops"):
        step(model, batch)


def test_another_error_is_not_swallowed(model, batch, monkeypatch):
    def broken(images):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(model, "coarse", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        step(model, batch)


def test_a_step_that_is_left_has_changed_nothing(model, batch, monkeypatch):
    before, real = copy.deepcopy(model.state_dict()), model.coarse

    def left(images):
        real(images)  # Which moves the statistics.
        raise Abandoned

    monkeypatch.setattr(model, "coarse", left)
    with pytest.raises(Abandoned):
        step(model, batch)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_a_single_cell_cannot_be_normalised(model):
    batch = Batch(torch.rand(1, 3, 32, 32) * 255, torch.zeros(1, 32, 32, dtype=torch.long), ("a",), 255)
    with pytest.raises(UsageError, match=r"larger crops .*or optim\.batch_norm=frozen"):
        step(model, batch)


def saved_bytes(run):
    """What the backward pass of ``run`` keeps, and what it returns."""
    sizes = []

    def pack(tensor):
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    return sum(sizes), result


@pytest.mark.parametrize("trunk", ["small", "timm:tf_efficientnet_lite0"])
def test_recomputing_changes_memory_only(batch, trunk):
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = fcn8s(trunk, num_classes=4, context="none", dropout=0.0)
        torch.nn.init.normal_(network.heads["semantic"].score[network.heads["semantic"].tap_names[0]].weight, std=0.1)
        config = load_config("modern", {"model.recompute": recompute})
        if recompute:
            network.trunk.save_memory()
        network.train()
        objective = Objective(config, Runtime(device="cpu"), {"semantic": torch.ones(4)})
        size, loss = saved_bytes(
            lambda network=network, objective=objective: accumulate_gradients(
                network, [batch], step_size([batch], objective), objective
            )
        )
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        statistics = [buffer for name, buffer in network.named_buffers() if "running" in name]
        results.append((size, loss, gradients, statistics))
    (size, loss, gradients, statistics), (less, again, same, kept) = results
    assert less < size and again == pytest.approx(loss)
    torch.testing.assert_close(same, gradients)
    torch.testing.assert_close(kept, statistics)


def test_what_is_said_of_both_losses_is_the_same_step(model, batch):
    """A step on the summed loss is one on the mean, at the rate, the decay and the weight that it comes to."""
    batch.targets.clamp_(max=3)
    pixels = batch.targets.numel() / 2**2
    settings = {"optimiser": "sgd", "momentum": 0, "loss_stride": 2, "balance": 0}
    summed = {"loss": "sum", "rate": 0.25 / pixels, "weight_decay": 0.5 * pixels, "jaccard": 0.5 * pixels}
    said = rate_in_words(OptimSection(**settings, **summed), pixels)
    there = re.search(r", as (\S+) \(weight_decay (\S+), jaccard (\S+)\) on the mean", said)
    mean = dict(zip(("rate", "weight_decay", "jaccard"), map(float, there.groups()), strict=True))
    results = []
    for changes in (summed, {"loss": "mean", **mean}):
        network = copy.deepcopy(model)
        config = load_config("modern", {f"optim.{key}": value for key, value in {**settings, **changes}.items()})
        step(network, batch, config)
        results.append(network.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, msg=lambda text, name=name: name + text)
    assert not torch.equal(tensor, model.state_dict()[name])


def test_a_step_never_holds_the_logits(monkeypatch):
    """Of 150 classes: no tensor of it is as large."""
    assert strips.STRIP_BYTES <= 128 << 20
    monkeypatch.setattr(strips, "STRIP_BYTES", 1 << 16)
    network = fcn8s("small", num_classes=150, context="none")
    batch = Batch(torch.rand(2, 3, 96, 96) * 255, torch.randint(150, (2, 96, 96)), ("a", "b"), 255)
    config = load_config("modern", {"optim.loss_stride": 1})
    with Largest() as largest:
        step(network, batch, config, classes=150)
    assert 0 < largest.numbers < batch.targets.numel() * 150 / 2


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has of those made within it."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sizes = [tensor.numel() for tensor in tree_leaves(made) if isinstance(tensor, torch.Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return made


def test_memory_that_runs_out_in_a_later_batch_counts_none_twice(model, batch, monkeypatch):
    """Gradients of the batches before it are there by then."""
    monkeypatch.setattr(FCN, "train", lambda model, mode=True: model)
    config, sgd = load_config("modern", {"optim.jaccard": 0}), OptimSection(optimiser="sgd", rate=0.1)
    twin, real, seen = copy.deepcopy(model), model.coarse, []

    def short_of_memory(images):
        seen.append(len(images))
        if len(seen) == 2:
            raise RuntimeError("can't allocate memory")
        return real(images)

    monkeypatch.setattr(model, "coarse", short_of_memory)
    losses = []
    for network in (model, twin):
        objective = Objective(config, Runtime(device="cpu"), {"semantic": torch.ones(4)})
        with warnings.catch_warnings(action="ignore"):
            losses.append(train_step(network, batch.split(2), build_optimiser(network, sgd), objective))
    assert seen == [3, 3, 2, 1, 2, 1] and losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, msg=lambda text, name=name: name + text)


def test_gradients_are_clipped_to_the_norm_that_is_asked_for(model, batch):
    step(model, batch, load_config("modern", {"optim.clip": 1e-3}))
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert float(norm) == pytest.approx(1e-3, rel=0.01)


def test_class_weights():
    pixels = torch.tensor([4000, 1000, 10, 0])
    assert class_weights(pixels, 0.0).tolist() == [1, 1, 1, 1]
    whole = class_weights(pixels, 1.0)
    assert torch.allclose(whole[:3] * pixels[:3], torch.full((3,), 1000.0)), "every class weighs the same in all"
    assert torch.allclose(class_weights(pixels, 0.5) ** 2, whole)
    assert class_weights(torch.zeros(2, dtype=torch.long), 1.0).tolist() == [1, 1]


def test_a_loss_that_is_no_number_stops_the_run():
    check_step([1.0], [["a"]], 1.0, 1.0)
    nan, inf = float("nan"), float("inf")
    with pytest.raises(NotFinite, match=r"the loss is nan on images b, c: lower optim\.rate"):
        check_step([1.0, nan], [["a"], ["b", "c"]], nan, nan)
    with pytest.raises(NotFinite, match="the loss is not finite on another rank"):
        check_step([1.0], [["a"]], inf, nan)
    with pytest.raises(NotFinite, match="the gradient's norm is inf in a step on images a, b, c: lower"):
        check_step([1.0, 1.0], [["a"], ["b", "c"]], 2.0, inf)
