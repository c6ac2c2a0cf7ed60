"""Detector x attacks -> ROC tables, plots and a report. Installed as `pixeldefend.eval`."""

from .adapters import as_detector, find_classifier, find_detector, recipe_of
from .adaptive import ADAPTIVE, run_adaptive
from .baselines import BASELINES
from .benchmark import SUITES, attack_all, run_benchmark
from .cache import Cache
from .comparison import compare, side_by_side, write_comparison
from .leaderboard import entry, leaderboard_table
from .metrics import auroc, rate
from .report import write_report

__all__ = [
    "ADAPTIVE",
    "BASELINES",
    "SUITES",
    "Cache",
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
