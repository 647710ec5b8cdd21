"""Device, precision and memory layout: the only file of training that knows them."""

import ctypes
import sys
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


class Runtime:
    """Where and in which precision a network trains.

    Args:
        precision: ``fp32``, or ``bf16`` autocast (weights and the loss stay fp32).
        device: By default the first GPU, else the CPU.
    """

    def __init__(self, precision: str = "fp32", device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = precision

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move a network to the device, in the layout its convolutions are fastest in."""
        if self.device.type == "cpu":
            _keep_freed_memory()
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def place(self, tensor: Tensor) -> Tensor:
        """Move a batch's tensor to the device."""
        return tensor.to(self.device, non_blocking=True)

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the forward pass runs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


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


# Source: glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
