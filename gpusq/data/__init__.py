"""Images: what to learn and calibrate from and what to judge on, as arrays, with every byte accounted for."""

from gpusq.data.array_set import ArraySet
from gpusq.data.calibration import CalibrationManifest, draw_manifest, load_manifest, read_manifest, write_manifest
from gpusq.data.classes import class_check
from gpusq.data.folder import FolderSet
from gpusq.data.imageset import DataSpec, ImageSet, UnreadableImageError
from gpusq.data.loader import Batch, Loader
from gpusq.data.metrics import agreement, top1, topk
from gpusq.data.preprocess import Preprocess
from gpusq.data.sources import open_data

__all__ = [
    "ArraySet",
    "Batch",
    "CalibrationManifest",
    "DataSpec",
    "FolderSet",
    "ImageSet",
    "Loader",
    "Preprocess",
    "UnreadableImageError",
    "agreement",
    "class_check",
    "draw_manifest",
    "load_manifest",
    "open_data",
    "read_manifest",
    "top1",
    "topk",
    "write_manifest",
]
