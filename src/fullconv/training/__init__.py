"""Training: configuration, the loop, and what a run leaves behind."""

from .config import TrainConfig, load_config
from .loop import TrainResult, fit, train

__all__ = ["TrainConfig", "TrainResult", "fit", "load_config", "train"]
