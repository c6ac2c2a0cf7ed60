"""Measures detectors against attacks, in tables, plots and a report. Installed as `pixeldefend.eval`.

Attacks need the extra `attacks`; tables, plots and reports need the extra `eval`.
"""

from .adapters import as_detector, find_classifier, find_detector
from .adaptive import ADAPTIVE, run_adaptive
from .attacked import attack_all
from .baselines import BASELINES
from .cache import Cache
from .comparison import compare, side_by_side, write_comparison
from .leaderboard import entry, leaderboard_table
from .metrics import auroc, rate
from .photos import PHOTO_BASELINES, compare_photographs, run_photographs
from .report import write_report
from .run import SUITES, run_benchmark
from .upgrade import read_results, upgrade

__all__ = [
    "ADAPTIVE",
    "BASELINES",
    "PHOTO_BASELINES",
    "SUITES",
    "Cache",
    "as_detector",
    "attack_all",
    "auroc",
    "compare",
    "compare_photographs",
    "entry",
    "find_classifier",
    "find_detector",
    "leaderboard_table",
    "rate",
    "read_results",
    "run_adaptive",
    "run_benchmark",
    "run_photographs",
    "side_by_side",
    "upgrade",
    "write_comparison",
    "write_report",
]
