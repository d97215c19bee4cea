"""Fresh detectors whose convolutions pass signals on.

transformers draws the convolutions of the RT-DETR family with a deviation of 0.02 and their batch norms know no
statistics yet: after a few layers nothing is left of the image, all places get one score, and which of them become
queries is decided by the last bit of a sum, differently in every runtime. With weights drawn for their fan-in
(He et al. 2015, arXiv:1502.01852) the scores differ by what the image shows, as in a trained model.
"""

from __future__ import annotations

import json
from pathlib import Path


def write_lively(model: str, folder: Path, classes: int | None = None) -> str:
    """Write the fresh model of a "new:" specification as a transformers directory; its "hf:" specification.

    classes: of its head; None for the preset's own number.
    """
    import torch
    from torch import nn

    from gpusq.models.presets import new_model
    from gpusq.models.source import parse_spec

    raw = new_model(parse_spec(model), classes, 0)
    generator = torch.Generator().manual_seed(0)
    for part in raw.module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, generator=generator)
    raw.module.save_pretrained(folder)  # type: ignore[operator]
    _, height, width = raw.input_shape
    image = {"size": {"height": height, "width": width}, "image_mean": raw.mean, "image_std": raw.std}
    (folder / "preprocessor_config.json").write_text(json.dumps(image), encoding="utf-8")
    return f"hf:{folder}"
