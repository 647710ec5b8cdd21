"""Prediction on single images."""

from .prediction import Prediction
from .predictor import MODELS, Predictor, evaluation_mode, load, model_folder
from .views import Views

__all__ = ["MODELS", "Prediction", "Predictor", "Views", "evaluation_mode", "load", "model_folder"]
