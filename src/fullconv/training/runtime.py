"""Device and precision; and other processes, of which no other file knows."""

import atexit
import ctypes
import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data import Batch
from ..errors import FullconvError, UsageError, in_one_line
from .interrupt import dying_at_once
from .kernels import as_product, depthwise, fastest_layout, is_fully_connected, relu6


class Runtime:
    """Where and in which precision a network trains; under ``torchrun``, one of several processes (ranks).

    Every rank holds the whole network (or, once it is sharded, its share of it), takes its share of each step's images,
    and adds its gradients to the others'.

    Args:
        precision: ``fp32``; ``bf16`` autocast (weights and the loss stay fp32); or ``auto``, that is ``bf16`` where the
            devices of all ranks multiply it in hardware (collective: every rank must ask for it).
        device: By default the rank's GPU, else the CPU.

    Attributes:
        precision: ``fp32`` or ``bf16``.
        pieces: Into how many parts each batch is cut to fit the memory.
        sharded: Whether every rank has only its share of the weights.
        lockstep: Whether ranks wait for each other within passes, which none of them may then leave, or take apart.
        rank: Number of this process, from 0.
        ranks: How many there are.
    """

    def __init__(self, precision: str = "fp32", device: str | torch.device | None = None) -> None:
        self.rank, self.ranks = _joined()
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        self.device = torch.device(device or (gpu if torch.cuda.is_available() else "cpu"))
        self.pieces = 1
        self._chance: int | None = None
        self.sharded = self.lockstep = False
        if precision == "auto":
            precision = "fp32" if self.largest(not self.bf16_in_hardware) else "bf16"
        self.precision = precision

    def prepare(self, model: nn.Module, batch_norm: str = "batch") -> None:
        """Move a network to the device, in its fastest layout and kernels there, with equal weights everywhere.

        Args:
            model: The network; changed in place.
            batch_norm: ``synchronised`` for statistics over the batches of all ranks.
        """
        if self.device.type == "cpu":
            _keep_freed_memory()
        model.to(self.device, memory_format=fastest_layout(model, self.device))  # type: ignore[call-overload]
        if batch_norm == "synchronised" and self.ranks > 1:
            self.lockstep = True
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.forward = functools.partial(_synchronised, layer)  # type: ignore[method-assign]
        for layer in model.modules():
            if type(layer) is nn.ReLU6 and layer.inplace:
                layer.forward = functools.partial(relu6, layer)  # type: ignore[method-assign]
        if self.precision == "bf16" and self.device.type == "cpu":
            for layer in model.modules():
                if isinstance(layer, nn.Conv2d) and is_fully_connected(layer):
                    layer.forward = functools.partial(as_product, layer)  # type: ignore[method-assign]
                elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
                    layer.forward = functools.partial(depthwise, layer)  # type: ignore[method-assign]
        self.align(model)

    def shard(self, model: nn.Module) -> None:
        """Leave on every rank only its share of the weights, and so of their gradients and the optimiser's state.

        A layer is whole while it computes. The layers are the parts of the trunk's outermost chains; all else is one.
        """
        # Imported where it is needed: it takes half a second.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        model.to(memory_format=torch.contiguous_format)  # shares know no other
        mesh = init_device_mesh(self.device.type, (self.ranks,))
        for layer in _shards(model):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "coarse")
        self.sharded = self.lockstep = True

    def seed(self, seed: int, step: int) -> None:
        """Let chance in the network be a function of the run's seed, the step and the rank: nothing to save of it."""
        self._chance = ((seed * 1_000_003 + step) * 1_000_003 + self.rank) % 2**63
        torch.manual_seed(self._chance)

    def align(self, model: nn.Module) -> None:
        """Give every rank the first one's weights and running statistics."""
        if self.ranks > 1:
            for tensor in model.state_dict().values():
                plain = tensor.contiguous()  # What is sent is memory, which may lie otherwise on another machine.
                dist.broadcast(plain, 0)
                tensor.copy_(plain)

    def add_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its sum over the ranks."""
        if self.ranks == 1:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if self.sharded:
            for gradient in gradients:  # Backward passes have left their mean.
                gradient.mul_(self.ranks)
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def total(self, number: float) -> float:
        """Return a number's sum over the ranks."""
        return float(self.summed(torch.tensor(number, dtype=torch.float64)))

    def summed(self, tensor: Tensor) -> Tensor:
        """Return a tensor's sum over the ranks, where it was."""
        if self.ranks == 1:
            return tensor
        placed = self.place(tensor.clone())
        dist.all_reduce(placed)
        return placed.to(tensor.device)

    def largest(self, number: int) -> int:
        """Return a number's largest value over the ranks."""
        if self.ranks == 1:
            return number
        placed = self.place(torch.tensor(number))
        dist.all_reduce(placed, dist.ReduceOp.MAX)
        return int(placed)

    def of_each(self, number: int) -> list[int]:
        """Return the number of every rank."""
        mine = torch.zeros(self.ranks, dtype=torch.int64)
        mine[self.rank] = number
        return self.summed(mine).tolist()

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.ranks > 1:
            dist.barrier()

    @property
    def bf16_in_hardware(self) -> bool | None:
        """Whether the device multiplies bf16 in hardware; None where torch does not tell.

        Of processors only x86 ones are asked. One without may take minutes for a step that takes seconds in fp32.
        """
        if self.device.type == "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        # Older releases of torch do not tell.
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return capabilities.get("avx512_bf16")

    @property
    def device_name(self) -> str:
        """The GPU's name, or ``cpu``."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    def __str__(self) -> str:
        device = "the CPU" if self.device.type == "cpu" else self.device_name
        where = device if self.ranks == 1 else f"{self.ranks} × {device}"
        return where if self.precision == "fp32" else f"{where}, in {self.precision}"

    def memory(self) -> int:
        """Return the most bytes that were in use so far: of the GPU, or of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "win32":
            return 0
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def place(self, tensor: Tensor) -> Tensor:
        """Move a batch's tensor to the device."""
        return tensor.to(self.device, non_blocking=True)

    def parts(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the batches in as many parts each as the memory asked for so far."""
        return [part for batch in batches for part in batch.split(self.pieces)]

    def halve(self, batches: Sequence[Batch], error: RuntimeError | MemoryError) -> None:
        """Double the number of parts after an error that says that memory is short; chance begins anew.

        Raises:
            FullconvError: Every part is one image already; or ranks wait for each other within passes.
        """
        traceback.clear_frames(error.__traceback__)  # They hold the tensors of the pass.
        if self.lockstep:
            raise FullconvError(
                "a batch is too much for the memory, and ranks that share weights or statistics cannot part it one by "
                "one: set a smaller data.batch_size, and data.accumulate for as large a step"
            ) from error
        if all(len(batch.stems) == 1 for batch in self.parts(batches)):
            raise FullconvError(
                f"one image at a time is too much for the memory: use smaller crops (data.crop) ({error})"
            ) from error
        self.pieces *= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._chance is not None:
            torch.manual_seed(self._chance)
        warnings.warn(
            f"out of memory: batches are now taken in {self.pieces} parts, whose gradients are added; batch statistics "
            f"and the Jaccard loss are of each part",
            stacklevel=2,
        )

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the forward pass runs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor of which ranks may hold a share each. Collective: every rank must call it."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def share_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this rank's share of a whole tensor that every rank has, where ``like`` is a share."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(like.device), mesh, placements, src_data_rank=None)


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Say of a rank that waits in the block for another one, which has ended, that it is not to blame.

    Raises:
        FullconvError: Another rank has ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        if not (dist.is_available() and (isinstance(error, dist.DistError) or "gloo" in str(error))):
            raise
        raise FullconvError(
            f"another rank has ended, or cannot be reached; if it was not killed, its own line says why "
            f"({in_one_line(error)})"
        ) from error


def is_first() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return not _several() or os.environ.get("RANK", "0") == "0"


def is_restarted() -> bool:
    """Return whether ``torchrun`` started the ranks again after one had failed. Collective: every rank must call it.

    Machines count restarts each for itself, and one may not have counted this one.
    """
    return Runtime().largest(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))) > 0


def leave(code: int) -> None:
    """End a rank that failed at once, where the clean end would wait for the others, who wait for this one: NCCL's."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "nccl":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _joined() -> tuple[int, int]:
    """Join the other processes that ``torchrun`` started, once, and return rank and number of ranks."""
    if not _several():
        return 0, 1
    if not dist.is_initialized():
        if missing := [name for name in _OF_A_RANK if name not in os.environ]:
            raise UsageError(f"WORLD_SIZE is set, but {missing[0]} is not: start the run with torchrun, or unset it")
        gpu, local = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
        if gpu and local >= (count := torch.cuda.device_count()):
            raise UsageError(f"rank {local} of this machine finds {count} GPUs: torchrun --nproc-per-node {count}")
        if gpu:
            torch.cuda.set_device(local)
        with dying_at_once():  # Another rank may have been refused, and never come.
            store, rank, ranks = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
            # torchrun keeps its store over a restart, and with it the dead ranks' addresses. Machines count restarts
            # each for itself: docs/training.md says what to do there.
            if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
                restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
                store = dist.PrefixStore(f"restart {restarts}", store)  # type: ignore[attr-defined]
            device = torch.device("cuda", local) if gpu else None
            backend = "nccl" if gpu else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, device_id=device)
        # Its threads must end before the process does, or C++ may abort it after all is done (seen with gloo).
        atexit.register(dist.destroy_process_group)
    return dist.get_rank(), dist.get_world_size()


def _shards(module: nn.Module) -> list[nn.Module]:
    """Return the parts, of those that hold weights, of the outermost chains in a module."""
    parts = [part for part in module.children() if next(part.parameters(), None) is not None]
    if isinstance(module, nn.Sequential):
        return parts
    return [layer for part in parts for layer in _shards(part)]


def _synchronised(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Normalise over the batches of all ranks; torch's own layer for this wants GPUs.

    Two passes, the mean first: the difference of large sums would be too rough.
    """
    if not layer.training:
        output: Tensor = type(layer).forward(layer, x)
        return output
    assert layer.running_mean is not None and layer.running_var is not None and layer.num_batches_tracked is not None
    rows = x.float().transpose(0, 1).flatten(1)  # Sums in bf16 would be too rough.
    count = _added(torch.tensor(float(rows.shape[1]), device=x.device))
    mean = _added(rows.sum(1)) / count
    variance = _added((rows - mean[:, None]).square().sum(1)) / count
    with torch.no_grad():
        layer.num_batches_tracked.add_(1)
        momentum = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        layer.running_mean.lerp_(mean, momentum)
        layer.running_var.lerp_(variance * count / (count - 1), momentum)
    scale = layer.weight / torch.sqrt(variance + layer.eps)
    y = (x * scale[:, None, None] + (layer.bias - mean * scale)[:, None, None]).to(x.dtype)
    for name in ("drop", "act"):  # timm's layers do these as well.
        y = getattr(layer, name)(y) if hasattr(layer, name) else y
    return y


def _added(tensor: Tensor) -> Tensor:
    """Return a tensor's sum over the ranks; gradients flow through it."""
    summed: Tensor = _Sum.apply(tensor)
    return summed


class _Sum(torch.autograd.Function):
    """A sum over the ranks; each one's term has the gradients of all of them."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        summed = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _added(gradient)


def _keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next step; elsewhere than on glibc do nothing.

    By default every large tensor is mapped anew and its pages are zeroed at first touch, which took a third of a step
    with 33 classes (measured: docs/results.md).
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28)):
            libc.mallopt(parameter, value)


_OF_A_RANK = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# Source: glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
