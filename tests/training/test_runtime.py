"""Which process this is of how many, and what they make of one network."""

import copy
import json
import os
import platform

import pytest
import torch
from torch import nn

from commands import WARM, free_port
from fullconv import fcn8s
from fullconv.data import Batch
from fullconv.errors import UsageError
from fullconv.training import runtime
from fullconv.training.config import load_config
from fullconv.training.runtime import Runtime
from fullconv.training.state import TrainState
from fullconv.training.step import Objective, train_step


def test_ranks_leave_out_what_they_will_each_for_itself():
    """Dropout: they have parts of one batch."""
    seeds = []
    for rank in (0, 1):
        one = Runtime(device="cpu")
        one.rank = rank
        one.seed(0, 1)
        seeds.append(torch.initial_seed())
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize("kind", ["BatchNorm2d", "BatchNormAct2d"])
def test_synchronised_statistics_of_one_rank_are_its_own(monkeypatch, kind):
    """Also of timm's layers, which are activations as well."""
    if kind == "BatchNorm2d":
        layer: nn.BatchNorm2d = nn.BatchNorm2d(5)
    else:
        layer = pytest.importorskip("timm.layers", reason="needs the extra 'timm'").BatchNormAct2d(5)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    monkeypatch.setattr(runtime, "_added", lambda tensor: tensor)
    images, twin = torch.randn(3, 5, 7, 9), copy.deepcopy(layer)
    for network in (layer, twin):
        network.train()
    torch.testing.assert_close(runtime._synchronised(layer, images), twin(images))
    torch.testing.assert_close(layer.state_dict(), twin.state_dict())
    assert kind == "BatchNorm2d" or twin(images).min() == 0


def faults_of_large_tensors(answer):
    import resource

    Runtime(device="cpu").prepare(nn.Conv2d(1, 1, 1))
    faults = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16 << 20)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    answer.write_text(str(min(faults)))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_memory_that_a_step_frees_is_kept_for_the_next(tmp_path):
    """64 MiB: 16,384 pages, or 32 large ones, that would be mapped and zeroed anew for each tensor."""
    process = WARM.Process(target=faults_of_large_tensors, args=(tmp_path / "answer",))
    process.start()
    process.join(150)
    # The first few may fill what the process had left free here and there.
    assert int((tmp_path / "answer").read_text()) < 16


@pytest.mark.parametrize(
    ("capabilities", "has"), [({"avx512_bf16": True}, True), ({"avx512_bf16": False}, False), ({"neon": True}, None)]
)
def test_what_a_processor_says_of_bf16(monkeypatch, capabilities, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert Runtime(device="cpu").bf16_in_hardware is has
    assert Runtime("auto", device="cpu").precision == ("bf16" if has else "fp32")
    assert [Runtime(given, device="cpu").precision for given in ("fp32", "bf16")] == ["fp32", "bf16"]


def test_older_torch_says_nothing_of_bf16(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert Runtime(device="cpu").bf16_in_hardware is None


@pytest.mark.parametrize("has", [True, False])
def test_what_a_gpu_says_of_bf16(monkeypatch, has):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has or including_emulation)
    assert Runtime(device="cuda").bf16_in_hardware is has


def test_all_ranks_must_have_bf16(monkeypatch):
    monkeypatch.setattr(Runtime, "bf16_in_hardware", True)
    monkeypatch.setattr(Runtime, "largest", lambda runtime, number: max(number, True))  # Another one's.
    assert Runtime("auto", device="cpu").precision == "fp32"


def test_weights_lie_channels_last_where_that_is_faster():
    """Measured: docs/results.md."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    Runtime(device="cpu").prepare(network)
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in network)


@pytest.mark.parametrize(("ranks", "first"), [(None, True), ("1", True), ("2", False)])
def test_a_process_alone_writes_whatever_its_number(monkeypatch, ranks, first):
    """Some count their jobs with RANK."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if ranks:
        monkeypatch.setenv("WORLD_SIZE", ranks)
    assert runtime.is_first() is first


def test_what_is_wrong_with_the_processes_is_said(monkeypatch):
    """Those of mpirun, and more of them than there are GPUs."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="WORLD_SIZE is set, but RANK is not: start the run with torchrun"):
        Runtime()
    for name, value in {"RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="rank 3 of this machine finds 2 GPUs: torchrun --nproc-per-node 2"):
        Runtime()


@pytest.mark.slow
def test_each_of_two_ranks_holds_half(tmp_path):
    """Of weights and of the optimiser's two numbers for each, after a step."""
    shares = [json.loads(path.read_text()) for path in written_by_two_ranks(write_share, tmp_path)]
    for share in shares:
        assert share["weights"] < 0.6 * share["all"] and share["optimiser"] < 0.6 * 2 * share["all"], share
    assert sum(share["weights"] for share in shares) == shares[0]["all"]


def written_by_two_ranks(write, folder):
    """Call a function as each of two ranks, with the rank and a file to write, and return the files."""
    port, files = free_port(), [folder / "0", folder / "1"]
    ranks = [WARM.Process(target=as_rank, args=(write, rank, port, file)) for rank, file in enumerate(files)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(150)
        rank.kill()
    return files


def as_rank(write, rank, port, path):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    write(rank, path)


def write_share(_, path):
    """Take a step as one of two ranks that share a network's weights; write how many numbers this one holds."""
    config = load_config("modern", {"optim.sharded": True, "optim.batch_norm": "frozen"})
    model, runtime = fcn8s("small", 4, context="none"), Runtime(device="cpu")
    runtime.prepare(model)
    state = TrainState(model, config, 2, 4, runtime)
    batch = Batch(torch.rand(2, 3, 64, 64) * 255, torch.randint(0, 4, (2, 64, 64)), ("a", "b"))
    train_step(model, [batch], state.optimiser, Objective(config, runtime, {"semantic": torch.ones(4)}))

    def held(tensors):
        return sum(tensor.to_local().numel() for tensor in tensors if tensor.ndim)

    kept = [value for numbers in state.optimiser.state.values() for value in numbers.values()]
    share = {"weights": held(model.parameters()), "all": sum(p.numel() for p in model.parameters())}
    path.write_text(json.dumps(share | {"optimiser": held(kept)}))


@pytest.mark.slow
def test_ranks_whose_weights_lie_otherwise_have_the_same(tmp_path):
    """As on two machines, of which one has more instructions."""
    one, two = (torch.load(path, weights_only=True) for path in written_by_two_ranks(write_weights, tmp_path))
    for name, weight in one.items():
        assert torch.equal(weight, two[name]), name


def write_weights(rank, path):
    """Write what one of two ranks has of another's weights, after they were drawn differently."""
    runtime.fastest_layout = lambda *_: (torch.contiguous_format, torch.channels_last)[rank]
    torch.manual_seed(rank)
    model = fcn8s("small", 4, context="none")
    Runtime(device="cpu").prepare(model)
    torch.save(model.state_dict(), path)
