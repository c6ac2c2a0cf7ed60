"""Detector x attacks -> ROC tables, plots and a report. Installed as `pixeldefend.eval`."""

from .benchmark import attack_all, run_benchmark
from .comparison import compare, write_comparison
from .metrics import auroc, rate
from .report import write_report

__all__ = ["attack_all", "auroc", "compare", "rate", "run_benchmark", "write_comparison", "write_report"]
