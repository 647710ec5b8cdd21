"""Upsampling by a transposed convolution whose kernel is bilinear, frozen or learned."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import GeometryError


def bilinear_kernel(size: int) -> Float[Tensor, "k k"]:
    """Return the bilinear filler: 1 (or nearly) at its centre, falling linearly to almost 0 at its border.

    Args:
        size: Side of the kernel in output pixels.

    Raises:
        GeometryError: ``size`` is below 1.

    Source: Caffe's ``BilinearFiller``.

    >>> bilinear_kernel(3)[1].tolist()
    [0.5, 1.0, 0.5]
    """
    if size < 1:
        raise GeometryError(f"bilinear_kernel: size is {size}; it must be at least 1")
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    profile = 1 - (torch.arange(size) - centre).abs() / factor
    return torch.outer(profile, profile)


class BilinearUpsample(nn.Module):
    """Upsample every channel on its own by a whole factor: a transposed convolution without bias.

    Outside the input it sees zeros. So it equals bilinear interpolation with half-pixel centres in the interior, for
    the default kernel and padding, and falls towards zero within half a stride of the border, where interpolation
    would repeat the last pixel.

    Frozen, the kernel is not a parameter: no gradient, no decay, nothing in ``state_dict()``. It runs in the kernel's
    own precision under autocast too: reduced precision would round the kernel, and is slow here on a CPU.

    Args:
        channels: Number of channels.
        factor: Output pixels per input pixel, on both axes; 1 is the identity.
        learnable: Make the kernel a parameter ``weight`` (channels×1×k×k) that starts bilinear.
        kernel_size: ``2 × factor`` or ``2 × factor − 1``; by default the even one for even factors, else the odd one.
        padding: Pixels dropped on each side of the full output; by default half the factor, rounded down, with which
            the default kernel's output is exactly ``factor`` times the input (the other kernel's is a pixel off).

    Attributes:
        weight: The learned kernels, or None where they are frozen.

    Raises:
        GeometryError: An argument is out of range.

    Source: Long, Shelhamer & Darrell 2015, section 3.3.
    """

    kernel: Tensor

    def __init__(
        self,
        channels: int,
        factor: int,
        learnable: bool = False,
        *,
        kernel_size: int | None = None,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.factor = channels, factor
        self.kernel_size = 2 * factor - factor % 2 if kernel_size is None else kernel_size
        self.padding = factor // 2 if padding is None else padding
        self._check_arguments()
        kernel = bilinear_kernel(self.kernel_size)
        self.weight = nn.Parameter(kernel.repeat(channels, 1, 1, 1)) if learnable else None
        self.register_buffer("kernel", None if learnable else kernel, persistent=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Return ``(side − 1) × factor + kernel_size − 2 × padding`` pixels on each axis.

        Raises:
            GeometryError: Nothing would be left of so small an input.
        """
        self._check_output(x)
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._upsample(x.to(self.kernels().dtype))
        return self._upsample(x)

    def extra_repr(self) -> str:
        """Return the settings, for ``print(module)``."""
        learnable = self.weight is not None
        return (
            f"{self.channels}, factor={self.factor}, learnable={learnable}, "
            f"kernel_size={self.kernel_size}, padding={self.padding}"
        )

    def kernels(self) -> Float[Tensor, "c 1 k k"]:
        """Return every channel's kernel, learned or frozen."""
        return self.kernel.expand(self.channels, 1, -1, -1) if self.weight is None else self.weight

    def _upsample(self, x: Tensor) -> Tensor:
        # Measured: interpolating the zero-padded input and cropping is exact too, but 1.2 to 3 times slower.
        return F.conv_transpose2d(x, self.kernels(), stride=self.factor, padding=self.padding, groups=self.channels)

    def _check_arguments(self) -> None:
        if self.channels < 1 or self.factor < 1:
            raise GeometryError(
                f"BilinearUpsample: channels={self.channels}, factor={self.factor}; both must be at least 1"
            )
        even = 2 * self.factor
        if self.kernel_size not in (even, even - 1):
            raise GeometryError(
                f"BilinearUpsample: kernel_size={self.kernel_size} is not bilinear for factor={self.factor}; "
                f"use {even} or {even - 1}"
            )
        if not 0 <= self.padding < self.kernel_size:
            raise GeometryError(
                f"BilinearUpsample: padding={self.padding}; it must be between 0 and {self.kernel_size - 1}"
            )

    def _check_output(self, x: Tensor) -> None:
        # While exporting, sizes are symbols: comparing them would fix their range.
        if torch.compiler.is_compiling():
            return
        smallest = (min(x.shape[-2:]) - 1) * self.factor + self.kernel_size - 2 * self.padding
        if smallest < 1:
            raise GeometryError(
                f"BilinearUpsample: padding={self.padding} leaves nothing of a {x.shape[-2]}×{x.shape[-1]} input; "
                f"use a smaller padding or a larger image"
            )
