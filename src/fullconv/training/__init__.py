"""Training: configuration, the loop, and what a run leaves behind."""

from .config import TrainConfig, load_config
from .loop import TrainResult, fit
from .rates import RateTest, find_rate
from .run import train

__all__ = ["RateTest", "TrainConfig", "TrainResult", "find_rate", "fit", "load_config", "train"]
