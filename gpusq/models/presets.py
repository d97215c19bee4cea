"""Configurations of known models, to start from fresh weights: `new:NAME?key=value`."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from gpusq.errors import UnsupportedModelError
from gpusq.models.detector_presets import DETECTOR_PRESETS, new_detector
from gpusq.models.fresh import fresh_model
from gpusq.models.huggingface import positive
from gpusq.models.source import IMAGENET_MEAN, IMAGENET_STD, Raw, Spec, option

MEAN_HALF = 0.5


@dataclass(frozen=True)
class Preset:
    """family: transformers model type. config: arguments of its configuration. classes: of the fresh head."""

    family: str
    config: dict[str, Any]
    classes: int = 1000


def _vit(
    family: str, hidden: int, heads: int, *, image: int = 224, patch: int = 16, layers: int = 12
) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers}
    width = {} if family == "dinov2" else {"intermediate_size": 4 * hidden}
    return sizes | width | {"image_size": image, "patch_size": patch}


def _swin(embed: int, depths: list[int], heads: list[int], window: int = 7, image: int = 224) -> dict[str, Any]:
    sizes = {"embed_dim": embed, "depths": depths, "num_heads": heads}
    return sizes | {"window_size": window, "image_size": image, "patch_size": 4}


_WIDTHS = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
_SWIN = {
    "tiny": (96, [2, 2, 6, 2], [3, 6, 12, 24]),
    "small": (96, [2, 2, 18, 2], [3, 6, 12, 24]),
    "base": (128, [2, 2, 18, 2], [4, 8, 16, 32]),
}
_TEST = {"image": 32, "layers": 2}

PRESETS: dict[str, Preset] = {
    **{f"{f}-{s}": Preset(f, _vit(f, *w)) for f in ("vit", "deit") for s, w in _WIDTHS.items()},
    **{f"dinov2-{s}": Preset("dinov2", _vit("dinov2", *_WIDTHS[s], patch=14)) for s in ("small", "base")},
    **{f"swin-{s}": Preset("swin", _swin(*sizes)) for s, sizes in _SWIN.items()},
    "vit-mini-28": Preset("vit", _vit("vit", 96, 3, image=28, patch=4, layers=4) | {"num_channels": 1}, 10),
    "vit-test": Preset("vit", _vit("vit", 32, 2, patch=8, **_TEST), 10),
    "deit-test": Preset("deit", _vit("deit", 32, 2, patch=8, **_TEST), 10),
    "dinov2-test": Preset("dinov2", _vit("dinov2", 32, 2, patch=8, **_TEST), 10),
    "swin-test": Preset("swin", _swin(32, [2, 2], [2, 4], window=4, image=32), 10),
}

_OPTIONS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "image": "image_size",
    "patch": "patch_size",
    "channels": "num_channels",
}
_SWIN_OPTIONS = ("image", "patch", "channels")


def preset_names() -> list[str]:
    """Names that `new:` takes."""
    return sorted({*PRESETS, *DETECTOR_PRESETS})


def preset(name: str) -> Preset:
    """The preset of this name. Raises UnsupportedModelError listing the names, the nearest first."""
    if name in PRESETS:
        return PRESETS[name]
    near = get_close_matches(name, preset_names(), n=3, cutoff=0.3)
    rest = [n for n in preset_names() if n not in near]
    raise UnsupportedModelError("new:NAME names a preset", got=name, do=f"use one of: {', '.join(near + rest)}")


def preset_config(spec: Spec) -> tuple[Preset, dict[str, Any]]:
    """The preset and its configuration with the options applied, all positive integers."""
    chosen = preset(spec.name)
    allowed = _SWIN_OPTIONS if chosen.family == "swin" else tuple(_OPTIONS)
    given = {key: positive(key, value) for key, value in option(spec, allowed).items()}
    config = chosen.config | {_OPTIONS[key]: value for key, value in given.items()}
    if "hidden" in given and "intermediate_size" in config:
        config["intermediate_size"] = 4 * given["hidden"]
    _check_sizes(spec.name, config)
    return chosen, config


def new_model(spec: Spec, classes: int | None, seed: int) -> Raw:
    """A model with fresh weights from a preset. Raises UnsupportedModelError."""
    if spec.name in DETECTOR_PRESETS:
        return new_detector(spec, classes, seed)
    chosen, config = preset_config(spec)
    count = chosen.classes if classes is None else classes
    module, full_config = fresh_model(chosen.family, config, count, seed)
    channels, image = int(config.get("num_channels", 3)), int(config["image_size"])
    halves = channels != 3 or chosen.family == "vit"
    mean, std = ((MEAN_HALF,) * channels,) * 2 if halves else (IMAGENET_MEAN, IMAGENET_STD)
    return Raw(module, "new", chosen.family, full_config, (channels, image, image), mean, std)


def _check_sizes(name: str, config: dict[str, Any]) -> None:
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if hidden and heads and hidden % heads:
        raise UnsupportedModelError(
            f"new:{name}: heads divides hidden", got=f"hidden={hidden}, heads={heads}", do="change one of them"
        )
    if config["image_size"] % config["patch_size"]:
        sizes = f"image={config['image_size']}, patch={config['patch_size']}"
        raise UnsupportedModelError(f"new:{name}: patch divides image", got=sizes, do="change one of them")
