"""Starting from a network that is trained already: a coarser one, or one for other classes."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..data.labels import LabelSet
from ..errors import ModelError
from ..nn.transplant import TransplantReport, transplant
from .fcn import FCN
from .heads import SCENE

TRUNK, HEADS = "trunk.body.", "heads."


def start_from(model: FCN, folder: str | Path) -> TransplantReport:
    """Copy what fits of a saved network into ``model``, and report what was copied and what is new.

    Trunk, context and normalisation are taken over whole. Of each task's head, the scores of a class go to the class of
    the same name; scores of other classes, and of taps that the saved network does not score, stay as
    they are.

    Args:
        model: The network to start.
        folder: A model folder.

    Raises:
        ModelError: The folder holds no usable model, or one on another trunk.

    Source: Long, Shelhamer & Darrell 2015, section 4.2, for 32s → 16s → 8s.
    """
    saved, ours = FCN.from_pretrained(folder), model.state_dict()
    state = saved.state_dict()
    misfits = [name for name in ours if name.startswith(TRUNK) and _shape(state, name) != ours[name].shape]
    if misfits:
        raise ModelError(
            f"{folder}: is a model on another trunk ({misfits[0]} does not fit); use the --trunk and the channels it "
            f"was trained with"
        )
    for name in [name for name in state if name.startswith(HEADS)]:
        task = name.removeprefix(HEADS).partition(".")[0]
        tensor = state.pop(name)
        if SCENE in name and _shape(ours, name) == tensor.shape:
            state[name] = tensor
        elif name in ours and tensor.shape[1:] == ours[name].shape[1:] and SCENE not in name:
            state[name] = _by_class(tensor, ours[name], saved.labels[task], model.labels[task])
    if saved.config is not None and saved.config.normalisation is not None:
        model.normalise_as(saved.config.normalisation)
    return transplant(state, model)


def _by_class(old: Tensor, new: Tensor, names: LabelSet, new_names: LabelSet) -> Tensor:
    """Return ``new`` with the rows of ``old`` for the classes that both know."""
    rows = new.clone()
    for place, name in enumerate(new_names.names):
        if name in names.names:
            rows[place] = old[names.names.index(name)]
    return rows


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None
