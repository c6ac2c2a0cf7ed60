"""Detector x attacks -> ROC tables, plots and a report. Installed as `pixeldefend.eval`."""

from .adaptive import ADAPTIVE, run_adaptive
from .baselines import BASELINES
from .benchmark import SUITES, attack_all, run_benchmark
from .comparison import compare, side_by_side, write_comparison
from .kept import Kept
from .leaderboard import entry, leaderboard_table
from .metrics import auroc, rate
from .others import as_detector, find_classifier, find_detector, recipe_of
from .report import write_report

__all__ = [
    "ADAPTIVE",
    "BASELINES",
    "SUITES",
    "Kept",
    "as_detector",
    "attack_all",
    "auroc",
    "compare",
    "entry",
    "find_classifier",
    "find_detector",
    "leaderboard_table",
    "rate",
    "recipe_of",
    "run_adaptive",
    "run_benchmark",
    "side_by_side",
    "write_comparison",
    "write_report",
]
