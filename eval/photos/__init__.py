"""Measures detectors of photographs of any size against attacks on classifiers of ImageNet."""

from .attacked import AttackedPhotographs, attack_photographs
from .baselines import PHOTO_BASELINES
from .data import Photographs, read_photographs
from .learning import Learning
from .run import compare_photographs, run_photographs

__all__ = [
    "PHOTO_BASELINES",
    "AttackedPhotographs",
    "Learning",
    "Photographs",
    "attack_photographs",
    "compare_photographs",
    "read_photographs",
    "run_photographs",
]
