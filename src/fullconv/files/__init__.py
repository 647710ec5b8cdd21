"""What lies on disk: images, masks and rasters in any form people store them, and outputs, never half-written."""

from .arrays import Window
from .atomic import write_atomically
from .images import read_image, read_mask, to_rgb
from .masks import ClassFiles, Drawing, Mask, MaskFile, RasterMask
from .parquet import CellImage, CellMask
from .pictures import Bands, ImageFile, Picture, Stack

__all__ = [
    "Bands",
    "CellImage",
    "CellMask",
    "ClassFiles",
    "Drawing",
    "ImageFile",
    "Mask",
    "MaskFile",
    "Picture",
    "RasterMask",
    "Stack",
    "Window",
    "read_image",
    "read_mask",
    "to_rgb",
    "write_atomically",
]
