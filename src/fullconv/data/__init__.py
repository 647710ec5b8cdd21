"""From files to batches: data sets, classes, augmentation, sampling."""

from .classes import ClassTable
from .description import Description
from .formats import FORMATS, open_dataset
from .generated import write_shapes
from .labels import LabelSet, voc_palette
from .patches import Patches
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
    "Patches",
    "Problem",
    "Record",
    "Sample",
    "SampleDataset",
    "TrainingTransform",
    "collate",
    "open_dataset",
    "voc_palette",
    "write_shapes",
]
