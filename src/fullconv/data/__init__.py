"""From files to batches: data sets, images, masks, augmentation, sampling."""

from .classes import ClassTable
from .description import Description
from .files import read_image, read_mask, to_rgb, write_atomically
from .formats import FORMATS, open_dataset
from .generated import write_shapes
from .images import Bands, ImageFile, Stack
from .labels import LabelSet, voc_palette
from .patches import Patches
from .problems import Problem
from .raster import Window
from .sample import Batch, Sample, collate
from .sampling import Augmented, CachedDataset, EpochSampler
from .source import DataSource, Record, SampleDataset
from .transforms import TrainingTransform

__all__ = [
    "FORMATS",
    "Augmented",
    "Bands",
    "Batch",
    "CachedDataset",
    "ClassTable",
    "DataSource",
    "Description",
    "EpochSampler",
    "ImageFile",
    "LabelSet",
    "Patches",
    "Problem",
    "Record",
    "Sample",
    "SampleDataset",
    "Stack",
    "TrainingTransform",
    "Window",
    "collate",
    "open_dataset",
    "read_image",
    "read_mask",
    "to_rgb",
    "voc_palette",
    "write_atomically",
    "write_shapes",
]
