import torch
import torch.nn.functional as F
from torch import nn


def bilinear_kernel(size):
    f = (size + 1) // 2
    c = f - 1 if size % 2 else f - 0.5
    w = 1 - (torch.arange(size) - c).abs() / f
    return w[:, None] * w[None]


class BilinearUpsample(nn.Module):
    def __init__(self, channels, factor, learnable=False, *, kernel_size=None, padding=None):
        super().__init__()
        self.factor = factor
        self.k = kernel_size or 2 * factor - factor % 2
        self.p = padding if padding is not None else -(-(factor - 1) // 2)
        self.learnable = learnable
        self.channels = channels
        w = bilinear_kernel(self.k).expand(channels, 1, -1, -1).clone()
        if learnable:
            self.weight = nn.Parameter(w)
        else:
            self.register_buffer("weight", w, persistent=False)

    def forward(self, x):
        f = self.factor
        if self.learnable:
            return F.conv_transpose2d(x, self.weight, stride=f, padding=self.p, groups=self.channels)
        if f == 1:
            return F.pad(x, (-self.p,) * 4) if self.p else x
        y = F.pad(x, (1, 1, 1, 1))
        n, m = y.shape[-2:]
        if self.k % 2:
            y = F.interpolate(y, size=((n - 1) * f + 1, (m - 1) * f + 1), mode="bilinear", align_corners=True)
            c = 1
        else:
            y = F.interpolate(y, scale_factor=f, mode="bilinear")
            c = f // 2
        return F.pad(y, (-c - self.p,) * 4)
