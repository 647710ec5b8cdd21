"""ImageNet weights for trunks: the library's own on request, or a file."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import ModelError
from ..nn.transplant import TransplantReport, transplant

Weights = str | Path | None
DOWNLOAD = "imagenet"  # the only value that lets a command touch the network


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file, or of a ``.pth`` file that holds nothing but tensors.

    Raises:
        ModelError: The file is missing, damaged, or would have to be unpickled.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such weight file; give a .safetensors or .pth file, or {DOWNLOAD!r} to download")
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "it is empty or cut off")
        if isinstance(error, pickle.UnpicklingError):  # Torch's words advise to run what is in it.
            reason = "it is no file of PyTorch's, or holds more than tensors, which could run code"
        raise ModelError(f"{path}: not a readable weight file ({reason}); save it as .safetensors") from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path}: holds no table of tensors; save the module's state_dict()")
    return dict(state)


def load_weights(module: nn.Module, path: str | Path, rename: Callable[[str], str] | None = None) -> TransplantReport:
    """Copy a weight file into ``module`` by name, reshaping where only the shape differs.

    Fully connected layers may stay new: files of trunks do without them, or have other classes.

    Raises:
        ModelError: The file cannot be read, or lacks a convolution: it belongs to another network.
    """
    state = read_weights(path)
    report = transplant(state, module, rename)
    if not report.copied and not report.reshaped:
        seen, wanted = next(iter(state), "nothing"), next(iter(module.state_dict()))
        raise ModelError(f"{path}: none of its tensors fits this trunk (it holds {seen}, the trunk wants {wanted})")
    for name, its, ours in report.mismatched:
        if len(ours) == 4:
            raise ModelError(f"{path}: of another network: its {name} is {_by(its)}, this trunk's {_by(ours)}")
    shapes = module.state_dict()
    if missing := [name for name in report.left_new if shapes[name].ndim == 4]:
        raise ModelError(f"{path}: of another network: it lacks {missing[0]} of this trunk")
    return report


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
