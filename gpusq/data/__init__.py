"""Images: what to learn and calibrate from and what to judge on, as arrays, with every byte accounted for."""

from gpusq.data.annotation import Findings
from gpusq.data.array_set import ArraySet
from gpusq.data.box_augmentation import BoxAugmentation
from gpusq.data.box_set import BoxSet, annotation_notes
from gpusq.data.boxes import Boxes, boxes_from_xyxy, no_boxes
from gpusq.data.calibration import CalibrationManifest, draw_manifest, load_manifest, read_manifest, write_manifest
from gpusq.data.classes import class_check
from gpusq.data.detection_metrics import AP, average_precision
from gpusq.data.detections import Detections, detections_of
from gpusq.data.folder import FolderSet
from gpusq.data.imageset import DataSpec, DetectionSet, ImageSet, UnreadableImageError, task_of
from gpusq.data.loader import Batch, Loader
from gpusq.data.metrics import agreement, top1, topk
from gpusq.data.preprocess import Preprocess
from gpusq.data.sources import open_data

__all__ = [
    "AP",
    "ArraySet",
    "Batch",
    "BoxAugmentation",
    "BoxSet",
    "Boxes",
    "CalibrationManifest",
    "DataSpec",
    "DetectionSet",
    "Detections",
    "Findings",
    "FolderSet",
    "ImageSet",
    "Loader",
    "Preprocess",
    "UnreadableImageError",
    "agreement",
    "annotation_notes",
    "average_precision",
    "boxes_from_xyxy",
    "class_check",
    "detections_of",
    "draw_manifest",
    "load_manifest",
    "no_boxes",
    "open_data",
    "read_manifest",
    "task_of",
    "top1",
    "topk",
    "write_manifest",
]
