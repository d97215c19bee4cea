"""Refit a target to measurements and write it as a target file that says where its numbers come from."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpusq.errors import UsageError
from gpusq.latency.engine_fit import fit_engine
from gpusq.latency.engine_fit import ln_errors as engine_ln_errors
from gpusq.latency.few_rows import half_width, widths
from gpusq.latency.fit import fit_gemms, predicted_us
from gpusq.latency.gemm import speed_of
from gpusq.latency.held_out import FEWEST, PathResult, held_out_split, split_rows
from gpusq.latency.points import GemmPoint, Points, is_named, measured_of
from gpusq.latency.target_toml import target_toml
from gpusq.targets import Fit, Target, load_target, read_target_file
from gpusq.targets.facts import TargetFile
from gpusq.targets.target import parse_target_file

Floats = NDArray[np.float64]
ENGINE = "engine"
OWN_PRIOR, TEXTBOOK_PRIOR = "the target's own", "textbook values"


@dataclass(frozen=True)
class Calibration:
    """A fitted target. how: how rows were held out. notes: what a reader must know before using it.

    file: what is written; comments: above it.
    """

    name: str
    title: str
    source: str
    how: str
    paths: tuple[PathResult, ...]
    file: TargetFile
    comments: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the file."""
        return {
            "name": self.name,
            "source": self.source,
            "held_out_by": self.how,
            "notes": list(self.notes),
            "paths": [vars(path) for path in self.paths],
            "fits": {key: fit.model_dump(mode="json") for key, fit in self.file.fits.items()},
            "engine": self.file.engine.model_dump(mode="json"),
        }


def calibrated(target_name: str, points: Points, *, holdout: float = 0.0, name: str = "") -> Calibration:
    """Fit every path that was measured; what was not keeps the facts of the target.

    Each path is fitted from the target's own parameters and from textbook ones; the better one on rows not seen counts,
    and only if it is better there than the target unfitted (`held_out_split`): with one or two rows nothing changes.
    target_name: the nearest known device. holdout: share (0 to 0.9) of each path's shapes
    that the fit does not see and whose error is stated; 0: all are fitted, and the error is that of leaving each one
    (or each of MOST_FOLDS parts) out in turn. Fewer than 9 rows not seen never narrow a path's interval (`few_rows`).
    Raises UsageError for no points, a path that the target has not, or a holdout that leaves a path's rows all in.
    """
    target = load_target(target_name)
    if not points.gemms and not points.encoders:
        raise UsageError("calibration needs measured rows", got="none", do="measure or list at least ten shapes")
    _check_holdout(points, holdout)
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    origin = f"calibrated {date} on {len(points.gemms)} GEMMs and {len(points.encoders)} encoders of {points.source}"
    origin += f" (sha256 {points.sha256[:12]})" if points.sha256 else ""
    notes = _other_device(target, points) + _left_out(points)
    origin += "".join(f"; {note}" for note in notes)
    fits, results = dict(target.fit), []
    for key, rows in points.by_path().items():
        _check_path(target, key)
        fits[key], result = _path_fit(target, key, rows, holdout, origin)
        results.append(result)
    fitted = target.model_copy(update={"fit": fits})
    engine = target.engine
    if points.encoders:
        engine, result = _engine_fit(fitted, points, holdout, origin)
        results.append(result)
    how = _how(holdout, results)
    file = _file(target_name, target, fits, engine, name or f"{target.name.partition('@')[0]}-calibrated")
    libraries = {"gpusq": importlib.metadata.version("gpusq")} | points.conditions
    comments = (
        f"{origin}; from the facts of {target.name}.",
        f"source sha256 {points.sha256 or 'none: measured by this command'}; held out: {how}",
        *(f"note: {note}" for note in notes),
        *(_result_line(result) for result in results),
        "conditions: " + ", ".join(f"{key} {value}" for key, value in libraries.items()),
    )
    return Calibration(file.default, target.title, points.source, how, tuple(results), file, comments, notes)


def write_target(result: Calibration, path: Path) -> None:
    """Write the target file, readable by `load_target(str(path))`. Raises UsageError for a name without .toml."""
    if path.suffix != ".toml":
        raise UsageError("a target file ends in .toml", got=str(path), do="name it so, since --target tells it by that")
    path.write_text(target_toml(result.file, result.comments), encoding="utf-8")


def _check_path(target: Target, key: str) -> None:
    if key not in target.peaks_tops:
        raise UsageError(
            f"target {target.name} has the paths {', '.join(target.peaks_tops)}",
            got=f"rows of {key}",
            do="leave these rows out, or name the device that they were measured on",
        )


def _other_device(target: Target, points: Points) -> tuple[str, ...]:
    """A note where the rows name another device than the target: right for a device that has no target yet."""
    if not points.gpu or is_named(target, points.gpu):
        return ()
    return (f"the rows are of {points.gpu}; peaks, bandwidth and unmeasured paths stay those of {target.title}",)


def _left_out(points: Points) -> tuple[str, ...]:
    """A note where rows of the file are of another GPU and so took no part."""
    if not points.left_out:
        return ()
    said = ", ".join(f"{count} of {gpu or 'no named GPU'}" for gpu, count in points.left_out.items())
    return (f"{sum(points.left_out.values())} rows of other GPUs were left out: {said}",)


def _check_holdout(points: Points, holdout: float) -> None:
    paths: dict[str, Sequence[Any]] = {**points.by_path(), **({ENGINE: points.encoders} if points.encoders else {})}
    short = {key: len(rows) for key, rows in paths.items() if holdout and not split_rows(rows, holdout)[1]}
    if short:
        raise UsageError(
            f"a holdout of {holdout:.0%} keeps at least one row of every path out of the fit",
            got=", ".join(f"{key}: {count} {'row' if count == 1 else 'rows'}" for key, count in short.items()),
            do="measure more shapes of it, or leave --holdout out: each row is then left out in turn",
        )


def _how(holdout: float, results: Sequence[PathResult]) -> str:
    if not any(result.tried for result in results):
        return f"nothing was fitted, since a fit needs {FEWEST} held-out rows"
    how = f"{holdout:.0%} of the shapes, not in the fit" if holdout else "leaving rows out in turn"
    return f"{how}; the fits were chosen by these rows, so their error is a little too small"


def _shown(share: float | None) -> str:
    return "not known" if share is None else f"{100 * share:.1f} %"


def _result_line(result: PathResult) -> str:
    errors = f"error {_shown(result.before)} before, {_shown(result.held_out)} held out"
    return f"{result.key}: {result.rows} rows, {errors}; {_choice(result.prior, result.tried)}"


def _choice(prior: str, tried: dict[str, float]) -> str:
    """Which parameters were taken and why, in words."""
    if not tried:
        return f"fewer than {FEWEST} rows to judge a fit by, so the parameters stay"
    errors = ", ".join(f"{_shown(error)} from {name}" for name, error in tried.items())
    if not prior:
        return f"the parameters stay, since no fit did better on held-out rows ({errors})"
    return f"fitted from {prior}; held-out errors of the fits: {errors}"


def _path_fit(
    target: Target, key: str, rows: Sequence[GemmPoint], holdout: float, origin: str
) -> tuple[Fit, PathResult]:
    dtype, sparsity = key.split("/")
    speed, start = speed_of(target, dtype, sparsity), target.fit_of(dtype, sparsity)

    def fit(kept: Sequence[GemmPoint]) -> Fit:
        return fit_gemms(measured_of(kept), speed, start)

    def anew(kept: Sequence[GemmPoint]) -> Fit:
        return fit_gemms(measured_of(kept), speed)

    def errors(model: Fit, left: Sequence[GemmPoint]) -> Floats:
        measured = measured_of(left)
        return np.log(predicted_us(measured.gemms, speed, model) / measured.us)

    split = held_out_split(rows, holdout, {OWN_PRIOR: fit, TEXTBOOK_PRIOR: anew}, errors, start)
    error, bands = widths(split, errors(split.chosen, split.inside), start)
    said = (
        f"{len(split.inside)} rows of {key}; held-out error {_shown(split.told)}; {_choice(split.prior, split.tried)}"
    )
    scaled = start.scaled and split.kept_prior
    source = f"{origin}; {said}; from the facts of {target.name}"
    update = {"error_p90": error, "bands": bands, "source": source, "scaled": scaled}
    return split.chosen.model_copy(update=update), split.result(key, errors, start, rows, error)


def _engine_fit(target: Target, points: Points, holdout: float, origin: str) -> tuple[Any, PathResult]:
    rows = sorted(points.encoders, key=lambda p: p.us)

    def fit(kept: Sequence[Any]) -> Target:
        return target.model_copy(update={"engine": fit_engine(kept, target)})

    def errors(model: Target, left: Sequence[Any]) -> Floats:
        return engine_ln_errors(left, model)

    split = held_out_split(rows, holdout, {OWN_PRIOR: fit}, errors, target)
    error = half_width(split.unseen, errors(split.chosen, split.inside), target.engine.error_p90)
    said = f"held-out error {_shown(split.told)}; {_choice(split.prior, split.tried)}"
    source = f"{origin}; {len(split.inside)} whole encoders; {said}"
    engine = split.chosen.engine.model_copy(update={"error_p90": error, "source": source})
    return engine, split.result(ENGINE, errors, target, rows, error)


def _file(target_name: str, target: Target, fits: dict[str, Fit], engine: Any, name: str) -> TargetFile:
    """The base file with one variant under a new name, in the power mode that was measured."""
    file = _base_file(target_name, target)
    variant = file.variants[target.name.partition("@")[0]].model_copy(update={"default_mode": target.power_mode})
    update = {"default": name, "variants": {name: variant}, "fits": fits, "engine": engine}
    return TargetFile.model_validate(file.model_copy(update=update).model_dump(mode="json"))


def _base_file(target_name: str, target: Target) -> TargetFile:
    base = target_name.strip().partition("@")[0]
    if base.endswith(".toml"):
        return read_target_file(Path(base))
    text = resources.files("gpusq.targets").joinpath(f"{target.family}.toml").read_text(encoding="utf-8")
    return parse_target_file(text, f"{target.family}.toml")
