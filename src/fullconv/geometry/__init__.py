"""Exact arithmetic on where features sit and what they see. Fractions only: no torch, no rounding."""

from .coords import CoordMap
from .crops import Ladder, Rung, crop_offset, halo, ladder
from .fields import Field, chain, chain_size, join
from .layers import LayerSpec

__all__ = [
    "CoordMap",
    "Field",
    "Ladder",
    "LayerSpec",
    "Rung",
    "chain",
    "chain_size",
    "crop_offset",
    "halo",
    "join",
    "ladder",
]
