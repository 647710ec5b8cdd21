"""Prediction on single images."""

from .prediction import Prediction
from .predictor import Predictor, load, model_folder

__all__ = ["Prediction", "Predictor", "load", "model_folder"]
