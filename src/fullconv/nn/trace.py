"""Derive where every named feature of a module sits and what it sees, by running the module on the meta device.

A dispatch mode watches the operations that the module really performs, so that any code path counts: no layer list
to keep in step, nothing guessed from class names. What has no positions any more is reported by name and reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import GeometryError
from ..geometry import Field
from .mode import evaluation_mode
from .positions import MIXERS, RULES, Grid, Lost, Pooled, Rows, State, UnknownGeometry, pointwise

_Call = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Feature:
    """A named feature and its geometry on both axes.

    Attributes:
        name: The module that made it, or the key of a dictionary output.
        channels: Number of channels.
        y: Vertical axis.
        x: Horizontal axis.
        size_dependent: The grid differs between input sizes ("same" padding chosen at run time, for one): the
            geometry holds for the size that was traced.
    """

    name: str
    channels: int
    y: Field
    x: Field
    size_dependent: bool = False

    @property
    def stride(self) -> Any:
        """Input pixels between neighbours: one fraction, or (y, x) where the axes differ."""
        return _both(self.y.stride, self.x.stride)

    @property
    def offset(self) -> Any:
        """Input coordinate of pixel 0's centre: one fraction, or (y, x) where the axes differ."""
        return _both(self.y.offset, self.x.offset)

    @property
    def receptive_field(self) -> Any:
        """Input pixels that one pixel sees (None: all): one fraction, or (y, x) where the axes differ."""
        return _both(self.y.receptive_field, self.x.receptive_field)


def _both(y: Fraction | None, x: Fraction | None) -> Any:
    return y if y == x else (y, x)


@dataclass(frozen=True)
class ModuleGeometry(Mapping[str, Feature]):
    """Features of a module by name, in the order in which they are computed.

    Attributes:
        features: What each named submodule returns (its last call, where it is called more than once).
        outputs: What the module itself returns: ``"output"``, the keys of its dictionary, or ``"output.0"`` and on.
        unknown: Submodules whose output has no position in the image, or sees all of it, with the reason.
        lost: Names of the module's own outputs that have no position.
    """

    features: Mapping[str, Feature]
    outputs: Mapping[str, Feature]
    unknown: Mapping[str, str]
    lost: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Feature:
        return self.features[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)


def geometry_of(
    module: nn.Module, input_size: tuple[int, int] = (256, 256), in_channels: int | None = None
) -> ModuleGeometry:
    """Return stride, receptive field and offset of every named feature of a convolutional module.

    The module runs on the meta device, in evaluation mode: nothing is computed, and the module is left unchanged. It
    runs at ``input_size`` and at a second, odd size, to find geometry that depends on the size.

    Args:
        module: Anything that maps an n×c×h×w tensor to a tensor or a dictionary of tensors.
        input_size: (height, width) in pixels.
        in_channels: Channels of the input; by default those of the first convolution.

    Raises:
        GeometryError: The module cannot run at ``input_size`` at all: not one feature was computed.

    Source: Long, Shelhamer & Darrell 2015, section 3.
    """
    channels = in_channels or _first_channels(module)
    here = _trace(module, (channels, *input_size))
    height, width = input_size
    if not here.features and not here.outputs and not here.lost:
        *_, reason = here.unknown.values() or ["it returns nothing"]
        raise GeometryError(
            f"{type(module).__name__} has no feature of an image {channels}×{height}×{width}: {reason}; choose another "
            f"input_size or in_channels"
        )
    height, width = (size + 31 - size % 2 for size in input_size)
    there = _trace(module, (channels, height, width))
    return replace(
        here,
        features=_marked(here.features, there.features),
        outputs=_marked(here.outputs, there.outputs),
    )


def _first_channels(module: nn.Module) -> int:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    return 3


def _marked(here: Mapping[str, Feature], there: Mapping[str, Feature]) -> dict[str, Feature]:
    def differs(feature: Feature) -> bool:
        other = there.get(feature.name)
        return other is not None and (feature.y.map, feature.x.map) != (other.y.map, other.x.map)

    return {name: replace(feature, size_dependent=differs(feature)) for name, feature in here.items()}


@torch.inference_mode(False)  # Within it a dispatch mode sees convolutions undecomposed.
def _trace(module: nn.Module, shape: tuple[int, int, int]) -> ModuleGeometry:
    tracer = _Tracer(module)
    state = {
        name: torch.empty_like(value, device="meta")
        for name, value in (*module.named_parameters(), *module.named_buffers())
    }
    precision = next((value.dtype for value in state.values() if value.is_floating_point()), None)
    image = torch.empty(1, *shape, device="meta", dtype=precision)
    tracer.know(image, Grid())
    with evaluation_mode(module), tracer.hooked(), torch.no_grad(), tracer:
        try:
            output = torch.func.functional_call(module, state, (image,))
        except Exception as error:
            tracer.report(f"stops here: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            output = {}
    named = _named_outputs(output)
    outputs = {name: feature for name, value in named.items() if (feature := tracer.feature(name, value))}
    lost = tuple(name for name in named if name not in outputs)
    return ModuleGeometry(tracer.features, outputs, tracer.unknown, lost)


def _named_outputs(output: object) -> Mapping[str, object]:
    if isinstance(output, Mapping):
        return output
    if isinstance(output, (list, tuple)):
        return {f"output.{index}": value for index, value in enumerate(output)}
    return {"output": output}


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows positions through every operation and remembers what each submodule returned."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {layer: name for name, layer in module.named_modules() if name}
        self.features: dict[str, Feature] = {}
        self.unknown: dict[str, str] = {}
        self._running: list[str] = []
        self._states: dict[int, tuple[Tensor, State]] = {}  # the tensor is held so that its id stays its own

    def know(self, tensor: Tensor, state: State) -> None:
        self._states[id(tensor)] = (tensor, state)

    def state(self, value: object) -> State | None:
        return self._states[id(value)][1] if id(value) in self._states else None

    def feature(self, name: str, value: object) -> Feature | None:
        grid = self.state(value)
        if not isinstance(grid, Grid) or not isinstance(value, Tensor):
            return None
        channel_axis = -3 if grid.axes == (-2, -1) else -1
        return Feature(name, value.shape[channel_axis], grid.y, grid.x)

    def report(self, reason: str) -> None:
        self.unknown.setdefault(self._running[-1] if self._running else "(the module itself)", reason)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        def enter(layer: nn.Module, inputs: object) -> None:
            self._running.append(self.names[layer])

        def leave(layer: nn.Module, inputs: object, output: object) -> None:
            name = self._running.pop()
            self.features.pop(name, None)
            if feature := self.feature(name, output):
                self.features[name] = feature

        handles = [
            hook
            for layer in self.names
            for hook in (layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: _Call = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [state for value in _tensors(args) if (state := self.state(value)) is not None]
        shapes = [tuple(value.shape) for value in _tensors(args)]
        output = func(*args, **kwargs)
        if inputs:
            bound = _bind(func, args, kwargs)
            state = self._after(func, inputs, bound, shapes, output)
            for value in _tensors((output,)):
                self.know(value, state)
        return output

    def _after(
        self,
        func: Any,
        inputs: list[State],
        bound: dict[str, Any],
        shapes: list[tuple[int, ...]],
        output: object,
    ) -> State:
        name = func.overloadpacket.__name__
        if name in MIXERS:
            if kept := self._over_channels(name, inputs, bound):
                return kept
            self.report(MIXERS[name])
            return Lost()
        if any(isinstance(state, Lost) for state in inputs):
            return Lost()
        try:
            if all(isinstance(state, Pooled) for state in inputs):
                return Pooled()
            rule = RULES.get(name.removesuffix("_")) or (pointwise if torch.Tag.pointwise in func.tags else None)
            if rule is None:
                raise UnknownGeometry(f"operation {name} is not one whose positions are known")
            state = rule(inputs, bound, shapes, output)
        except (UnknownGeometry, GeometryError) as error:
            self.report(str(error))
            return Lost()
        if isinstance(state, Pooled):
            self.report("global pooling: its output has no position in the image")
        return state

    def _over_channels(self, name: str, inputs: list[State], bound: Mapping[str, Any]) -> State | None:
        """Return the positions that a product with weights keeps: a linear layer over channels, not attention."""
        if name != "bmm":
            return next((state for state in inputs if isinstance(state, Rows)), None)
        left = self.state(bound["self"]) if len(inputs) == 1 else None
        return left if isinstance(left, Grid) and -1 not in left.axes else None


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _bind(func: Any, args: _Call, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the call's arguments by the operation's own parameter names, defaults filled in."""
    parameters = func._schema.arguments
    bound = {parameter.name: parameter.default_value for parameter in parameters if parameter.has_default_value()}
    return bound | {parameter.name: value for parameter, value in zip(parameters, args, strict=False)} | dict(kwargs)
