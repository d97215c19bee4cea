"""Names to targets: variants, power modes, and the device's facts from its TOML file."""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from gpusq.errors import UnknownTargetError, UsageError
from gpusq.targets.facts import Band, EngineFit, Family, Fit, Mode, TargetFile, Variant

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FAMILIES = ("a100", "h100", "agx-orin", "cpu")
DTYPES = ("fp32", "fp16", "bf16", "int8", "fp8", "int4")
SPARSITIES = ("dense", "2:4")
# Whose efficiencies stand in where a path was not fitted, nearest first.
NEAREST = {"bf16": ("fp16",), "fp16": ("bf16",), "int4": ("int8",), "fp8": ("int8",), "int8": ("fp8",)}
# A path that was only scaled by its peak is trusted this much less: H100 parameters on an A100 miss by that factor.
SCALED_WIDER = 2.0


class Target(BaseModel):
    """One device in one power mode. Bandwidth in GB/s (1e9), peaks in TOPS (1e12 operations a second).

    units: streaming multiprocessors or cores. fit: keys like "int8/2:4". power_w: board power in watts, None where
    clocks are the limit; energy_scale: energy of one operation against a 7 nm part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: Family
    title: str
    compute_capability: str | None
    power_mode: str | None
    memory_gib: float
    bandwidth_gbs: float
    cache_mib: float
    units: int
    power_w: float | None
    energy_scale: float
    tensorrt: tuple[str, ...]
    rtx_capability: tuple[str, ...]
    peaks_tops: dict[str, float]
    fit: dict[str, Fit]
    engine: EngineFit

    @property
    def is_gpu(self) -> bool:
        """Whether engines for this target run on an NVIDIA GPU."""
        return self.compute_capability is not None

    @property
    def fingerprint(self) -> str:
        """sha256 hex over all facts, for artifact keys and reports."""
        facts = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(facts.encode()).hexdigest()

    def peak(self, dtype: str, sparsity: str = "dense") -> float:
        """Peak TOPS of a path; the dense peak where the device has no 2:4 path. UsageError for an unknown one."""
        check_path(dtype, sparsity)
        for key in (f"{dtype}/{sparsity}", f"{dtype}/dense"):
            if key in self.peaks_tops:
                return self.peaks_tops[key]
        raise UsageError(
            f"target {self.name} has a peak for {', '.join(sorted(self.peaks_tops))}",
            got=f"{dtype}/{sparsity}",
            do="choose one of these precisions",
        )

    def fit_of(self, dtype: str, sparsity: str = "dense") -> Fit:
        """Efficiencies of a path; those of the nearest one, marked `scaled`, where it has none of its own.

        Nearest: the same width of operands (fp16 for bf16, int8 for fp8 and int4, and the reverse), then dense for
        2:4. The peak stays the asked path's: that is the scaling.
        """
        self.peak(dtype, sparsity)
        for near in (dtype, *NEAREST.get(dtype, ())):
            key = f"{near}/{sparsity}"
            if key in self.fit:
                return self.fit[key] if near == dtype else _scaled(self.fit[key], key)
        for near in (dtype, *NEAREST.get(dtype, ())):
            key = f"{near}/dense"
            if key in self.fit:
                return _scaled(self.fit[key], key) if self.is_gpu else self.fit[key]
        raise UsageError(
            f"target {self.name} has efficiencies for {', '.join(sorted(self.fit))}",
            got=f"{dtype}/{sparsity}",
            do="add a fit to the target file",
        )


def _scaled(fit: Fit, key: str) -> Fit:
    """The same efficiencies against another peak: a wider interval, and no fitted energy."""
    wider = {"error_p90": fit.error_p90 * SCALED_WIDER, "bands": tuple(_wider(band) for band in fit.bands)}
    told = {"scaled": True, "picojoules": None, "source": f"peak scaling from {key}: {fit.source}"}
    return fit.model_copy(update={**wider, **told})


def _wider(band: Band) -> Band:
    return band.model_copy(update={"ln_error": band.ln_error * SCALED_WIDER})


def check_path(dtype: str, sparsity: str) -> None:
    """Raise UsageError unless dtype and sparsity are words that this package knows."""
    for word, known, kind in ((dtype, DTYPES, "precision"), (sparsity, SPARSITIES, "sparsity")):
        if word not in known:
            near = difflib.get_close_matches(word, known, n=len(known), cutoff=0.0)
            raise UsageError(
                f"a {kind} is one of {', '.join(known)}", got=repr(word), do=f"use the nearest: {near[0]}, or another"
            )


def load_target(name: str) -> Target:
    """The target of this name: a family ("a100"), a variant ("a100-80gb"), either with "@MODE", or a TOML file.

    A family stands for its default variant, a variant for its default power mode; case does not matter in names.
    A path ends in ".toml" (again with "@MODE" where wanted). Raises UnknownTargetError, naming the nearest first.
    """
    base, at, mode = name.strip().partition("@")
    if base.endswith(".toml"):
        path = Path(base)
        file = read_target_file(path)
        return _target(file, file.default, mode if at else None, name)
    for family in FAMILIES:
        file = _shipped(family)
        if base.lower() == family:
            return _target(file, file.default, mode if at else None, name)
        if base.lower() in file.variants:
            return _target(file, base.lower(), mode if at else None, name)
    raise _unknown(name)


def target_names() -> list[str]:
    """Every shipped name that `load_target` takes: families, variants, variants with a power mode."""
    names: list[str] = []
    for family in FAMILIES:
        file = _shipped(family)
        variants = [v for v in file.variants if v != family]
        modes = [f"{v}@{m}" for v in variants for m in file.variants[v].modes]
        names += [family, *variants, *modes]
    return names


def read_target_file(path: Path) -> TargetFile:
    """Read and check a target file. Raises UnknownTargetError naming the file and the key that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnknownTargetError(
            f"target file {path} must be readable", got=error.strerror or str(error), do="check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise UnknownTargetError(f"target file {path} is UTF-8 text", got=str(error), do="save it as UTF-8") from error
    return parse_target_file(text, str(path))


def parse_target_file(text: str, where: str) -> TargetFile:
    """Check the text of a target file; `where` names it in errors. Raises UnknownTargetError."""
    try:
        return TargetFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UnknownTargetError(f"target file {where} is TOML", got=str(error), do="correct the line") from error
    except ValidationError as error:
        first: Any = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UnknownTargetError(
            f"target file {where}, key {key}: {first['msg']}",
            got=repr(first.get("input"))[:80],
            do="compare with the shipped target files in gpusq/targets",
        ) from error


@cache
def _shipped(family: str) -> TargetFile:
    text = resources.files("gpusq.targets").joinpath(f"{family}.toml").read_text(encoding="utf-8")
    return parse_target_file(text, f"{family}.toml")


def _target(file: TargetFile, variant_name: str, mode_name: str | None, asked: str) -> Target:
    variant = file.variants[variant_name]
    chosen, mode = _mode(variant, variant_name, mode_name, asked)
    scale = variant.peak_scale.value * (mode.peak_scale.value if mode else 1.0)
    standard = chosen == variant.default_mode
    return Target(
        name=variant_name if standard else f"{variant_name}@{chosen}",
        family=file.family,
        title=variant.title if standard else f"{variant.title}, {chosen}",
        compute_capability=file.compute_capability.value if file.compute_capability else None,
        power_mode=chosen,
        memory_gib=variant.memory_gib.value,
        bandwidth_gbs=variant.bandwidth_gbs.value * (mode.bandwidth_scale.value if mode else 1.0),
        cache_mib=variant.cache_mib.value,
        units=(mode.units if mode and mode.units else variant.units).value,
        power_w=variant.power_w.value if variant.power_w else None,
        energy_scale=file.energy_scale.value if file.energy_scale else 1.0,
        tensorrt=file.tensorrt.value,
        rtx_capability=file.rtx_capability.value,
        peaks_tops={key: fact.value * scale for key, fact in file.peaks_tops.items()},
        fit=dict(file.fits),
        engine=file.engine,
    )


def _mode(variant: Variant, variant_name: str, mode_name: str | None, asked: str) -> tuple[str | None, Mode | None]:
    if mode_name is None:
        return variant.default_mode, variant.modes.get(variant.default_mode or "")
    for known, mode in variant.modes.items():
        if known.lower() == mode_name.lower():
            return known, mode
    if not variant.modes:
        raise UnknownTargetError(
            f"target {variant_name} has no power modes", got=asked, do=f"use {variant_name} without '@'"
        )
    raise UnknownTargetError(
        f"target {variant_name} has the power modes {', '.join(variant.modes)}", got=asked, do="name one of them"
    )


def _unknown(name: str) -> UnknownTargetError:
    names = target_names()
    near = difflib.get_close_matches(name.lower(), names, n=len(names), cutoff=0.0)
    return UnknownTargetError(
        "no target of this name", got=repr(name), do=f"use one of: {', '.join(near)}; or the path of a .toml file"
    )
