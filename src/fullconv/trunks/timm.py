"""Any convolutional network of timm, by its name there: ``timm:tf_efficientnet_lite0``."""

import difflib
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ModelError, UsageError
from ..nn.convert import widen_first_conv
from .base import KEEPS_ALL, PAPER_PADDING, Normalisation, Padding, Trunk
from .context import Context, without_fc
from .weights import DOWNLOAD, Weights, load_weights


def build(name: str, padding: Padding, in_channels: int, weights: Weights, context: Context, dropout: float) -> Trunk:
    """Return timm's network ``name`` as a trunk with one tap a stride.

    The image is extended to a multiple of the coarsest stride, so that "same" padding that depends on the size, and
    poolings that round down, have one geometry for all sizes.

    Raises:
        UsageError: timm is not installed, or has no convolutional network of that name.
    """
    network: Any = _features_only(name, pretrained=weights == DOWNLOAD)
    if weights is not None and weights != DOWNLOAD:
        known = set(network.state_dict())
        load_weights(network, weights, lambda key: _flattened(key, known))
    info: Any = network.feature_info
    body: nn.Module = TimmBody(widen_first_conv(network, in_channels), info.module_name())
    scale = network.pretrained_cfg
    normalisation = Normalisation(*(tuple(255.0 * value for value in scale[key]) for key in ("mean", "std")))
    return Trunk(
        body,
        without_fc(context, name, info.channels()[-1], dropout),
        normalisation=normalisation.for_channels(in_channels),
        margin=PAPER_PADDING if padding == "paper" else 0,
        multiple=max(info.reduction()),
    )


class TimmBody(nn.Module):
    """A features-only network of timm whose outputs have names."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = [name.replace(".", "_") for name in names]

    def forward(self, image: Float[Tensor, "n c h w"]) -> dict[str, Tensor]:
        """Return the last feature of every stride by name, fine to coarse."""
        return dict(zip(self.names, self.network(image), strict=True))

    def save_memory(self) -> None:
        """Compute activations again in the backward pass.

        Raises:
            UsageError: This network of timm cannot.
        """
        network: Any = self.network
        if not hasattr(network, "set_grad_checkpointing"):
            raise UsageError(KEEPS_ALL)
        network.set_grad_checkpointing(True)


def _features_only(name: str, *, pretrained: bool) -> Any:
    try:
        import timm
    except ImportError as error:
        raise UsageError(f"trunk timm:{name} needs timm: pip install 'fullconv[timm]'") from error
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        raise UsageError(f"timm has no network {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    try:
        network = timm.create_model(name, features_only=True, pretrained=pretrained)
    except RuntimeError as error:
        if pretrained and "pretrained" in str(error):
            raise ModelError(
                f"timm has no weights of {name}: give the path of a file, or train it from scratch"
            ) from error
        raise UsageError(
            f"timm:{name} gives no pyramid of features ({error}); choose a convolutional network"
        ) from error
    info: Any = network.feature_info
    if not all(isinstance(index, int) for index in info.reduction()):
        raise UsageError(f"timm:{name} does not name the strides of its features; choose a convolutional network")
    return network


def _flattened(key: str, known: set[str]) -> str:
    """timm joins the first two parts of a name where it flattens a network: stages.0 → stages_0."""
    return key if key in known else key.replace(".", "_", 1)
