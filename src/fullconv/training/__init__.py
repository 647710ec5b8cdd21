"""Training: configuration, the loop, and what a run leaves behind."""

from .range_test import RateTest, find_rate
from .run import train
from .runlog import TrainResult

__all__ = ["RateTest", "TrainResult", "find_rate", "train"]
