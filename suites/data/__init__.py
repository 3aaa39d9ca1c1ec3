"""Datasets, the hashes that identify them, and the degradations that make a task of them.

`find` looks a dataset up, `load_training` decodes training sets, `listing` and `check` say what a folder holds.
"""

from suites.data.catalogue import DATASETS, DatasetInfo
from suites.data.check import check, unchecked
from suites.data.datasets import Dataset, Picture, find, find_all, find_training, listing, load_training
from suites.data.pictures import DataError, load_picture

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "DatasetInfo",
    "Picture",
    "check",
    "find",
    "find_all",
    "find_training",
    "listing",
    "load_picture",
    "load_training",
    "unchecked",
]
