"""The typed configuration of a training run: a recipe, and what the caller changed of it."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ..errors import DataError, UsageError
from ..files.text import parse_yaml, read_text
from ..models.config import Architecture

Fraction01 = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


NAMED = {
    "trunk": "model.trunk",
    "trunk_weights": "model.trunk_weights",
    "epochs": "epochs",
    "minutes": "minutes",
    "seed": "seed",
}
"""Settings that have an option of their own, by its name."""


CALLED_ELSEWHERE = {
    "lr": "optim.rate",
    "learning_rate": "optim.rate",
    "scheduler": "optim.schedule",
    "ema": "optim.average",
    "dice": "optim.jaccard",
    "class_weights": "optim.balance",
    "amp": "optim.precision",
    "backbone": "model.trunk",
    "encoder": "model.trunk",
    "image_size": "data.crop",
    "patch_size": "data.crop",
    "num_workers": "data.workers",
}
"""Settings by the names that other libraries have for them: for whoever writes one."""

FILES = ("model.init", "model.trunk_weights")
"""Settings that name a file or folder."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: Any) -> Any:
        parts = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(part, bool) for part in parts) and cls.model_fields[info.field_name].annotation is not bool:
            raise PydanticCustomError("truth", "this is nothing to be true or false")
        return str(value) if isinstance(value, Path) else value


class ModelSection(_Section, Architecture):
    """Which network: see :class:`fullconv.models.ModelConfig`, too.

    ``init`` is a saved model, or a run, to start from: see :func:`fullconv.models.start_from`. ``recompute`` keeps less
    for the backward pass: see :meth:`fullconv.trunks.Trunk.save_memory`. ``input_scale: auto`` enlarges small images:
    see :func:`fullconv.training.feed.derived_input_scale`.
    """

    trunk: str = "resnet18"
    trunk_weights: str | None = None
    init: str | None = None
    recompute: bool = False
    input_scale: Annotated[float, Field(gt=0, le=8)] | Literal["auto"] = 1.0
    normalisation: Literal["trunk", "imagenet", "caffe", "half"] = "trunk"


class DataSection(_Section):
    """How samples are drawn and changed; sizes in pixels, (height, width) or one number for both.

    ``crop: auto`` takes the median shorter side at the scale the trunk sees, rounded up to a multiple of 32, 512 at
    most; ``crop: none`` takes whole images. ``scale`` comes on top of ``model.input_scale``. ``patches`` reads only the
    window that a crop needs, and chooses where it lies: see :class:`fullconv.data.Patches`. A step takes ``accumulate``
    batches of ``batch_size``, as if they were one. ``keep`` is the probability with which a cell of the finest scored
    tap is kept in the loss. ``flip`` is the probability of mirroring left to right, and ``colour`` by how much
    brightness, contrast and saturation change. ``workers`` processes read images beside the training, and
    ``cache_mb`` of what was read is kept, in 2²⁰ bytes.
    """

    crop: Positive | tuple[Positive, Positive] | Literal["auto", "none"] = "auto"
    scale: tuple[PositiveReal, PositiveReal] = (0.5, 2.0)
    flip: Fraction01 = 0.5
    colour: Fraction01 = 0.3
    patches: Literal["none", "uniform", "class", "foreground"] = "none"
    keep: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch_size: Positive = 8
    accumulate: Positive = 1
    replacement: bool = False
    workers: Annotated[int, Field(ge=0)] = 0
    cache_mb: Annotated[int, Field(ge=0)] = 1024


class OptimSection(_Section):
    """How weights change.

    ``rate`` is the learning rate for the mean loss over labelled pixels, or for the summed one with ``loss: sum``.
    The loss is taken at each ``loss_stride``-th row and column, which must divide the finest tap's stride.
    ``balance`` is how far rare classes count more: see :func:`fullconv.training.step.class_weights`. ``jaccard`` is
    the weight of :func:`fullconv.losses.soft_jaccard` of every batch, which is added to the cross-entropy. The trunk
    learns at ``trunk_rate`` times the rate (0 freezes it), and each of its layers (see
    :func:`fullconv.training.optim.trunk_layers`) at ``layer_decay`` times that of the next. ``batch_norm: frozen``
    normalises with the running statistics, which then stay as they are; ``synchronised``, where several processes
    train, with those of all their batches together. ``sharded`` leaves each of these processes only its share of the
    weights and of the optimiser's state.

    ``momentum`` is SGD's, or AdamW's β₁ (β₂ is 0.999). ``weight_decay`` is of weights alone; biases and normalisations
    have none, and learn at ``bias_rate`` times the rate. ``warmup`` is the share of the steps in which the rate rises
    from 0, before ``schedule`` goes on. ``label_smoothing`` spreads that share of a pixel evenly over all classes.
    ``clip`` is the largest norm of a step's gradient, 0 for none. ``average`` is the weight of the past in the running
    average of the weights, which is what is scored and kept; 0 for none. ``precision: auto`` is ``bf16`` where the
    device multiplies it in hardware, for the whole run: see :class:`fullconv.training.runtime.Runtime`.
    """

    optimiser: Literal["adamw", "sgd"] = "adamw"
    rate: PositiveReal = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 1e-2
    bias_rate: PositiveReal = 1.0
    trunk_rate: NotNegative = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch_norm: Literal["batch", "frozen", "synchronised"] = "batch"
    schedule: Literal["poly", "onecycle", "constant"] = "poly"
    warmup: Fraction01 = 0.1
    loss: Literal["mean", "sum"] = "mean"
    loss_stride: Positive = 1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    balance: Fraction01 = 0.0
    jaccard: NotNegative = 0.0
    clip: NotNegative = 0.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    sharded: bool = False
    precision: Literal["fp32", "bf16", "auto"] = "fp32"


SECTIONS: dict[str, type[BaseModel]] = {"model": ModelSection, "data": DataSection, "optim": OptimSection}


class TrainConfig(_Section):
    """A whole training run.

    Attributes:
        epochs: Passes over the training images, of which the last may be a part; ``auto``: 1000 / √images, so that
            small sets are seen more often.
        evaluations: How many times the validation split is scored (never more than once an epoch); 0 where its images,
            predicted whole, are too much for the memory: the last weights are then the best.
        seed: Of weights, order and augmentation.
        minutes: Instead of ``epochs``: the time for the whole run, by which a measured number of them is chosen; those
            of stages stay in proportion.
        stages: Settings that differ from one stage to the next, such as ``{"model.finest_stride": 16}``: every stage
            starts from the weights of the one before.
        checkpoint_minutes: How often the state that ``--resume`` goes on from is saved; 0 after every step. It also
            is as an epoch ends, if that is scored, or half a minute after the last time.
        tensorboard: Also write what TensorBoard reads (extra ``tensorboard``).
    """

    recipe: str = "modern"
    epochs: PositiveReal | Literal["auto"] = "auto"
    evaluations: Annotated[int, Field(ge=0)] = 8
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    minutes: PositiveReal | None = None
    checkpoint_minutes: NotNegative = 5.0
    tensorboard: bool = False
    stages: tuple[dict[str, Any], ...] = ()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    optim: OptimSection = OptimSection()

    @field_validator("stages")
    @classmethod
    def _dotted(cls, stages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        # As they are in a file, where pairs are lists.
        return tuple({key: list(v) if isinstance(v, tuple) else v for key, v in _leaves(stage)} for stage in stages)

    @model_validator(mode="after")
    def _fit_together(self) -> "TrainConfig":
        low, high = self.data.scale
        if low > high:
            raise UsageError(f"data.scale=[{low:g}, {high:g}]: give the smaller factor first")
        if self.data.patches != "none" and self.data.crop == "none":
            raise UsageError("patches need a size: set data.crop to the height and width of a patch")
        if any(stage.get("optim.precision") == "auto" for stage in self.stages):
            raise UsageError("stages: optim.precision=auto is for a whole run: for a stage, choose fp32 or bf16")
        if self.minutes is not None and self.epochs != "auto":
            raise UsageError(
                "minutes (--time) chooses the epochs of the run: leave epochs out, or set epochs=auto where the recipe "
                "has some (those of stages are a proportion)"
            )
        if self.model.init is not None and self.model.trunk_weights is not None:
            raise UsageError("model.init brings the trunk's weights with it: leave trunk_weights (--trunk-weights) out")
        if self.model.finest_stride % self.optim.loss_stride:
            raise UsageError(
                f"optim.loss_stride={self.optim.loss_stride} does not divide model.finest_stride="
                f"{self.model.finest_stride}; take 1, 2 or 4"
            )
        return self


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with fullconv."""
    folder = resources.files("fullconv") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(recipe: str = "modern", changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return a recipe's configuration with ``changes`` applied.

    Args:
        recipe: A name of :func:`recipe_names`, or the path of a YAML file.
        changes: Dotted key → value, such as ``{"optim.rate": 1e-3}``; of a table, ``{"optim": {"rate": 1e-3}}``, each
            key by itself.

    Raises:
        UsageError: The recipe or a key is unknown (the nearest name is given), or a value is not of its kind.
    """
    tree = _read_recipe(recipe)
    if "recipe" in (changes or {}):
        raise UsageError("recipe is no setting: choose it by --recipe (from Python: recipe=)")
    return _validated({"recipe": str(recipe)} | _set_all(tree, changes or {}))


def changed(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """Return a configuration with ``changes``, dotted key → value, applied.

    Raises:
        UsageError: A key is unknown, or a value is not of its kind.
    """
    return _validated(_set_all(config.model_dump(), changes))


def _validated(tree: Mapping[str, Any]) -> TrainConfig:
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        raise UsageError(_explain(error)) from error


def named_settings(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that have an option of their own by their dotted keys; those that are None are left out.

    Raises:
        UsageError: There is no such option.
    """
    for name in named:
        if name not in NAMED:
            near = difflib.get_close_matches(name, NAMED, 1) or list(NAMED)
            raise UsageError(
                f"unknown option {name!r}; did you mean {', '.join(near)}? (settings={{...}} for all others)"
            )
    return {NAMED[name]: value for name, value in named.items() if value is not None}


def all_settings(settings: Mapping[str, Any] | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted settings, and those that have an option of their own, together.

    Raises:
        UsageError: There is no such option, or a setting is given both ways.
    """
    ours, theirs = dict(_leaves(settings or {})), named_settings(named)
    if twice := ours.keys() & theirs.keys():
        raise UsageError(f"{min(twice)} is given twice: by its own option and as a setting; leave one out")
    return ours | theirs


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Return ``key=value`` settings as a dictionary; values are read as YAML.

    >>> parse_settings(["optim.rate=1e-3", "data.scale=[1, 1]"])
    {'optim.rate': '1e-3', 'data.scale': [1, 1]}

    Raises:
        UsageError: A setting has no ``=``, or its value is not YAML.
    """
    changes = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting}: write key=value, such as --set optim.rate=1e-3")
        try:
            read = parse_yaml(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {setting}: the value is not valid YAML") from error
        changes[key] = value.strip() if key in FILES and isinstance(read, (int, float)) else read
    return changes


def _read_recipe(recipe: str) -> dict[str, Any]:
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(
                f"{path}: no such recipe file; recipes that come with fullconv: {', '.join(recipe_names())}"
            )
        try:
            text = read_text(path)
        except DataError as error:
            raise UsageError(str(error)) from error
    elif recipe in recipe_names():
        text = (resources.files("fullconv") / "recipes" / f"{recipe}.yaml").read_text("utf-8")
    else:
        raise UsageError(f"unknown recipe {recipe!r}; choose one of {', '.join(recipe_names())}, or give a .yaml file")
    try:
        tree = parse_yaml(text) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{recipe}: not valid YAML ({error})".replace("\n", " ")) from error
    if not isinstance(tree, dict):
        raise UsageError(f"{recipe}: a recipe is a table of keys; see the recipe 'modern'")
    tree = {key: value for key, value in tree.items() if value is not None or key not in SECTIONS}
    try:
        table = _set_all({}, tree)
        _validated(table)
    except UsageError as error:
        raise UsageError(f"{recipe}: {error}") from error
    return table


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of every entry that is no table itself, or an empty one where a value should be."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and (value or f"{above}{key}" in SECTIONS):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _set_all(tree: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Set every entry of ``changes``, by dotted key or in tables, in ``tree``, and return it."""
    for key, value in _leaves(changes):
        _set(tree, key, value)
    return tree


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UsageError(f"unknown setting {key!r}: {section!r} has no parts")
    parts = tree.get(last)
    if isinstance(parts, dict) and parts:
        raise UsageError(f"setting {key} has parts ({', '.join(parts)}): set those, not {key} itself")
    tree[last] = value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "extra_forbidden":
        key, value = ".".join(map(str, first["loc"])), first["input"]
        if isinstance(value, Mapping) and value:  # It is the section that is unknown.
            key, _ = next(_leaves(value, f"{key}."))
        near = _nearest(key)
        return f"unknown setting {key!r}" + (f"; did you mean {near!r}?" if near else "")
    key = _key(first["loc"])
    kinds = dict.fromkeys(problem["msg"] for problem in error.errors() if _key(problem["loc"]) == key)
    return f"setting {key}: {'; or: '.join(kinds)} (got {first['input']!r})"


def _nearest(key: str) -> str | None:
    """Return the setting that somebody means who writes ``key``, whatever the section; None if there is none such."""
    last, names = key.rpartition(".")[2], {name.rpartition(".")[2]: name for name in _KEYS}
    near = difflib.get_close_matches(last, names, 1)
    return CALLED_ELSEWHERE.get(last) or (names[near[0]] if near else None)


def _key(place: Sequence[int | str]) -> str:
    """Return the setting that pydantic's place lies in: without the kinds of value that it tried."""
    names = (".".join(map(str, place[:length])) for length in (2, 1))
    return next((name for name in names if name in _KEYS), "")


_KEYS = [
    *TrainConfig.model_fields,
    *(f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields),
]
