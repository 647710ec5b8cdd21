"""Networks: trunk, heads, normalisation; the named variants; model folders."""

from .build import fcn, fcn4s, fcn8s, fcn8s_at_once, fcn16s, fcn32s
from .config import ModelConfig
from .fcn import FCN
from .heads import SkipHead
from .staging import StartReport, start_from

__all__ = [
    "FCN",
    "ModelConfig",
    "SkipHead",
    "StartReport",
    "fcn",
    "fcn4s",
    "fcn8s",
    "fcn8s_at_once",
    "fcn16s",
    "fcn32s",
    "start_from",
]
