"""Data sets as tensors: images, tables, text and audio."""

from .audio import mu_law_decode, mu_law_encode, read_wav, write_wav
from .datasets import DATASETS, load_dataset
from .readers import READERS, Source
from .splits import DataSet, Images, split

__all__ = [
    "DATASETS",
    "READERS",
    "DataSet",
    "Images",
    "Source",
    "load_dataset",
    "mu_law_decode",
    "mu_law_encode",
    "read_wav",
    "split",
    "write_wav",
]
