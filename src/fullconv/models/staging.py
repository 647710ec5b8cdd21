"""Starting from a network that is trained already: a coarser one, or one for other classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.labels import LabelSet
from ..errors import ModelError
from ..nn.transplant import TransplantReport, transplant
from .fcn import FCN
from .heads import SCENE

TRUNK, HEADS = "trunk.body.", "heads."


@dataclass(frozen=True)
class StartReport(TransplantReport):
    """What a network took over from a saved one; of a head's tensors, some classes may be enough to be ``copied``.

    Attributes:
        classes: For every task of the network, the classes whose scores were taken over.
        new_classes: The others, by task.
    """

    classes: Mapping[str, tuple[str, ...]]
    new_classes: Mapping[str, tuple[str, ...]]


def start_from(model: FCN, folder: str | Path) -> StartReport:
    """Copy what fits of a saved network into ``model``, and report what was copied and what is new.

    Trunk and normalisation are taken over whole, and the context where both have the same. Of each task's head, the
    scores of a class go to the class of the same name, for features times the network's own fixed factors; scores of
    other classes, and of taps that the saved network does not score, stay as they are.

    Args:
        model: The network to start.
        folder: A model folder.

    Raises:
        ModelError: The folder holds no usable model, or one on another trunk.

    Source: Long, Shelhamer & Darrell 2015, section 4.2, for 32s → 16s → 8s.
    """
    saved, ours = FCN.from_pretrained(folder), model.state_dict()
    state, theirs = saved.state_dict(), saved.state_dict()
    _check_trunk(folder, model, saved)
    unused, same = [], {task: _common(model, saved, task) for task in model.heads}
    for name in [name for name in state if name.startswith(HEADS)]:
        tensor, task = state.pop(name), name.removeprefix(HEADS).partition(".")[0]
        fits = name in ours and _of_the_same_features(name, theirs, ours)
        if fits and SCENE in name and _shape(ours, name) == tensor.shape:
            state[name] = tensor
        elif fits and SCENE not in name and same[task]:
            tensor = tensor * _factor(name, task, saved, model)
            state[name] = _by_class(tensor, ours[name], saved.labels[task], model.labels[task])
        else:
            unused.append(name)
    if saved.config is not None and saved.config.normalisation is not None:
        model.normalise_as(saved.config.normalisation)
    report = transplant(state, model)
    for task in same:  # Behind another context, scores are none of the same features.
        scores = [name for name in report.copied if name.startswith(f"{HEADS}{task}.score.")]
        if not any(name.endswith(".weight") for name in scores):
            same[task] = ()
    return StartReport(
        **vars(report) | {"unused": (*report.unused, *unused)},
        classes=same,
        new_classes={
            task: tuple(name for name in model.labels[task].names if name not in names) for task, names in same.items()
        },
    )


def _check_trunk(folder: str | Path, model: FCN, saved: FCN) -> None:
    if model.config is not None and saved.config is not None and model.config.trunk != saved.config.trunk:
        reason = f"{saved.config.trunk}, not {model.config.trunk}"
    else:
        ours, theirs = model.state_dict(), saved.state_dict()
        misfits = [name for name in ours if name.startswith(TRUNK) and _shape(theirs, name) != ours[name].shape]
        if not misfits:
            return
        reason = f"{misfits[0]} does not fit"
    raise ModelError(
        f"{folder}: is a model on another trunk ({reason}); use the --trunk and the channels it was trained with"
    )


def _common(model: FCN, saved: FCN, task: str) -> tuple[str, ...]:
    """Return the classes of a task that both networks know."""
    if task not in saved.heads:
        return ()
    return tuple(name for name in model.labels[task].names if name in saved.labels[task].names)


def _of_the_same_features(name: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> bool:
    """Return whether a head's layer takes what the saved one does; of the global context, also the layer below it."""
    layer = name.rpartition(".")[0]
    layers = {layer, layer.rpartition(".")[0] + ".0"} if ".scene." in layer else {layer}
    shapes = [(_shape(theirs, f"{each}.weight"), _shape(ours, f"{each}.weight")) for each in layers]
    return all(old is not None and new is not None and old[1:] == new[1:] for old, new in shapes)


def _factor(name: str, task: str, saved: FCN, model: FCN) -> float:
    """Return what keeps a tap's scores where its features are multiplied by another fixed factor now."""
    *_, layer, tap, kind = name.split(".")
    if layer != "score" or kind != "weight":
        return 1.0
    heads: list[Any] = [saved.heads[task], model.heads[task]]
    old, new = (head.scales[head.tap_names.index(tap)] for head in heads)
    return float(old / new)


def _by_class(old: Tensor, new: Tensor, names: LabelSet, new_names: LabelSet) -> Tensor:
    """Return ``new`` with the rows of ``old`` for the classes that both know."""
    rows = new.clone()
    for place, name in enumerate(new_names.names):
        if name in names.names:
            rows[place] = old[names.names.index(name)]
    return rows


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None
