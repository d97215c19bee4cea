"""Vision models in one canonical form: load, describe, rebuild, list their layers, trace their work."""

from gpusq.models.attention import AttentionPoints, UnpackedAttention, attention_modules, unreached_attention
from gpusq.models.canonical import PatchLinear, canonicalise
from gpusq.models.description import LoadedModel, ModelDescription
from gpusq.models.layers import NOT_PRUNED, check_divisible, find_blocks, gemm_layers, prunable
from gpusq.models.load import load_model, rebuild
from gpusq.models.presets import preset_names
from gpusq.models.source import source_fingerprint
from gpusq.models.tensors import check_finite, plain_tensors
from gpusq.models.trace import trace_workload

__all__ = [
    "NOT_PRUNED",
    "AttentionPoints",
    "LoadedModel",
    "ModelDescription",
    "PatchLinear",
    "UnpackedAttention",
    "attention_modules",
    "canonicalise",
    "check_divisible",
    "check_finite",
    "find_blocks",
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
