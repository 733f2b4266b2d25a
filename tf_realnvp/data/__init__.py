"""Image data sets, from names, folders, files and arrays."""

from tf_realnvp.config import DATASETS
from tf_realnvp.data.image_dataset import ImageDataset
from tf_realnvp.data.loading import for_model, load, source
from tf_realnvp.data.splits import Split

__all__ = ["DATASETS", "ImageDataset", "Split", "for_model", "load", "source"]
