"""Named tensors on disk: safetensors, which holds nothing that runs code."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, none of which shares memory with another: what ``write_atomically`` is to be given.

    Raises:
        OSError: The file cannot be written; safetensors has an error of its own for that.
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, dict(metadata or {}))
    except SafetensorError as error:
        raise OSError(str(error)) from error
