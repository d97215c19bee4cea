"""What a server needs to know of an engine or bundle, read from the sealed artifact: every byte is checked first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpusq.errors import ArtifactError, StageOrderError, TamperedArtifactError, UsageError

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact

Runtime = Literal["tensorrt", "onnxruntime", "openvino"]
INPUT, SAMPLES, DESCRIPTION, ENGINE = "pixel_values", "samples.safetensors", "model.json", "engine.json"
PLAN, BUNDLE_GRAPH = "engine.plan", "model.fp32.onnx"
CPU_FILES: Mapping[str, tuple[str, ...]] = {"onnxruntime": ("model.onnx",), "openvino": ("engine.xml", "engine.bin")}
SHORT = 12


@dataclass(frozen=True)
class Tensor:
    """An input or output, float32; dims without the batch dimension."""

    name: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Contents:
    """files: name in the artifact to its verified bytes. max_batch: largest batch the engine takes.

    best_batch: the one it was tuned for. mean, std: of pixels in 0..1, one for each channel. place: what the engine is
    tied to, a line for people, "" where it is tied to nothing. digest: of the artifact.
    """

    runtime: Runtime
    files: Mapping[str, bytes]
    image: Tensor
    outputs: tuple[Tensor, ...]
    max_batch: int
    best_batch: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    place: str
    digest: str
    is_bundle: bool = False

    @property
    def default_name(self) -> str:
        """A model name that says which artifact it is."""
        return f"gpusq-{self.digest[:SHORT]}"


def contents_of(artifact: Artifact, max_batch: int | None = None, bundle: Artifact | None = None) -> Contents:
    """Read an engine or a bundle; `bundle` gives what a device engine does not carry itself.

    max_batch: overrides what the artifact says, needed where it says nothing. Raises StageOrderError for another kind,
    TamperedArtifactError before anything is parsed, UsageError where something is missing.
    """
    if artifact.kind not in ("engine", "bundle"):
        raise StageOrderError(
            "package takes an engine or a bundle", got=artifact.kind, do="run `gpusq build` on it first"
        )
    check_whole(artifact)
    sources = [artifact] if bundle is None else [artifact, _checked_bundle(artifact, bundle)]
    runtime, names, facts = _runtime(artifact)
    largest, best = _batches(facts, max_batch)
    description = json.loads(_read(sources, DESCRIPTION))
    image, outputs = _tensors(_read(sources, SAMPLES))
    return Contents(
        runtime=runtime,
        files={name: artifact.read(name) for name in names},
        image=image,
        outputs=outputs,
        max_batch=largest,
        best_batch=min(best, largest),
        classes=tuple(map(str, description["classes"])),
        mean=tuple(map(float, description["mean"])),
        std=tuple(map(float, description["std"])),
        resize=str(description.get("resize", "bilinear")),
        place=_place(facts),
        digest=artifact.digest,
        is_bundle=artifact.kind == "bundle",
    )


def check_whole(artifact: Artifact) -> None:
    """Every byte against the seal; raises TamperedArtifactError naming what is wrong."""
    problems = artifact.verify()
    if problems:
        raise TamperedArtifactError(
            f"{artifact.path.name} is not what was sealed", got="; ".join(problems[:3]), do="copy it again"
        )


def _checked_bundle(engine: Artifact, bundle: Artifact) -> Artifact:
    if bundle.kind != "bundle":
        raise StageOrderError("--bundle takes a bundle", got=bundle.kind, do="name the one that the engine was made of")
    parents = {parent.digest for parent in engine.manifest.parents}
    if parents and bundle.digest not in parents:
        raise UsageError(
            "--bundle must be the one that the engine was made of",
            got=bundle.digest[:SHORT],
            do=f"it was made of {', '.join(d[:SHORT] for d in sorted(parents))}",
        )
    check_whole(bundle)
    return bundle


def _runtime(artifact: Artifact) -> tuple[Runtime, tuple[str, ...], dict[str, Any]]:
    """(runtime, files to ship, facts). A bundle ships its float32 graph, which needs no build."""
    if artifact.kind == "bundle":
        return "onnxruntime", (BUNDLE_GRAPH,), artifact.read_json("bundle.json")
    facts = artifact.read_json(ENGINE)
    if PLAN in artifact.manifest.files:
        _check_servable(artifact, facts)
        return "tensorrt", (PLAN,), facts
    runtime = facts.get("runtime")
    if runtime not in CPU_FILES:
        raise ArtifactError(f"{artifact.path.name}/{ENGINE} names a runtime", got=repr(runtime), do="build it again")
    return runtime, CPU_FILES[runtime], facts


def _check_servable(artifact: Artifact, facts: Mapping[str, Any]) -> None:
    """Servers load plans of TensorRT itself, built for the target: no TensorRT-RTX, no stand-in."""
    place = facts.get("place")
    builder = place.get("builder") if isinstance(place, Mapping) else None
    if builder != "tensorrt" or facts.get("stand_in"):
        raise UsageError(
            "servers run engines that TensorRT built for their target",
            got=str(facts.get("stand_in") or f"{artifact.path.name} was built with {builder}"),
            do="finish the bundle on its device with --builder tensorrt",
        )


def _read(sources: list[Artifact], name: str) -> bytes:
    for artifact in sources:
        if name in artifact.manifest.files:
            return artifact.read(name)
    raise UsageError(
        f"{sources[0].path.name} carries no {name}", do="add --bundle with the bundle that the engine was made of"
    )


def _tensors(samples: bytes) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The image tensor and the outputs, in the order of their names, logits first."""
    from safetensors.numpy import load

    arrays = load(samples)
    if INPUT not in arrays or len(arrays) < 2:
        raise ArtifactError(f"{SAMPLES} holds {INPUT} and outputs", got=", ".join(sorted(arrays)), do="build it again")
    tensors = {name: Tensor(name, tuple(int(n) for n in array.shape[1:])) for name, array in arrays.items()}
    image = tensors.pop(INPUT)
    return image, tuple(tensors[name] for name in sorted(tensors, key=lambda name: (name != "logits", name)))


def _batches(facts: Mapping[str, Any], asked: int | None) -> tuple[int, int]:
    """(largest, best) batch: from the optimization profile; engines without one take any batch."""
    profile = facts.get("profile") or {}
    if not isinstance(profile, Mapping) or "maximum" not in profile:
        largest = 32 if asked is None else asked
        if "place" in facts and asked is None:
            raise UsageError("the engine does not say its largest batch", do="add --max-batch, as it was built")
        return _positive(largest), min(8, largest)
    largest = int(profile["maximum"])
    if asked is not None and asked > largest:
        raise UsageError(f"the engine takes batches up to {largest}", got=f"--max-batch {asked}", do="lower it")
    return _positive(asked or largest), int(profile.get("optimum", 1))


def _positive(batch: int) -> int:
    if batch < 1:
        raise UsageError("--max-batch is at least 1", got=str(batch), do="raise it")
    return batch


def _place(facts: Mapping[str, Any]) -> str:
    place = facts.get("place")
    if not isinstance(place, Mapping):
        return ""
    capabilities = ", ".join(map(str, place.get("capabilities", ())))
    return f"{place.get('builder')} {place.get('library')}, compute capability {capabilities}, {place.get('platform')}"
