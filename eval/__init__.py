"""Detector x attacks -> ROC tables, plots and a report. Installed as `pixeldefend.eval`."""

from .benchmark import run_benchmark
from .metrics import auroc, rate
from .report import write_report

__all__ = ["auroc", "rate", "run_benchmark", "write_report"]
