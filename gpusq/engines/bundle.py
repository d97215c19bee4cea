"""A bundle: everything a device needs to finish an engine, checked byte by byte before any parser sees it. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpusq.engines.rtx_layers import RtxCheck
from gpusq.errors import NewerSchemaError, TamperedArtifactError, UsageError

SCHEMA_VERSION = 1
MANIFEST, FINISH = "bundle.json", "FINISH.md"
FP16, FP32, SAMPLES = "model.fp16.onnx", "model.fp32.onnx", "samples.safetensors"
LARGEST_MANIFEST_BYTES = 1 << 20
NOT_SEALED = (MANIFEST, "artifact.json")  # the seals themselves

FINISH_TEXT = """# Finish this engine on the device

This directory was checked on the host that wrote it; the engine itself must be built on the device: {title}.

    pip install gpusq            # no torch needed
    gpusq build BUNDLE_DIR --out ENGINE_DIR

TensorRT must be importable: on a data-centre GPU `pip install 'gpusq[tensorrt]'`; on Jetson it comes with JetPack
(`sudo apt install nvidia-jetpack`, virtual environments with `--system-site-packages`).
Every file is compared with its SHA-256 in bundle.json first; a changed bundle is refused.
The result is ENGINE_DIR/engine.plan with engine.json; the bundle stays as it is.
The engine runs on this device with this TensorRT version only.
"""


@dataclass(frozen=True)
class BatchProfile:
    """Batch sizes of the optimization profile, 1 <= minimum <= optimum <= maximum."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(
                "batch sizes must be 1 <= minimum <= optimum <= maximum",
                got=f"{self.minimum}, {self.optimum}, {self.maximum}",
            )

    def shapes(self, image: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(min, opt, max) shapes for images of shape (C, H, W)."""
        low, best, high = ((size, *image) for size in (self.minimum, self.optimum, self.maximum))
        return low, best, high


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `files` holds the verified bytes, so nothing is read from disk a second time.

    target: facts of the device as the target file states them. tolerance: largest relative error of the logits against
    the samples. input_name, input_shape: (C, H, W).
    """

    path: Path
    target: Mapping[str, Any]
    profile: BatchProfile
    tolerance: float
    input_name: str
    input_shape: tuple[int, ...]
    files: Mapping[str, bytes]

    def samples(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Inputs [n, C, H, W] and expected logits [n, classes]."""
        from safetensors.numpy import load

        tensors = load(self.files[SAMPLES])
        return tensors["pixel_values"], tensors["logits"]


def write_bundle(
    directory: Path,
    *,
    target: Mapping[str, Any],
    fp16_onnx: bytes,
    fp32_onnx: bytes,
    pixel_values: NDArray[np.float32],
    logits: NDArray[np.float32],
    profile: BatchProfile,
    rtx_checks: Sequence[RtxCheck],
    tolerance: float,
    input_name: str = "pixel_values",
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write a bundle into `directory` (created, or empty); the same arguments give the same bytes.

    target: facts of the device, JSON-able, with "name" and "title". pixel_values [n, C, H, W] and logits [n, classes]
    of the torch model, n >= 1. rtx_checks: dumped without their times. tolerance: relative, of the largest logit.
    extra: further files, such as model.json. Raises UsageError for samples that do not belong together.
    """
    from safetensors.numpy import save

    if pixel_values.ndim != 4 or logits.ndim != 2 or len(pixel_values) != len(logits) or not len(logits):
        raise UsageError(
            "samples must be images [n, C, H, W] and logits [n, classes] with n >= 1",
            got=f"{pixel_values.shape} and {logits.shape}",
        )
    files = dict(extra or {})
    files |= {FP16: fp16_onnx, FP32: fp32_onnx}
    files[SAMPLES] = save({"pixel_values": np.ascontiguousarray(pixel_values), "logits": np.ascontiguousarray(logits)})
    files |= {rtx_file(check.capability): _json(check.without_times().to_json()) for check in rtx_checks}
    files[FINISH] = FINISH_TEXT.format(title=target.get("title", target.get("name", "the target"))).encode()
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "target": dict(target),
        "profile": {"minimum": profile.minimum, "optimum": profile.optimum, "maximum": profile.maximum},
        "tolerance": float(tolerance),
        "input_name": input_name,
        "input_shape": list(pixel_values.shape[1:]),
        "files": {name: {"sha256": _sha256(data), "size": len(data)} for name, data in sorted(files.items())},
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    (directory / MANIFEST).write_bytes(_json(manifest | {"digest": _sha256(_json(manifest))}))


def rtx_file(capability: str) -> str:
    """ "8.0" -> "rtx-sm80.json"."""
    return f"rtx-sm{capability.replace('.', '')}.json"


def read_bundle(directory: Path) -> Bundle:
    """Verify every file against bundle.json and return the verified bytes. Nothing is parsed before its hash agrees.

    Raises TamperedArtifactError naming the first file that is changed, truncated, missing, a link or not listed,
    NewerSchemaError for a bundle of a newer gpusq.
    """
    manifest = _read_manifest(directory)
    listed = manifest["files"]
    unlisted = sorted(p.name for p in directory.iterdir() if p.name not in listed and p.name not in NOT_SEALED)
    if unlisted:
        raise _tampered(directory, f"{unlisted[0]} is not listed in {MANIFEST}")
    files = {name: _verified(directory, name, entry) for name, entry in listed.items()}
    missing = sorted({FP16, FP32, SAMPLES} - set(files))
    if missing:
        raise _tampered(directory, f"{missing[0]} is not listed in {MANIFEST}")
    return Bundle(
        directory,
        manifest["target"],
        BatchProfile(**manifest["profile"]),
        float(manifest["tolerance"]),
        manifest["input_name"],
        tuple(manifest["input_shape"]),
        files,
    )


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_MANIFEST_BYTES:
        raise _tampered(directory, f"there is no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        version = int(manifest["schema_version"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _tampered(directory, f"{MANIFEST} does not parse") from error
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{path}: schema {SCHEMA_VERSION} or older was expected", got=str(version), do="upgrade gpusq"
        )
    digest = manifest.pop("digest", None)
    if digest != _sha256(_json(manifest)):
        raise _tampered(directory, f"{MANIFEST} has other contents than were sealed")
    _check_fields(directory, manifest)
    return manifest


def _check_fields(directory: Path, manifest: dict[str, Any]) -> None:
    kinds: dict[str, type] = {
        "target": dict,
        "profile": dict,
        "tolerance": float,
        "input_name": str,
        "input_shape": list,
    }
    wrong = [key for key, kind in kinds.items() if not isinstance(manifest.get(key), kind)]
    files = manifest.get("files")
    if wrong or not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise _tampered(directory, f"{MANIFEST} is incomplete ({', '.join(wrong) or 'files'})")
    if sorted(manifest["profile"]) != ["maximum", "minimum", "optimum"]:
        raise _tampered(directory, f"{MANIFEST} is incomplete (profile)")


def _is_entry(name: str, entry: Any) -> bool:
    plain = Path(name).name == name and name not in ("", ".", "..") and "\0" not in name
    return (
        plain
        and isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("size"), int)
    )


def _verified(directory: Path, name: str, entry: dict[str, Any]) -> bytes:
    path = directory / name
    if path.is_symlink() or not path.is_file():
        raise _tampered(directory, f"{name} is missing or not a regular file")
    if path.stat().st_size != entry["size"]:
        raise _tampered(directory, f"{name} has {path.stat().st_size} bytes, sealed were {entry['size']}")
    data = path.read_bytes()
    if _sha256(data) != entry["sha256"]:
        raise _tampered(directory, f"{name} has other contents than were sealed")
    return data


def _tampered(directory: Path, found: str) -> TamperedArtifactError:
    return TamperedArtifactError(
        f"every byte of the bundle {directory} must be what was sealed", got=found, do="copy the bundle again"
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()
