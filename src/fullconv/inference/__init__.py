"""Prediction on single images."""

from .prediction import Prediction
from .predictor import MODELS, Predictor, load, model_folder
from .views import Views

__all__ = ["MODELS", "Prediction", "Predictor", "Views", "load", "model_folder"]
