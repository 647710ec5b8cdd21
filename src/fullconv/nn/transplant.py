"""Copy weights from one network into another by name, and say what became of every tensor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UsageError

Mismatch = tuple[str, tuple[int, ...], tuple[int, ...]]
_SHOWN = 4


@dataclass(frozen=True)
class TransplantReport:
    """What became of every tensor; ``str(report)`` is a summary of a few lines.

    Every name of the target is in exactly one of the first three or in ``mismatched``; every tensor of the source was
    copied, reshaped or mismatched, or is ``unused``.

    Attributes:
        copied: Target names with a source of the same shape.
        reshaped: Target names with a source of another shape that holds the same weights.
        left_new: Target names without a source.
        unused: Source names without a target.
        mismatched: (target name, source shape, target shape) of those that do not fit; left new as well.
    """

    copied: tuple[str, ...]
    reshaped: tuple[str, ...]
    left_new: tuple[str, ...]
    unused: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]

    def __str__(self) -> str:
        misfits = [f"{name} ({_shape(source)} → {_shape(target)})" for name, source, target in self.mismatched]
        lines = [
            f"copied {len(self.copied)} tensors",
            _line("reshaped", self.reshaped),
            _line("left new", self.left_new),
            _line("unused", self.unused),
            _line("do not fit", misfits),
        ]
        return "\n".join(line for line in lines if line)


def transplant(
    source: Mapping[str, Tensor], target: nn.Module, rename: Callable[[str], str] | None = None
) -> TransplantReport:
    """Copy tensors into ``target``'s parameters and buffers of the same name, in the target's precision.

    A tensor of another shape is reshaped, in C order, where it has the same number of elements and the same number of
    outputs (the first axis that is not 1): fully connected 4096×25088 ↔ convolution 4096×512×7×7. Whatever has no
    source, or one that does not fit, is left as it is.

    Args:
        source: Tensors by name, such as a ``state_dict()``.
        target: Module to write into.
        rename: From a source name to the target's name for it.

    Raises:
        UsageError: ``rename`` gives two tensors the same name.

    Source: Long, Shelhamer & Darrell 2015, section 3.1; Caffe's "net surgery".
    """
    ours = {name: tensor for name, tensor in target.state_dict().items() if isinstance(tensor, Tensor)}
    origin = _origins(source, rename)
    found = {name: source[origin[name]] for name in ours if name in origin}
    fitting = {name: tensor for name, tensor in found.items() if _fits(tensor.shape, ours[name].shape)}
    with torch.no_grad():
        for name, tensor in fitting.items():
            ours[name].copy_(tensor.reshape(ours[name].shape))
    return TransplantReport(
        copied=tuple(name for name, tensor in fitting.items() if tensor.shape == ours[name].shape),
        reshaped=tuple(name for name, tensor in fitting.items() if tensor.shape != ours[name].shape),
        left_new=tuple(name for name in ours if name not in found),
        unused=tuple(old for new, old in origin.items() if new not in ours),
        mismatched=tuple(
            (name, tuple(tensor.shape), tuple(ours[name].shape))
            for name, tensor in found.items()
            if name not in fitting
        ),
    )


def _origins(source: Mapping[str, Tensor], rename: Callable[[str], str] | None) -> dict[str, str]:
    origin: dict[str, str] = {}
    for old in source:
        new = rename(old) if rename else old
        if new in origin:
            raise UsageError(f"transplant: rename turns both {origin[new]!r} and {old!r} into {new!r}; keep them apart")
        origin[new] = old
    return origin


def _fits(source: torch.Size, target: torch.Size) -> bool:
    # The number of elements alone would let a transposed matrix pass.
    same_outputs = source[:1] == target[:1] or _outputs(source) == _outputs(target)
    return source.numel() == target.numel() and same_outputs


def _outputs(shape: Sequence[int]) -> int:
    return next((side for side in shape if side != 1), 1)


def _line(title: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    rest = f", … {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{title} {len(names)}: {', '.join(names[:_SHOWN])}{rest}"


def _shape(sides: Sequence[int]) -> str:
    return "×".join(str(side) for side in sides) or "scalar"
