"""`gpusq init`: the two folders of text that a user's own repository keeps, with working examples."""

from __future__ import annotations

from pathlib import Path

from gpusq.errors import UsageError

RECIPE = """\
# gpusq compress --recipe export/recipes/my-vit.toml
# Every key that is left out keeps the stage's default; `gpusq prune --help` and its sisters list them.

[model]
source = "hf:./my-vit"           # a local transformers directory; or new:NAME, file.py:function, timm:NAME

[data]
source = "./images"              # images/train/CLASS/*.jpg and images/val/CLASS/*.jpg

[prune]
score = "sparsegpt"
epochs = 1.0

[qat]
policy = "inputs"
epochs = 1.0

[build]
targets = ["cpu", "a100", "agx-orin"]
"""

EXPORT_README = """\
# export/

Inputs of gpusq, not Python.

| file | read by |
| --- | --- |
| recipes/*.toml | `gpusq compress --recipe FILE` |
| signatures/*.json | `[export] signature = "FILE"`: names, shapes and types that the ONNX file must have |
"""

CALIBRATION_README = """\
# calibration/

Which images set the activation ranges: one `sha256  id` a line, no images.
Draw one with `gpusq calibration draw --data ./images --images 512 --seed 0 --out calibration/my-512.txt`,
name it in a recipe as `[qat] calibration = "calibration/my-512.txt"`, and commit it.
"""

FILES = {
    "export/README.md": EXPORT_README,
    "export/recipes/my-vit.toml": RECIPE,
    "calibration/README.md": CALIBRATION_README,
}


def start_repository(directory: Path) -> list[Path]:
    """Write the starter files under `directory`; returns their paths. Raises UsageError where one exists already."""
    paths = {directory / name: text for name, text in FILES.items()}
    present = [str(p) for p in paths if p.exists()]
    if present:
        raise UsageError("init writes new files only", got=f"existing {', '.join(present)}", do="use another directory")
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(paths)
