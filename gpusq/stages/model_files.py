"""The payload of a model artifact (dense, sparse, quantized): written and read in one place.

model.json           ModelDescription
weights.safetensors  parameters and buffers; already masked where pruned
layers.json          Layer states        workload.json   operators of one forward pass
masks.safetensors    one bit-packed mask per pruned layer
quantizers.json      QuantizerSpec list  scales.safetensors  one scale tensor per quantizer
prune_loss.json      feature loss per block, recorded by Prune for Qat's weight factor
source.py            the user's own model file, where there is one
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from gpusq.artifacts import Artifact
from gpusq.errors import SparsityCheckError
from gpusq.models import LoadedModel, ModelDescription, plain_tensors, rebuild
from gpusq.quantization import QuantizerSpec, insert, load_scales, scales
from gpusq.sparsity import check_nm, from_gemm_matrix, gemm_matrix, pack_mask, unpack_mask
from gpusq.stages.layer_files import read_layers, read_workload, write_json, write_layers
from gpusq.workload import Layer, Workload

MASK_SHAPES = "mask_shapes.json"


@dataclass
class ModelState:
    """A model with everything that its artifact knows about it.

    masks: layer name -> bool GEMM matrix [out, k]; quantizers: empty for a float model.
    """

    loaded: LoadedModel
    layers: tuple[Layer, ...]
    workload: Workload
    masks: dict[str, Tensor] = field(default_factory=dict)
    quantizers: tuple[QuantizerSpec, ...] = ()
    prune_loss: dict[str, float] = field(default_factory=dict)

    def weight_masks(self) -> dict[str, Tensor]:
        """Layer name -> bool mask shaped as the layer's weight."""
        shapes = {name: self.module.get_parameter(f"{name}.weight").shape for name in self.masks}
        return {name: from_gemm_matrix(mask, shapes[name]) for name, mask in self.masks.items()}

    @property
    def module(self) -> nn.Module:
        """The canonical module: pixel values [B, C, H, W] to logits [B, classes]."""
        return self.loaded.module


def save_model(state: ModelState, out: Path) -> None:
    """Write the payload files of a model artifact into `out`."""
    write_json(out / "model.json", state.loaded.description.model_dump(mode="json"))
    write_layers(state.layers, state.workload, out)
    quantizer_tensors = scales(state.module) if state.quantizers else {}
    save_file(_without_quantizers(state.module), out / "weights.safetensors")
    for name, content in state.loaded.files.items():
        (out / name).write_bytes(content)
    if state.masks:
        save_file({n: pack_mask(m) for n, m in state.masks.items()}, out / "masks.safetensors")
        write_json(out / MASK_SHAPES, {n: list(m.shape) for n, m in state.masks.items()})
    if state.quantizers:
        write_json(out / "quantizers.json", [asdict(spec) for spec in state.quantizers])
        save_file({n: t.contiguous() for n, t in quantizer_tensors.items()}, out / "scales.safetensors")
    if state.prune_loss:
        write_json(out / "prune_loss.json", state.prune_loss)


def open_model(artifact: Artifact) -> ModelState:
    """Rebuild the model of a dense, sparse or quantized artifact from hash-checked bytes, in eval mode."""
    files = artifact.manifest.files
    description = ModelDescription.model_validate(artifact.read_json("model.json"))
    extra = {"source.py": artifact.read("source.py")} if "source.py" in files else {}
    loaded = rebuild(description, load(artifact.read("weights.safetensors")), extra)
    state = ModelState(loaded, read_layers(artifact), read_workload(artifact))
    if "masks.safetensors" in files:
        shapes = artifact.read_json(MASK_SHAPES)
        packed = load(artifact.read("masks.safetensors"))
        state.masks = {n: unpack_mask(packed[n], tuple(shapes[n])) for n in shapes}
    if "prune_loss.json" in files:
        state.prune_loss = artifact.read_json("prune_loss.json")
    if "quantizers.json" in files:
        state.quantizers = tuple(QuantizerSpec(**spec) for spec in artifact.read_json("quantizers.json"))
        insert(loaded.module, state.quantizers)
        load_scales(loaded.module, load(artifact.read("scales.safetensors")))
    loaded.module.eval()
    return state


def layers_in(out: Path) -> tuple[Layer, ...]:
    """The layer states in a directory that is not sealed yet."""
    return tuple(Layer(**layer) for layer in json.loads((out / "layers.json").read_text(encoding="utf-8")))


def check_masked(weights: Mapping[str, Tensor], layers: tuple[Layer, ...], n: int = 2, m: int = 4) -> None:
    """Raise SparsityCheckError unless every layer listed as sparse is n:m in `weights` ("<layer>.weight" tensors)."""
    for layer in layers:
        if layer.sparse:
            broken = check_nm(gemm_matrix(weights[f"{layer.name}.weight"], layer.groups), n, m)
            if broken:
                raise SparsityCheckError(
                    f"{layer.name} is listed as {n}:{m} sparse",
                    got=f"{broken} groups with more than {n} non-zero weights",
                    do="nothing was sealed; report this with the command that led here",
                )


def _without_quantizers(module: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in plain_tensors(module).items() if "_quantizer." not in n and ".quantizer." not in n}


def device_of_run() -> torch.device:
    """The GPU of this process where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
