"""Named data sets, images, tables, text and audio, as tensors in five parts that share no event."""

from .datasets import DATASETS, DataSet, Images, Source, load_dataset, read_wav, write_wav

__all__ = ["DATASETS", "DataSet", "Images", "Source", "load_dataset", "read_wav", "write_wav"]
