"""The data doctor: what is wrong with a data set, what it is like, and what to do."""

from .diagnosis import Diagnosis, check, refuse_bad, unusable
from .report import write_report

__all__ = ["Diagnosis", "check", "refuse_bad", "unusable", "write_report"]
