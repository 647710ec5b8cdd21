"""How good a network is: scores and pictures."""

from .evaluate import as_predictor, confusion, default_split, evaluate
from .pictures import panel, save_panels

__all__ = ["as_predictor", "confusion", "default_split", "evaluate", "panel", "save_panels"]
