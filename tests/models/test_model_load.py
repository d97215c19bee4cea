"""Load from each source, rebuild bit-equal, refuse what cannot be loaded."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from gpusq.errors import ClassMismatchError, MissingExtraError, NonFiniteError, UnsupportedModelError
from gpusq.models import (
    LoadedModel,
    ModelDescription,
    load_model,
    plain_tensors,
    preset_names,
    rebuild,
    source_fingerprint,
)
from gpusq.models.huggingface import quiet, seeded
from tests.models.model_samples import images, logits

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def write_directory(folder: Path, family: str = "vit", **options: object) -> transformers.PreTrainedModel:
    """A small classifier as save_pretrained leaves it."""
    sizes = {k: v for k, v in SMALL.items() if "dinov2" not in family or k != "intermediate_size"}
    config = transformers.AutoConfig.for_model(
        family, **{**sizes, "image_size": 32, "patch_size": 8, "architectures": [], **options}
    )
    with quiet(), seeded(5):
        model = transformers.AutoModelForImageClassification.from_config(config, attn_implementation="eager")
        model.save_pretrained(folder)
    return model.eval()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_directory(tmp_path, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    return tmp_path


def test_rebuilt_model_is_bit_equal(loaded: LoadedModel) -> None:
    description = ModelDescription.model_validate_json(loaded.description.model_dump_json())
    twin = rebuild(description, plain_tensors(loaded.module), loaded.files)
    x = images(loaded)
    assert torch.equal(logits(twin.module, x), logits(loaded.module, x))
    assert (twin.description, twin.blocks, twin.keep_dense) == (loaded.description, loaded.blocks, loaded.keep_dense)


def test_rebuilding_leaves_the_random_state_alone(loaded: LoadedModel) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    rebuild(loaded.description, plain_tensors(loaded.module), loaded.files)
    load_model("new:vit-test")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("sabotage", ["missing", "unknown", "shape"])
def test_rebuild_refuses_tensors_that_do_not_fit(sabotage: str) -> None:
    loaded = load_model("new:vit-test")
    tensors = plain_tensors(loaded.module)
    name = "model.classifier.bias"
    if sabotage == "missing":
        del tensors[name]
    elif sabotage == "unknown":
        tensors["stray"] = tensors[name]
    else:
        tensors[name] = torch.zeros(3)
    with pytest.raises(UnsupportedModelError, match="stray" if sabotage == "unknown" else name):
        rebuild(loaded.description, tensors, {})


@pytest.mark.parametrize("architecture", ["os", "ViTModel", "NoSuchForImageClassification"])
def test_rebuild_refuses_a_class_that_is_no_classifier(architecture: str) -> None:
    loaded = load_model("new:vit-test")
    description = loaded.description.model_copy(update={"architecture": architecture})
    with pytest.raises(UnsupportedModelError, match=architecture):
        rebuild(description, plain_tensors(loaded.module), {})


def test_seed_decides_fresh_weights() -> None:
    one, same, other = (plain_tensors(load_model("new:vit-test", seed=s).module) for s in (1, 1, 2))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not torch.equal(one["model.classifier.weight"], other["model.classifier.weight"])


@pytest.mark.parametrize("name", [n for n in preset_names() if n.endswith("-test") or n == "vit-mini-28"])
def test_small_presets_build_and_give_logits(name: str) -> None:
    loaded = load_model(f"new:{name}", classes=7)
    assert logits(loaded.module, images(loaded)).shape == (3, 7)
    assert loaded.description.classes == tuple("0123456")
    assert not loaded.module.training


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in preset_names() if n.endswith(("tiny", "small", "base")) and not n.startswith("yolos")]
)
def test_full_presets_build_and_give_logits(name: str) -> None:
    loaded = load_model(f"new:{name}")
    assert loaded.description.input_shape == (3, 224, 224)
    assert len(loaded.description.classes) == 1000


def test_options_change_the_preset() -> None:
    loaded = load_model("new:vit-mini-28?layers=2&hidden=96&channels=3")
    config = loaded.description.config
    assert (len(loaded.blocks), config["hidden_size"], config["intermediate_size"]) == (2, 96, 384)
    assert loaded.description.input_shape == (3, 28, 28)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("new:vit-smal", "use one of: vit-small"),
        ("new:swin-tiny?layers=3", "layers"),
        ("new:vit-test?layers=no", "positive integer"),
        ("new:vit-test?layers=0", "positive integer"),
        ("new:vit-test?layers", "positive integer"),
        ("new:vit-test?patch=7", "patch divides image"),
        ("new:vit-test?heads=5", "heads divides hidden"),
        ("resnet50", "hf:DIR, new:NAME"),
        ("hf:", "hf:DIR, new:NAME"),
        ("model.py", "file.py:function"),
        ("hf:/no/such/directory", "config.json"),
        ("/no/such/model.py:build", "no such file"),
    ],
)
def test_specification_that_names_nothing_is_refused(spec: str, message: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(spec)
    assert message in str(caught.value)


def test_no_classes_are_refused() -> None:
    with pytest.raises(ClassMismatchError):
        load_model("new:vit-test", classes=0)


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "dinov2_with_registers", "beit", "data2vec-vision"])
def test_directory_gives_the_model_that_was_saved(tmp_path: Path, family: str) -> None:
    original = write_directory(tmp_path, family, num_labels=4)
    loaded = load_model(f"hf:{tmp_path}")
    x = images(loaded)
    torch.testing.assert_close(logits(loaded.module, x), logits(original, x), rtol=0, atol=1e-5)
    twin = rebuild(loaded.description, plain_tensors(loaded.module), loaded.files)
    assert torch.equal(logits(twin.module, x), logits(loaded.module, x))


def test_directory_tells_its_classes_and_how_to_prepare_images(directory: Path) -> None:
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3, "size": {"height": 99}}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings | {"size": {"height": 99, "width": 99}}))
    description = load_model(f"hf:{directory}").description
    assert description.classes == ("cat", "dog")
    assert (description.mean, description.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert description.resize == "bicubic"
    assert description.input_shape == (3, 32, 32)  # the weights' own size wins


def test_position_embeddings_of_dinov2_are_folded_to_the_input_size(tmp_path: Path) -> None:
    original = write_directory(tmp_path, "dinov2", image_size=64, num_labels=4)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"crop_size": {"height": 32, "width": 32}}))
    loaded = load_model(f"hf:{tmp_path}")
    assert loaded.description.input_shape == (3, 32, 32)
    assert plain_tensors(loaded.module)["model.dinov2.embeddings.position_embeddings"].shape[1] == 17
    x = images(loaded)
    torch.testing.assert_close(logits(loaded.module, x), logits(original, x), rtol=0, atol=1e-5)
    twin = rebuild(loaded.description, plain_tensors(loaded.module), loaded.files)
    assert torch.equal(logits(twin.module, x), logits(loaded.module, x))


def test_other_number_of_classes_gives_a_fresh_head_and_keeps_the_rest(directory: Path) -> None:
    trained, loaded = load_model(f"hf:{directory}"), load_model(f"hf:{directory}", classes=5, seed=1)
    before, after = plain_tensors(trained.module), plain_tensors(loaded.module)
    changed = {n for n in after if not torch.equal(before[n], after[n])}
    assert changed == {"model.classifier.weight", "model.classifier.bias"}
    assert loaded.description.classes == tuple("01234")
    again = plain_tensors(load_model(f"hf:{directory}", classes=5, seed=1).module)
    assert all(torch.equal(after[n], again[n]) for n in after)


def test_same_number_of_classes_keeps_the_trained_head_and_names(directory: Path) -> None:
    assert load_model(f"hf:{directory}", classes=2).description.classes == ("cat", "dog")


def test_directory_without_a_head_is_refused_until_the_classes_are_given(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "classifier" not in n}, directory / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match="classifier"):
        load_model(f"hf:{directory}")
    assert len(load_model(f"hf:{directory}", classes=2).description.classes) == 2


def test_directory_that_lacks_an_inner_weight_is_refused_always(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    lost = next(n for n in tensors if n.endswith("fc1.weight") or n.endswith("intermediate.dense.weight"))
    save_file({n: t for n, t in tensors.items() if n != lost}, directory / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match="fc1"):
        load_model(f"hf:{directory}", classes=2)


def test_weights_that_are_not_finite_are_refused_by_name(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["classifier.weight"][1, 2] = float("nan")
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match=r"classifier\.weight.*\[1, 2\]"):
        load_model(f"hf:{directory}")


def test_pickled_weights_are_refused_with_the_way_out(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="save_pretrained"):
        load_model(f"hf:{directory}")


@pytest.mark.parametrize("content", ['{"model_type": "no-such-type"}', "{", '{"model_type": "bert"}'])
def test_directory_of_another_kind_is_refused(directory: Path, content: str) -> None:
    (directory / "config.json").write_text(content)
    with pytest.raises(UnsupportedModelError):
        load_model(f"hf:{directory}")


def test_torn_weights_are_refused(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UnsupportedModelError):
        load_model(f"hf:{directory}")


def test_timm_model_without_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"\.\[timm\]"):
        load_model("timm:vit_tiny_patch16_224")


class FakeTimm(types.ModuleType):
    """What this project calls of timm."""

    def create_model(self, name: str, pretrained: bool, num_classes: int = 10) -> nn.Module:
        if pretrained or name != "net":
            raise RuntimeError(f"Unknown model ({name})")
        return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(1), nn.Linear(32, num_classes))

    @property
    def data(self) -> types.SimpleNamespace:
        config = {"input_size": (3, 8, 8), "mean": (0.1,) * 3, "std": (0.2,) * 3, "interpolation": "bicubic"}
        return types.SimpleNamespace(resolve_model_data_config=lambda module: config)


def test_timm_model_loads_its_weights_and_rebuilds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm("timm"))
    weights = FakeTimm("timm").create_model("net", False, 6).state_dict()
    save_file(weights, tmp_path / "net.safetensors")
    loaded = load_model(f"timm:net?weights={tmp_path / 'net.safetensors'}", classes=6)
    assert torch.equal(plain_tensors(loaded.module)["2.weight"], weights["2.weight"])
    assert (loaded.description.resize, loaded.description.mean) == ("bicubic", (0.1, 0.1, 0.1))
    twin = rebuild(loaded.description, plain_tensors(loaded.module), loaded.files)
    assert torch.equal(logits(twin.module, images(loaded)), logits(loaded.module, images(loaded)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [("other", "Unknown model"), ("net?weights=a.pth", "safetensors"), ("net?pretrained=1", "weights")],
)
def test_timm_model_that_cannot_be_had_is_refused(spec: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm("timm"))
    with pytest.raises(UnsupportedModelError, match=message):
        load_model(f"timm:{spec}")


def test_fingerprint_follows_content_not_place(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy")
    for path in directory.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert source_fingerprint(f"hf:{directory}") == source_fingerprint(f"hf:{copy}")
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert source_fingerprint(f"hf:{directory}") != source_fingerprint(f"hf:{copy}")


def test_fingerprints_of_presets_differ() -> None:
    specs = ["new:vit-test", "new:deit-test", "new:vit-test?layers=3"]
    assert len({source_fingerprint(s) for s in specs}) == 3


def test_fingerprint_of_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no such file"):
        source_fingerprint("hf:/no/such/directory")


def test_description_refuses_statistics_that_do_not_fit_and_unknown_keys() -> None:
    data = load_model("new:vit-test").description.model_dump()
    with pytest.raises(ValueError, match="one value for each"):
        ModelDescription.model_validate(data | {"mean": (0.5,)})
    with pytest.raises(ValueError, match="extra"):
        ModelDescription.model_validate(data | {"surprise": 1})
