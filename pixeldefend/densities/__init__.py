"""Density models p(x), one file per paper: `DENSITIES` lists them by name, and `build` makes one from its config."""

from __future__ import annotations

from .autoregressive import Autoregressive
from .base import Density
from .distributions import GridDistribution, SiteDistribution
from .ensemble import OrderEnsemble
from .eonade import EoNADE
from .fvsbn import FVSBN
from .gated_pixelcnn import GatedPixelCNN
from .made import MADE
from .nade import NADE
from .nelloc import NeLLoC
from .pixelcnn import PixelCNN
from .pixelcnnpp import PixelCNNPlusPlus
from .pixelrnn import DiagonalBiLSTM, RowLSTM
from .purification import most_probable_within
from .registry import DENSITIES, build, load, restored
from .rnade import RNADE
from .rnn import RNN
from .sequences import SequenceModel
from .wavenet import WaveNet

__all__ = [
    "DENSITIES",
    "FVSBN",
    "MADE",
    "NADE",
    "RNADE",
    "RNN",
    "Autoregressive",
    "Density",
    "DiagonalBiLSTM",
    "EoNADE",
    "GatedPixelCNN",
    "GridDistribution",
    "NeLLoC",
    "OrderEnsemble",
    "PixelCNN",
    "PixelCNNPlusPlus",
    "RowLSTM",
    "SequenceModel",
    "SiteDistribution",
    "WaveNet",
    "build",
    "load",
    "most_probable_within",
    "restored",
]
