"""Prediction on single images."""

from .prediction import Prediction
from .predictor import Predictor, load, model_folder
from .views import Views

__all__ = ["Prediction", "Predictor", "Views", "load", "model_folder"]
