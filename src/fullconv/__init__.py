"""fullconv: semantic segmentation with fully convolutional networks.

Any-size image in, a class for every pixel out. Everything public is here, and is imported when it is first used, so
that ``import fullconv`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import open_dataset
    from .data.labels import LabelSet
    from .doctor import Diagnosis, check
    from .errors import DataError, FullconvError, GeometryError, Interrupted, ModelError, NotFinite, UsageError
    from .evaluation import evaluate
    from .inference import Prediction, Predictor, Views, load
    from .metrics import Scores, confusion_matrix
    from .models import FCN, fcn, fcn4s, fcn8s, fcn8s_at_once, fcn16s, fcn32s
    from .nn.bilinear import BilinearUpsample, bilinear_kernel
    from .nn.convert import conv_to_linear, convolutionize, linear_to_conv, widen_first_conv
    from .nn.trace import geometry_of
    from .nn.transplant import transplant
    from .training import train

_HOMES = {
    "data": ("open_dataset",),
    "data.labels": ("LabelSet",),
    "doctor": ("Diagnosis", "check"),
    "errors": ("DataError", "FullconvError", "GeometryError", "Interrupted", "ModelError", "NotFinite", "UsageError"),
    "evaluation": ("evaluate",),
    "inference": ("Prediction", "Predictor", "Views", "load"),
    "metrics": ("Scores", "confusion_matrix"),
    "models": ("FCN", "fcn", "fcn16s", "fcn32s", "fcn4s", "fcn8s", "fcn8s_at_once"),
    "nn.bilinear": ("BilinearUpsample", "bilinear_kernel"),
    "nn.convert": ("conv_to_linear", "convolutionize", "linear_to_conv", "widen_first_conv"),
    "nn.trace": ("geometry_of",),
    "nn.transplant": ("transplant",),
    "training": ("train",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "FCN",
    "BilinearUpsample",
    "DataError",
    "Diagnosis",
    "FullconvError",
    "GeometryError",
    "Interrupted",
    "LabelSet",
    "ModelError",
    "NotFinite",
    "Prediction",
    "Predictor",
    "Scores",
    "UsageError",
    "Views",
    "bilinear_kernel",
    "check",
    "confusion_matrix",
    "conv_to_linear",
    "convolutionize",
    "evaluate",
    "fcn",
    "fcn4s",
    "fcn8s",
    "fcn8s_at_once",
    "fcn16s",
    "fcn32s",
    "geometry_of",
    "linear_to_conv",
    "load",
    "open_dataset",
    "train",
    "transplant",
    "widen_first_conv",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fullconv' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
