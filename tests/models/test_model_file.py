"""Models from a user's own file: any module, rebuilt from its source, refused where it could not be."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch

from gpusq.errors import ClassMismatchError, NonFiniteError, UnsupportedModelError
from gpusq.models import PatchLinear, UnpackedAttention, load_model, plain_tensors, rebuild, source_fingerprint
from tests.models.model_samples import images, logits, write_model

NET = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Sizes:
    hidden: int = 16

class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        width = Sizes().hidden
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 4, 32, batch_first=True), 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.layers(x).mean(dim=1))
"""
BUILD = "def build(classes=5):\n    return Net(classes), {'input_shape': (3, 8, 8)}\n"
TINY = """
from torch import nn
import torch
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 4)
    def forward(self, x):
        return self.fc(x.flatten(1))
"""
SHAPE = "{'input_shape': (3, 2, 2)}"


def test_file_gives_a_canonical_model_that_rebuilds_bit_equal(tmp_path: Path) -> None:
    loaded = load_model(write_model(tmp_path / "net.py", NET + BUILD), seed=2)
    assert loaded.files == {"source.py": (NET + BUILD).encode()}
    assert loaded.blocks == ("layers.layers.0", "layers.layers.1")
    assert list(loaded.keep_dense) == ["head"]
    kinds = [type(m) for m in loaded.module.modules()]
    assert (kinds.count(PatchLinear), kinds.count(UnpackedAttention)) == (1, 2)
    (tmp_path / "net.py").unlink()
    twin = rebuild(loaded.description, plain_tensors(loaded.module), loaded.files)
    assert torch.equal(logits(twin.module, images(loaded)), logits(loaded.module, images(loaded)))


def test_seed_and_classes_reach_the_function(tmp_path: Path) -> None:
    spec = write_model(tmp_path / "net.py", NET + BUILD)
    one, same, other = (plain_tensors(load_model(spec, seed=s).module)["head.weight"] for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    loaded = load_model(spec, classes=7)
    assert len(loaded.description.classes) == 7
    twin = rebuild(loaded.description, plain_tensors(loaded.module), loaded.files)
    assert torch.equal(logits(twin.module, images(loaded)), logits(loaded.module, images(loaded)))


def test_facts_reach_the_description(tmp_path: Path) -> None:
    facts = "{'input_shape': (3, 2, 2), 'mean': (.1, .2, .3), 'std': (.4, .5, .6), 'classes': ['a', 'b', 'c', 'd']}"
    loaded = load_model(write_model(tmp_path / "n.py", TINY + f"def build():\n    return Net(), {facts}\n"))
    description = loaded.description
    assert (description.source, description.family, description.function) == ("file", "custom", "build")
    assert (description.mean, description.classes) == ((0.1, 0.2, 0.3), ("a", "b", "c", "d"))


def test_module_may_tell_its_own_input_shape(tmp_path: Path) -> None:
    source = TINY + "def build():\n    net = Net()\n    net.input_shape = (3, 2, 2)\n    return net\n"
    assert load_model(write_model(tmp_path / "n.py", source)).description.input_shape == (3, 2, 2)


@pytest.mark.parametrize("form", ["{'logits': y}", "SimpleNamespace(logits=y)"])
def test_logits_inside_a_structure_are_taken_out(tmp_path: Path, form: str) -> None:
    source = textwrap.dedent(f"""
        from types import SimpleNamespace
        from torch import nn
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(12, 4)
            def forward(self, x):
                y = self.fc(x.flatten(1))
                return {form}
        def build():
            return Net(), {SHAPE}
    """)
    loaded = load_model(write_model(tmp_path / "n.py", source))
    assert logits(loaded.module, images(loaded)).shape == (3, 4)
    assert list(loaded.keep_dense) == ["model.fc"]


def test_trained_weights_are_read_once_and_not_needed_to_rebuild(tmp_path: Path) -> None:
    weights = tmp_path / "fc.safetensors"
    source = TINY + textwrap.dedent(f"""
        from safetensors.torch import load_file
        def build(pretrained=True):
            net = Net()
            if pretrained:
                net.fc.load_state_dict(load_file({str(weights)!r}))
            return net, {SHAPE}
    """)
    from safetensors.torch import save_file

    save_file({"weight": torch.full((4, 12), 0.25), "bias": torch.zeros(4)}, weights)
    loaded = load_model(write_model(tmp_path / "n.py", source))
    weights.unlink()
    twin = rebuild(loaded.description, plain_tensors(loaded.module), loaded.files)
    assert float(plain_tensors(twin.module)["fc.weight"].mean()) == 0.25


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def build():\n    return Net()\n", "input_shape"),
        (f"def build():\n    return 3, {SHAPE}\n", "returns an nn.Module"),
        ("def build():\n    return Net(), {'input_shape': (3, 2)}\n", "input_shape"),
        ("def build():\n    return Net(), {'input_shape': (3, 2, 2), 'colour': 1}\n", "colour"),
        ("def build():\n    return Net(), {'input_shape': (3, 4, 4)}\n", "takes images of shape"),
        ("def build():\n    return Net(), {'input_shape': (3, 2, 2), 'mean': (0.5,)}\n", "one value for each"),
        ("def build():\n    raise ValueError('no luck')\n", "no luck"),
        ("def other():\n    return Net()\n", "a function build"),
        ("import a_neighbour_that_is_not_installed\n", "stand alone"),
        ("def build(:\n", "SyntaxError"),
        (f"def build():\n    return nn.Flatten(2), {SHAPE}\n", "logits [batch, classes]"),
        (
            f"def build():\n    return nn.MaxPool2d(2, return_indices=True), {SHAPE}\n",
            "a tuple of [1, 3, 1, 1], [1, 3, 1, 1]",
        ),
    ],
)
def test_file_that_gives_no_model_is_refused(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(write_model(tmp_path / "n.py", TINY + body))
    assert message in str(caught.value)


def test_state_outside_parameters_and_buffers_is_caught(tmp_path: Path) -> None:
    source = textwrap.dedent(f"""
        import torch
        from torch import nn
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(12, 4)
                self.shift = torch.randn(4)
            def forward(self, x):
                return self.fc(x.flatten(1)) + self.shift
        def build():
            return Net(), {SHAPE}
    """)
    with pytest.raises(UnsupportedModelError, match="persistent buffers"):
        load_model(write_model(tmp_path / "n.py", source), seed=4)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    body = f"def build():\n    net = Net()\n    net.fc.bias.data[2] = float('inf')\n    return net, {SHAPE}\n"
    with pytest.raises(NonFiniteError, match=r"fc\.bias .*\[2\]"):
        load_model(write_model(tmp_path / "n.py", TINY + body))


@pytest.mark.parametrize("classes", [3, None])
def test_number_of_classes_that_differs_from_the_head_is_refused(tmp_path: Path, classes: int | None) -> None:
    facts = "{'input_shape': (3, 2, 2), 'classes': 4}" if classes else "{'input_shape': (3, 2, 2), 'classes': 9}"
    spec = write_model(tmp_path / "n.py", TINY + f"def build():\n    return Net(), {facts}\n")
    with pytest.raises(ClassMismatchError):
        load_model(spec, classes=classes)


def test_rebuilding_without_the_source_is_refused(tmp_path: Path) -> None:
    loaded = load_model(write_model(tmp_path / "net.py", NET + BUILD))
    with pytest.raises(UnsupportedModelError, match=r"source\.py"):
        rebuild(loaded.description, plain_tensors(loaded.module), {})


def test_fingerprint_follows_source_function_and_weights_beside_it(tmp_path: Path) -> None:
    spec = write_model(tmp_path / "n.py", TINY)
    before = source_fingerprint(spec)
    assert source_fingerprint(spec.replace("build", "other")) != before
    (tmp_path / "w.safetensors").write_bytes(b"1")
    assert source_fingerprint(spec) != before


@pytest.mark.parametrize("kind", ["pt", "pth", "ckpt", "bin", "npz", "npy", "onnx", "json", "safetensors.index.json"])
def test_fingerprint_follows_every_kind_of_weights_beside_the_file(tmp_path: Path, kind: str) -> None:
    spec = write_model(tmp_path / "n.py", TINY)
    seen = [source_fingerprint(spec)]
    for content in (b"1", b"2"):
        (tmp_path / f"w.{kind}").write_bytes(content)
        seen.append(source_fingerprint(spec))
    assert len(set(seen)) == 3
    (tmp_path / "notes.txt").write_text("not read by code")
    (tmp_path / f"folder.{kind}").mkdir()
    assert source_fingerprint(spec) == seen[-1]


def test_tied_weights_survive(tmp_path: Path) -> None:
    source = textwrap.dedent(f"""
        from torch import nn
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
                self.b.weight = self.a.weight
            def forward(self, x):
                return self.head(self.b(self.a(x.flatten(1))))
        def build():
            return Net(), {SHAPE}
    """)
    loaded = load_model(write_model(tmp_path / "n.py", source))
    twin = rebuild(loaded.description, plain_tensors(loaded.module), loaded.files)
    assert twin.module.a.weight is twin.module.b.weight
    assert torch.equal(logits(twin.module, images(loaded)), logits(loaded.module, images(loaded)))


def test_files_that_the_function_reads_enter_the_fingerprint(tmp_path: Path) -> None:
    weights = tmp_path / "elsewhere" / "weights.bin"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    path = tmp_path / "model.py"
    plain = TINY + "def build():\n    return Net()\n"
    path.write_text(plain + f"def reads():\n    return [{str(weights)!r}]\n", encoding="utf-8")
    spec = f"{path}:build"
    before = source_fingerprint(spec)
    assert source_fingerprint(spec) == before
    weights.write_bytes(b"two")
    assert source_fingerprint(spec) != before
    weights.unlink()
    with pytest.raises(UnsupportedModelError, match="no such file"):
        source_fingerprint(spec)


@pytest.mark.parametrize("body", ["return 3", "raise FileNotFoundError('run fetch first')"])
def test_a_list_of_files_that_is_none_is_refused(tmp_path: Path, body: str) -> None:
    path = tmp_path / "model.py"
    path.write_text(TINY + f"def build():\n    return Net()\ndef reads():\n    {body}\n", encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=r"reads\(\) of the model file"):
        source_fingerprint(f"{path}:build")
