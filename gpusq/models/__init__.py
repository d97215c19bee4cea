"""Vision models in one canonical form: load, describe, rebuild, list their layers, trace their work."""

from gpusq.models.attention import AttentionPoints, UnpackedAttention, attention_modules, unreached_attention
from gpusq.models.canonical import PatchLinear, canonicalise
from gpusq.models.description import DETECTION_OUTPUTS, Activation, LoadedModel, ModelDescription, Task
from gpusq.models.detector import Detector, TensorOutputs
from gpusq.models.fixed_form import fix_form
from gpusq.models.layers import (
    NOT_PRUNED,
    check_divisible,
    find_attention_blocks,
    find_blocks,
    gemm_layers,
    prunable,
)
from gpusq.models.load import load_model, rebuild
from gpusq.models.presets import preset_names
from gpusq.models.source import source_fingerprint
from gpusq.models.tensors import check_finite, plain_tensors
from gpusq.models.trace import trace_workload

__all__ = [
    "DETECTION_OUTPUTS",
    "NOT_PRUNED",
    "Activation",
    "AttentionPoints",
    "Detector",
    "LoadedModel",
    "ModelDescription",
    "PatchLinear",
    "Task",
    "TensorOutputs",
    "UnpackedAttention",
    "attention_modules",
    "canonicalise",
    "check_divisible",
    "check_finite",
    "find_attention_blocks",
    "find_blocks",
    "fix_form",
    "gemm_layers",
    "load_model",
    "plain_tensors",
    "preset_names",
    "prunable",
    "rebuild",
    "source_fingerprint",
    "trace_workload",
    "unreached_attention",
]
