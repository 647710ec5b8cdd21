"""What each operation does to a tensor's positions: the rules behind :func:`fullconv.nn.trace.geometry_of`.

A rule takes what is known of the operation's inputs, its arguments by name, the inputs' shapes and the output, and
returns what is known of the output. Axes count from the end, so that broadcasting and batching keep them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from ..geometry import Field, LayerSpec, join


@dataclass(frozen=True, slots=True)
class Grid:
    """The tensor has positions: ``axes`` are its vertical and horizontal dimensions."""

    y: Field = Field()
    x: Field = Field()
    axes: tuple[int, int] = (-2, -1)

    def through(self, layers: tuple[LayerSpec, LayerSpec]) -> "Grid":
        """Return the grid after a layer, vertical and horizontal."""
        return replace(self, y=self.y.through(layers[0]), x=self.x.through(layers[1]))

    def seeing_everything(self) -> "Grid":
        """Return the grid with a summary of the whole image mixed in."""
        return replace(self, y=self.y.seeing_everything(), x=self.x.seeing_everything())


@dataclass(frozen=True, slots=True)
class Rows:
    """A channels-last grid flattened to rows, as a linear layer over channels sees it."""

    grid: Grid
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pooled:
    """A summary of the whole image: no positions, but it may gate a grid."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Positions are gone, for a reason that was reported."""


State = Grid | Rows | Pooled | Lost


class UnknownGeometry(Exception):
    """Raised inside a rule: the output's positions are not known, for this reason."""


def _pair(value: Any, default: int | tuple[int, ...] = 1) -> tuple[int, int]:
    if value is None or (isinstance(value, (list, tuple)) and not value):
        value = default
    values = [int(value)] if isinstance(value, int) else [int(item) for item in value]
    return (values[-2], values[-1]) if len(values) > 1 else (values[0], values[0])


def _grid(inputs: Sequence[State], axes: tuple[int, int] | None = None) -> Grid:
    """Return the one grid among the inputs: all that have positions must agree, a pooled one sees everything."""
    grids = [state for state in inputs if isinstance(state, Grid)]
    if not grids or any(isinstance(state, Rows) for state in inputs):
        raise UnknownGeometry("positions were flattened away")
    if any(grid.axes != (axes or grids[0].axes) for grid in grids):
        raise UnknownGeometry("height and width are not where this operation expects them")
    joined = replace(grids[0], y=join([grid.y for grid in grids]), x=join([grid.x for grid in grids]))
    return joined.seeing_everything() if len(grids) < len(inputs) else joined


def pointwise(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    """Rule of elementwise operations: the inputs must share one grid."""
    if all(isinstance(state, Rows) for state in inputs):
        return inputs[0]
    return _grid(inputs)


def _convolution(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    kernel, padding = _pair(bound["weight"].shape[2:]), _pair(bound["padding"])
    stride, dilation, extra = (
        _pair(bound["stride"]),
        _pair(bound["dilation"]),
        _pair(bound["output_padding"], 0),
    )
    return _grid(inputs, (-2, -1)).through(
        _per_axis(
            lambda axis: LayerSpec(
                kernel[axis],
                stride[axis],
                (padding[axis], padding[axis] - (extra[axis] if bound["transposed"] else 0)),
                dilation[axis],
                transposed=bound["transposed"],
            )
        )
    )


def _pooling(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    kernel = _pair(bound["kernel_size"])
    stride, padding = _pair(bound["stride"], kernel), _pair(bound["padding"])
    dilation, ceil = _pair(bound.get("dilation", 1)), bool(bound["ceil_mode"])
    return _grid(inputs, (-2, -1)).through(
        _per_axis(lambda axis: LayerSpec(kernel[axis], stride[axis], (padding[axis],) * 2, dilation[axis], ceil))
    )


def _per_axis(layer: Callable[[int], LayerSpec]) -> tuple[LayerSpec, LayerSpec]:
    return layer(0), layer(1)


def _constant_pad(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    grid, pad = _grid(inputs), list(bound["pad"])

    def layer(axis: int) -> LayerSpec:
        place = 2 * (-1 - grid.axes[axis])
        before, after = pad[place : place + 2] if place < len(pad) else (0, 0)
        return LayerSpec(padding=(before, after))

    return grid.through(_per_axis(layer))


def _slice(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    grid, rank = _grid(inputs), len(shapes[0])
    dim = bound["dim"] % rank - rank
    if dim not in grid.axes:
        return grid
    size = shapes[0][dim]
    start, stop, step = slice(bound["start"], bound["end"], bound["step"]).indices(size)
    layer = LayerSpec(stride=step, padding=(-start, stop - size))
    return grid.through(_per_axis(lambda axis: layer if grid.axes[axis] == dim else LayerSpec()))


def _interpolation(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    grid, nearest = _grid(inputs, (-2, -1)), "align_corners" not in bound
    corners = bool(bound.get("align_corners"))

    def layer(axis: int) -> LayerSpec:
        source, target = shapes[0][axis - 2], output.shape[axis - 2]
        ratio = Fraction(target - corners, max(source - corners, 1))
        if ratio.denominator != 1:
            raise UnknownGeometry(f"interpolation from {source} to {target} pixels: not a whole factor")
        factor = int(ratio)
        if nearest:
            return LayerSpec(factor, factor, transposed=True)
        kernel = 2 * factor - (1 if corners else factor % 2)
        pad = factor - 1 if corners else factor // 2
        return LayerSpec(kernel, factor, (pad, pad), transposed=True)

    return grid.through(_per_axis(layer))


def _adaptive_pooling(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    target = tuple(output.shape[-2:])
    if target == shapes[0][-2:]:
        return _grid(inputs)
    if target == (1, 1):
        return Pooled()
    raise UnknownGeometry(f"adaptive pooling from {shapes[0][-2:]} to {target}: its windows depend on the input's size")


def _reduction(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    grid, rank = _grid(inputs), len(shapes[0])
    dims = bound.get("dim")
    reduced = [dims] if isinstance(dims, int) else list(dims or range(rank))
    gone = {dim % rank - rank for dim in reduced}
    if gone & set(grid.axes):
        return Pooled()
    if bound.get("keepdim"):
        return grid
    return _moved(grid, [dim for dim in range(-rank, 0) if dim not in gone])


def _moved(grid: Grid, order: Sequence[int]) -> Grid:
    """Return the grid after its dimensions were put in ``order`` (old ones, counted from the end)."""
    places = {old: new - len(order) for new, old in enumerate(order)}
    return replace(grid, axes=(places[grid.axes[0]], places[grid.axes[1]]))


def _permute(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    rank = len(shapes[0])
    return _moved(_grid(inputs), [dim % rank - rank for dim in bound["dims"]])


def _transpose(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    rank = len(shapes[0])
    order = list(range(-rank, 0))
    a, b = bound["dim0"] % rank, bound["dim1"] % rank
    order[a], order[b] = order[b], order[a]
    return _moved(_grid(inputs), order)


def _unsqueeze(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    return _reshaped(_grid(inputs), shapes[0], tuple(output.shape))


def _view(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    source, target = shapes[0], tuple(output.shape)
    state = inputs[0]
    if isinstance(state, Rows):
        if target[:-1] == state.shape[:-1]:
            return state.grid
        raise UnknownGeometry("positions were flattened away")
    grid = _grid(inputs)
    if grid.axes == (-3, -2) and len(target) == 2 and target[-1] == source[-1]:
        return Rows(grid, source)
    return _reshaped(grid, source, target)


def _reshaped(grid: Grid, source: tuple[int, ...], target: tuple[int, ...]) -> Grid:
    """Height and width survive a reshape that leaves them, and all that follows them, as they are."""
    for axis in (grid.axes[0], grid.axes[0] - 1, grid.axes[0] + 1):
        tail = target[axis:] if axis < 0 else ()
        if [size for size in tail if size != 1] == [size for size in source[grid.axes[0] :] if size != 1] and (
            tail[:2] == source[grid.axes[0] :][:2]
        ):
            return replace(grid, axes=(axis, axis + 1))
    raise UnknownGeometry(f"reshaped from {source} to {target}: height and width are merged with other dimensions")


def _cat(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    grid, rank = _grid(inputs), len(shapes[0])
    if bound["dim"] % rank - rank in grid.axes:
        raise UnknownGeometry("concatenation along height or width")
    return grid


def _along_channels(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    grid, rank = _grid(inputs), len(shapes[0])
    if bound["dim"] % rank - rank in grid.axes:
        raise UnknownGeometry("an operation along height or width")
    return grid


def _keep(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    return inputs[0]


def _layer_norm(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    grid = _grid(inputs)
    return grid if -len(bound["normalized_shape"]) > max(grid.axes) else grid.seeing_everything()


def _image_norm(inputs: list[State], bound: dict[str, Any], shapes: Any, output: Any) -> State:
    return _grid(inputs).seeing_everything()


Rule = Callable[[list[State], dict[str, Any], Any, Any], State]
MIXERS = {
    **dict.fromkeys(("addmm", "mm", "linear"), "linear layer: its output has no position in the image"),
    **dict.fromkeys(
        (
            "bmm",
            "_safe_softmax",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_attention_math",
        ),
        "attention: every position sees every other",
    ),
}
RULES: dict[str, Rule] = {
    "convolution": _convolution,
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d", "avg_pool3d"), _pooling),
    "_adaptive_avg_pool2d": _adaptive_pooling,
    "adaptive_max_pool2d": _adaptive_pooling,
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "var", "std"), _reduction),
    "constant_pad_nd": _constant_pad,
    **dict.fromkeys(
        ("reflection_pad2d", "replication_pad2d"),
        lambda inputs, bound, shapes, output: _constant_pad(inputs, {"pad": bound["padding"]}, shapes, output),
    ),
    "slice": _slice,
    **dict.fromkeys(("upsample_bilinear2d", "upsample_nearest2d", "_upsample_nearest_exact2d"), _interpolation),
    "permute": _permute,
    "transpose": _transpose,
    **dict.fromkeys(("unsqueeze", "squeeze"), _unsqueeze),
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), _view),
    "cat": _cat,
    **dict.fromkeys(("split", "split_with_sizes", "_softmax", "_log_softmax", "index_select"), _along_channels),
    **dict.fromkeys(
        (
            "detach",
            "alias",
            "empty_like",
            "expand",
            "native_batch_norm",
            "_native_batch_norm_legit_no_training",
            "_native_batch_norm_legit",
            "cudnn_batch_norm",
            "native_dropout",
        ),
        _keep,
    ),
    **dict.fromkeys(  # elementwise, but not tagged so by every torch, or not in place
        (
            "hardswish",
            "hardtanh",
            "hardsigmoid",
            "elu",
            "celu",
            "leaky_relu",
            "mish",
            "_prelu_kernel",
            "rrelu_with_noise",
            "threshold",
            "log_sigmoid_forward",
        ),
        pointwise,
    ),
    "glu": _along_channels,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _image_norm,
}
