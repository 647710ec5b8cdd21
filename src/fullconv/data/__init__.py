"""From files to batches: data sets, images, masks, augmentation, sampling."""

from .classes import ClassTable
from .description import Description
from .files import read_image, read_mask, to_rgb, write_atomically
from .formats import FORMATS, open_dataset
from .generated import write_shapes
from .labels import LabelSet, voc_palette
from .problems import Problem
from .sample import Batch, Sample, collate
from .sampling import Augmented, CachedDataset, EpochSampler
from .source import DataSource, Record, SampleDataset
from .transforms import TrainingTransform

__all__ = [
    "FORMATS",
    "Augmented",
    "Batch",
    "CachedDataset",
    "ClassTable",
    "DataSource",
    "Description",
    "EpochSampler",
    "LabelSet",
    "Problem",
    "Record",
    "Sample",
    "SampleDataset",
    "TrainingTransform",
    "collate",
    "open_dataset",
    "read_image",
    "read_mask",
    "to_rgb",
    "voc_palette",
    "write_atomically",
    "write_shapes",
]
