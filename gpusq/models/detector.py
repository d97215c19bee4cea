"""Detectors in one form: pixel values in; logits and boxes out, in training mode with auxiliary outputs beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpusq.errors import UnsupportedModelError
from gpusq.models.description import Activation

Pair = tuple[Tensor, Tensor]
Auxiliary = tuple[Any, ...]
"""(logits, boxes), or (logits, boxes, copies): the number of queries that each target is matched with."""
FIELDS = (("logits", "pred_logits"), ("boxes", "pred_boxes"))
"""Names that models give their logits and boxes in a mapping or an object."""
AUXILIARY = ("aux_outputs", "auxiliary_outputs")
SOFTMAX_FAMILIES = ("detr", "yolos", "table-transformer")
"""Model types of transformers whose last column of logits is "no object"; the other detectors take sigmoid scores."""
EPSILON = 1e-5


class Detector(nn.Module):
    """A detector of any make as forward(pixel_values [B, 3, H, W]) -> (logits [B, Q, K'], boxes [B, Q, 4]).

    family: transformers model type, "" for other models. All pixels count: images are resized, never padded, so the
    pixel mask is all ones (of batch 1, which broadcasts) and nothing of it depends on the image.
    """

    def __init__(self, model: nn.Module, family: str = "") -> None:
        super().__init__()
        self.model, self.family = model, family

    def forward(self, pixel_values: Tensor) -> tuple[Any, ...]:
        """In training mode (logits, boxes, auxiliary outputs), each (logits, boxes) or (logits, boxes, copies)."""
        if not self.family:
            output = self.model(pixel_values)
            return (*pair_of(output), _auxiliary_of(output)) if self.training else pair_of(output)
        if not self.training:
            return pair_of(self._run(pixel_values))
        heads = AUXILIARY_HEADS.get(self.family)
        return heads(self, pixel_values) if heads else (*pair_of(self._run(pixel_values)), ())

    def speakers(self) -> list[nn.Module]:
        """The modules by whose own training flag the auxiliary outputs come; the flags of their parts do not matter."""
        model: Any = self.model
        if not self.family:
            return [self, model]
        return [self, model.model.decoder] if self.family in DECODER_DECIDES else [self]

    def _run(self, pixel_values: Tensor) -> Any:
        """The model's own output, asked for without masks."""
        if self.family in MASKLESS:
            return self.model(pixel_values)
        batch = len(pixel_values) if self.family in BATCHED_MASK else 1
        mask = torch.ones((batch, *pixel_values.shape[-2:]), device=pixel_values.device)
        return self.model(pixel_values, pixel_mask=mask)


class TensorOutputs(nn.Module):
    """A model as forward(pixel_values [B, C, H, W]) -> the named tensors of its output, in order."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """The tensors as a tuple, also where it is one."""
        return tensors_of(self.model(pixel_values), self.names)


def pair_of(output: Any) -> Pair:
    """(logits, boxes) in what a detector gave: a tuple, a mapping or an object. Raises UnsupportedModelError."""
    found = tuple(output[:2]) if isinstance(output, (tuple, list)) else tuple(_field(output, n) for n in FIELDS)
    if len(found) != 2 or not all(isinstance(x, Tensor) for x in found):
        raise UnsupportedModelError(
            "a detector gives (logits, boxes), a mapping with 'logits' and 'boxes' or an object with .pred_boxes",
            got=described(output),
            do="wrap the model in a module whose forward returns (logits, boxes)",
        )
    return found


def described(output: Any) -> str:
    """What a model gave, in words: "a tuple of [1, 12, 4], [1, 12, 3]", "a dict of 'scores' [1, 12]", "NoneType"."""
    if isinstance(output, Tensor):
        return f"shape {list(output.shape)}"
    if isinstance(output, Mapping):
        parts = [f"{name!r} {_shape_or_kind(x)}" for name, x in output.items()]
    elif isinstance(output, (tuple, list)):
        parts = [_shape_or_kind(x) for x in output]
    else:
        return type(output).__name__
    return f"a {type(output).__name__} of {', '.join(parts) or 'nothing'}"


def _shape_or_kind(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def is_pair(output: Any) -> bool:
    """Whether a model's output is that of a detector: logits [B, Q, K'] and boxes [B, Q, 4]."""
    try:
        logits, boxes = pair_of(output)
    except UnsupportedModelError:
        return False
    return boxes.dim() == 3 and boxes.shape[-1] == 4 and logits.shape[:-1] == boxes.shape[:-1]


def tensors_of(output: Any, names: Sequence[str]) -> tuple[Tensor, ...]:
    """The named fields of a model's output; of a bare Tensor or tuple all of it. Raises UnsupportedModelError."""
    if isinstance(output, Tensor):
        return (output,)
    if isinstance(output, (tuple, list)):
        found: Sequence[Any] = output
    else:
        found = [_field(output, (name,)) for name in names]
    if not found or not all(isinstance(x, Tensor) for x in found):
        kinds = ", ".join(type(x).__name__ for x in found) or "nothing"
        raise UnsupportedModelError(
            f"the model gives tensors {', '.join(names)}",
            got=kinds,
            do="return a tuple of tensors, or name the outputs",
        )
    return tuple(found)


def activation_of(family: str) -> Activation:
    """The activation of the logits of a transformers detector."""
    return "softmax" if family in SOFTMAX_FAMILIES else "sigmoid"


def _field(output: Any, names: Sequence[str]) -> Any:
    for name in names:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if found is not None:
            return found
    return None


def _auxiliary_of(output: Any) -> tuple[Auxiliary, ...]:
    """Auxiliary outputs of a model that is not of transformers: a third value of a tuple, or a field of AUXILIARY.

    They are a sequence of (logits, boxes) or (logits, boxes, copies), or of mappings with these. A third value of any
    other make, such as masks or features, is the model's own affair and left out, as it is in eval mode.
    """
    found = output[2] if isinstance(output, (tuple, list)) and len(output) > 2 else None
    if not isinstance(output, (tuple, list)):
        found = _field(output, AUXILIARY)
    if not isinstance(found, (tuple, list)) or not all(_is_auxiliary(x) for x in found):
        return ()
    return tuple((*pair_of(x), *_copies_of(x)) for x in found)


def _is_auxiliary(output: Any) -> bool:
    """Whether it is (logits, boxes), (logits, boxes, copies) with copies from 1, or a mapping or object with both."""
    if not is_pair(output):
        return False
    more = output[2:] if isinstance(output, (tuple, list)) else ()
    return not more or (len(more) == 1 and type(more[0]) is int and more[0] >= 1)


def _copies_of(output: Any) -> tuple[int, ...]:
    """The third value of a triple: how many queries each target is matched with."""
    return tuple(output[2:]) if isinstance(output, (tuple, list)) else ()


def _each_layer(detector: Detector, pixel_values: Tensor) -> Any:
    """The inner model's output with the hidden states of each decoder layer, [layers, B, Q, D]."""
    model: Any = detector.model
    before, model.config.auxiliary_loss = model.config.auxiliary_loss, True
    try:
        mask = torch.ones((1, *pixel_values.shape[-2:]), device=pixel_values.device)
        return model.model(pixel_values, pixel_mask=mask)
    finally:
        model.config.auxiliary_loss = before


def _split(logits: Sequence[Tensor] | Tensor, boxes: Sequence[Tensor] | Tensor) -> tuple[Any, ...]:
    """(last logits, last boxes, the pairs before)."""
    pairs = list(zip(logits, boxes, strict=True))
    return (*pairs[-1], tuple(pairs[:-1]))


def _detr(detector: Detector, pixel_values: Tensor) -> tuple[Any, ...]:
    model: Any = detector.model
    hidden = _each_layer(detector, pixel_values).intermediate_hidden_states
    return _split(model.class_labels_classifier(hidden), model.bbox_predictor(hidden).sigmoid())


def _conditional_detr(detector: Detector, pixel_values: Tensor) -> tuple[Any, ...]:
    model: Any = detector.model
    output = _each_layer(detector, pixel_values)
    place = _inverse_sigmoid(output.reference_points).transpose(0, 1)
    boxes = [_moved(model.bbox_predictor(hidden), place) for hidden in output.intermediate_hidden_states]
    return _split(model.class_labels_classifier(output.intermediate_hidden_states), boxes)


def _deformable_detr(detector: Detector, pixel_values: Tensor) -> tuple[Any, ...]:
    """Of the first stage, where there is one, scores of column 0 alone: it learns object or not, whatever the class."""
    model: Any = detector.model
    output = detector._run(pixel_values)
    places = [output.init_reference_points, *output.intermediate_reference_points.unbind(1)]
    pairs = []
    for index, hidden in enumerate(output.intermediate_hidden_states.unbind(1)):
        place = _inverse_sigmoid(places[index])
        pairs.append((model.class_embed[index](hidden), _moved(model.bbox_embed[index](hidden), place)))
    first = [] if output.enc_outputs_class is None else [_first_stage(output)]
    return (*pairs[-1], tuple(first + pairs[:-1]))


def _first_stage(output: Any) -> Pair:
    return output.enc_outputs_class[..., :1], output.enc_outputs_coord_logits.sigmoid()


def _rt_detr(detector: Detector, pixel_values: Tensor) -> tuple[Any, ...]:
    output = detector._run(pixel_values)
    logits, boxes = output.intermediate_logits.unbind(1), output.intermediate_reference_points.unbind(1)
    last_logits, last_boxes, before = _split(logits, boxes)
    return last_logits, last_boxes, (*before, (output.enc_topk_logits, output.enc_topk_bboxes))


def _lw_detr(detector: Detector, pixel_values: Tensor) -> tuple[Any, ...]:
    """In training these families ask several groups of queries; the first group alone is used afterwards."""
    model: Any = detector.model
    output = detector._run(pixel_values)
    count = model.config.num_queries
    logits, boxes = pair_of(output)
    first = (output.enc_outputs_class[:, :count], output.enc_outputs_coord_logits[:, :count])
    return logits[:, :count], boxes[:, :count], (first,)


AUXILIARY_HEADS: dict[str, Callable[[Detector, Tensor], tuple[Any, ...]]] = {
    "detr": _detr,
    "conditional_detr": _conditional_detr,
    "deformable_detr": _deformable_detr,
    "rt_detr": _rt_detr,
    "rt_detr_v2": _rt_detr,
    "d_fine": _rt_detr,
    "lw_detr": _lw_detr,
    "rf_detr": _lw_detr,
}
"""Model type -> its training outputs. Others, such as YOLOS, have none beside the final pair."""
DECODER_DECIDES = ("d_fine",)
"""Model types whose decoder leaves the outputs of its first blocks out in eval mode."""
MASKLESS = ("yolos",)
"""Model types whose forward takes no pixel mask."""
BATCHED_MASK = ("lw_detr", "rf_detr")
"""Model types that view their mask by the batch, so that one of batch 1 does not broadcast."""


def _moved(change: Tensor, place: Tensor) -> Tensor:
    """Boxes from changes [..., 4] before the sigmoid and places [..., 2 or 4]."""
    width = place.shape[-1]
    return torch.cat((change[..., :width] + place, change[..., width:]), dim=-1).sigmoid()


def _inverse_sigmoid(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=EPSILON) / (1 - x).clamp(min=EPSILON))
