"""Sensitivity: what each block of a dense model loses by 2:4 and INT8, and which layers to leave out of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gpusq.errors import CheckError, UsageError
from gpusq.stages.intake import MODEL_LIBRARIES
from gpusq.stages.stage import Context, Stage, parameter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from gpusq.artifacts import Artifact
    from gpusq.stages.model_files import ModelState
    from gpusq.stages.sensitivity_scan import Scan, Switchboard

RESULT = "sensitivity.json"
BATCH = 32


@dataclass(frozen=True)
class Sensitivity(Stage):
    """One-shot losses of every block on training images that calibrated nothing; the choice for `--keep auto`."""

    name: ClassVar[str] = "sensitivity"
    takes: ClassVar[tuple[str, ...]] = ("dense",)
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES

    max_drop: float = parameter(0.5, "points of the metric that all blocks together may lose before training")
    images: int = parameter(256, "training images that judge; they are not among those that calibrate")
    score: Literal["magnitude", "wanda", "sparsegpt"] = parameter("sparsegpt", "what a weight is worth")
    calibrator: Literal["max", "percentile", "mse"] = parameter("max", "how activation ranges are set")
    calibration_images: int = parameter(64, "training images for input statistics and ranges")
    seed: int = parameter(0, "seed of the draw")

    def __post_init__(self) -> None:
        if self.images < 1 or self.calibration_images < 1:
            given = f"{self.images} and {self.calibration_images}"
            raise UsageError(
                "sensitivity: images and calibration_images must be at least 1", got=given, do="raise them"
            )
        if not 0 <= self.max_drop < float("inf"):
            raise UsageError(
                "sensitivity: max_drop must be finite and at least 0",
                got=str(self.max_drop),
                do="give points, e.g. 0.5",
            )

    def gives(self, parent: Artifact | None) -> str:
        return "sensitivity"

    def inputs(self, parent: Artifact | None, context: Context) -> dict[str, str]:
        return {"train": context.images(self.name).train.fingerprint()}

    def requires(self, parent: Artifact | None, context: Context) -> None:
        """Two images, with labels of the model's own classes where they have labels."""
        from gpusq.stages.images import check_labels

        train = context.images(self.name).train
        if len(train) < 2:
            raise UsageError("sensitivity needs at least two training images", got=str(len(train)), do="add images")
        if parent is not None:
            check_labels(train, parent.read_json("model.json"))

    def run(self, parent: Artifact | None, out: Path, context: Context) -> dict[str, Any]:
        from gpusq.stages.judging import Judge
        from gpusq.stages.layer_files import carry, write_json
        from gpusq.stages.model_files import device_of_run, open_model
        from gpusq.stages.sensitivity_scan import scan

        if parent is None:
            raise UsageError("sensitivity needs a dense model artifact", do="run `gpusq intake` first")
        state = open_model(parent)
        state.module.to(device_of_run()).eval()
        calibrating, judging = self._indices(context)
        board = self._switchboard(state, calibrating, context)
        judge = Judge.on_images(state.loaded.description, context.images(self.name).train, judging, board.module)
        limit = max(self.max_drop, judge.resolution)
        found = scan(board, judge.loss, limit, lambda d, t, n: context.progress(self.name, d, t, n))
        carry(parent, out)
        write_json(out / RESULT, self._result(found, judge, board))
        return {
            "metric": judge.metric,
            "whole_points_lost": round(found.whole.points, 4),
            "keep_dense": len(found.keep_dense),
            "keep_float": len(found.keep_float),
            "reached": found.reached,
        }

    def ensures(self, parent: Artifact | None, out: Path, context: Context) -> None:
        """The layers to keep are layers of the model, and every block has all its losses."""
        import json

        from gpusq.stages.model_files import layers_in
        from gpusq.stages.sensitivity_scan import FORMS

        result = json.loads((out / RESULT).read_text(encoding="utf-8"))
        names = {layer.name for layer in layers_in(out)}
        strangers = {*result["keep_dense"], *result["keep_float"]} - names
        if strangers:
            raise CheckError("sensitivity: kept layers are layers of the model", got=min(strangers))
        holes = [block for block, losses in result["blocks"].items() if set(losses) != set(FORMS)]
        if holes:
            raise CheckError("sensitivity: every block is measured in every form", got=f"{holes[0]} is not")

    def _indices(self, context: Context) -> tuple[list[int], list[int]]:
        """(calibrating, judging) training images, drawn by seed, without a common one."""
        from gpusq.stages.images import draw

        total = len(context.images(self.name).train)
        share = min(self.calibration_images + self.images, total)
        calibrating = max(1, min(self.calibration_images, share - 1))
        drawn = draw(total, share, self.seed)
        first = set(draw(share, calibrating, self.seed + 1))
        return [x for i, x in enumerate(drawn) if i in first], [x for i, x in enumerate(drawn) if i not in first]

    def _switchboard(self, state: ModelState, indices: list[int], context: Context) -> Switchboard:
        from gpusq.stages.model_files import device_of_run
        from gpusq.stages.pruning import choose_layers, input_statistics
        from gpusq.stages.sensitivity_scan import switchboard

        chosen = [x for x in choose_layers(state.layers, state.module, (), ()) if x.sparse]
        found: Any = {}
        if self.score != "magnitude":
            batches = self._batches(state, indices, context)
            found = input_statistics(state.module, chosen, batches, self.score == "sparsegpt", device_of_run())
        batches = self._batches(state, indices, context)
        return switchboard(state, chosen, found, self.score, batches, self.calibrator)

    def _batches(self, state: ModelState, indices: list[int], context: Context) -> Iterator[Tensor]:
        import torch

        from gpusq.stages.images import batches_of
        from gpusq.stages.model_files import device_of_run

        train = context.images(self.name).train
        for _, batch in batches_of(train, state.loaded.description, indices, BATCH):
            yield torch.from_numpy(batch.pixel_values).to(device_of_run())

    def _result(self, found: Scan, judge: Any, board: Switchboard) -> dict[str, Any]:
        return {
            "metric": judge.metric,
            "dense": judge.dense_value,
            "images": judge.n,
            "split": judge.split,
            "max_drop": self.max_drop,
            "resolution": judge.resolution,
            "blocks": {b: {f: asdict(x) for f, x in forms.items()} for b, forms in found.losses.items()},
            "layers": {b: list(names) for b, names in board.groups.items()},
            "whole": asdict(found.whole),
            "trail": [asdict(choice) for choice in found.trail],
            "prunable": sorted(board.sparse_weights),
            "keep_dense": list(found.keep_dense),
            "keep_float": list(found.keep_float),
            "reached": found.reached,
        }


def sensitivity_notes(result: dict[str, Any]) -> list[str]:
    """sensitivity.json in lines for a report: what all blocks lose, the steps taken, and where they led."""
    where = f"{result['images']} images of {result['split']}, one-shot, before any training"
    metric = result["metric"]
    lines = [f"sensitivity ({metric}, {where}): all blocks sparse and INT8 lose {_points(result['whole'])}"]
    if result["resolution"] > result["max_drop"]:
        finer = math.ceil(100 / result["max_drop"]) if result["max_drop"] else 0
        more = f"; {finer} would" if finer else ""
        lines.append(
            f"sensitivity: what judged cannot resolve {result['max_drop']:g} points, only {result['resolution']:.2f}, "
            f"which was taken as the limit{more}"
        )
    for step in result["trail"]:
        what = {"sparse": "dense", "int8": "in FP16"}[step["kept"]]
        lines.append(f"sensitivity: with {step['block']} {what} too, the rest loses {_points(step['loss'])}")
    if not result["reached"]:
        more = "all blocks that cost something alone were left out of what cost it, and no others"
        lines.append(f"sensitivity: the limit was not reached before training; {more}")
    if set(result["keep_dense"]) >= set(result["prunable"]):
        lines.append("sensitivity: every block was left out of 2:4; nothing is sparse")
    return lines


def _points(loss: dict[str, float]) -> str:
    return f"{loss['points']:.2f} points, outputs off by {loss['error']:.1%}"
