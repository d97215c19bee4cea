"""On a machine with an NVIDIA GPU: gpusq's training code there, and a pruned Linear through torch's 2:4 kernels.

    .venv/bin/python benchmarks/gpu_training_and_sparse_linear.py

1. gpusq.training.fit, the code that also runs on a CPU, on a 2:4 pruned and INT8 quantized DeiT-S/16 in bf16 and fp32:
   milliseconds per step and peak memory. Random images and labels: the figures are speed and memory.
2. A Linear pruned to 2:4 by gpusq, run by torch.sparse.to_sparse_semi_structured (fp16, bf16) and by
   torch._cslt_sparse_mm (INT8, where this torch has it), against the product with its masked dense weight: the
   largest difference must be within the type's tolerance.

Writes benchmarks/results/gpu_training_and_sparse_linear.json and .md. Without a GPU it says "not run" and writes
nothing, or with --write-not-run the Markdown file that says so. Exits with 1 where a product is outside its tolerance.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpusq.latency import host_conditions

RESULT = Path(__file__).parent / "results" / "gpu_training_and_sparse_linear.json"
COMMAND = ".venv/bin/python benchmarks/gpu_training_and_sparse_linear.py"
TITLE = "# Training on a GPU, and a pruned Linear through torch's 2:4 kernels"
SHAPES = ((384, 384), (1536, 384), (384, 1536))  # [out, in] of a ViT-S
ROWS = 1024  # tokens; a multiple of 32, as the INT8 kernels ask
TOLERANCES = {"fp16": 2e-3, "bf16": 1.6e-2, "int8": 0.0}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Product:
    """One comparison: [rows, k] x [out, k]. difference: largest |a - b| over the largest |b|; None where not run."""

    kernel: str
    dtype: str
    out: int
    k: int
    difference: float | None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the difference is within the type's tolerance; None where it was not run."""
        return None if self.difference is None else self.difference <= TOLERANCES[self.dtype]


@dataclass(frozen=True)
class Training:
    """Steps of gpusq.training.fit after warm-up: wall milliseconds of a step, peak GPU memory in GiB."""

    precision: str
    batch: int
    steps: int
    ms_per_step: float
    peak_gib: float


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest |found - expected| over the largest |expected|, in float64. Raises ValueError for different shapes."""
    if found.shape != expected.shape:
        raise ValueError(f"shapes {list(found.shape)} and {list(expected.shape)} differ")
    scale = float(expected.double().abs().max())
    largest = float((found.double() - expected.double()).abs().max())
    return largest / scale if scale else largest


def pruned_weight(out: int, k: int, seed: int) -> Tensor:
    """A float32 weight [out, k], 2:4 by magnitude."""
    from gpusq.sparsity import magnitude_score, mask_nm

    weight = torch.randn(out, k, generator=torch.Generator().manual_seed(seed)) / k**0.5
    return weight * mask_nm(magnitude_score(weight), 2, 4)


def integers(matrix: Tensor) -> Tensor:
    """Symmetric INT8 integers of a matrix, one scale for all of it; zeros stay zeros."""
    scale = matrix.abs().max() / 127
    return (matrix / scale).round().clamp(-127, 127).to(torch.int8)


def float_product(dtype: str, out: int, k: int, device: torch.device) -> Product:
    """to_sparse_semi_structured beside the masked dense product in the same type."""
    kind = DTYPES[dtype]
    linear = nn.Linear(k, out, bias=False, device=device, dtype=kind)
    x = torch.randn(ROWS, k, generator=torch.Generator().manual_seed(1)).to(device, kind)
    name = "to_sparse_semi_structured"
    with torch.inference_mode():
        linear.weight.copy_(pruned_weight(out, k, 0).to(device, kind))
        expected = linear(x)
        try:
            sparse = torch.sparse.to_sparse_semi_structured(linear.weight.detach())
            found = torch.nn.functional.linear(x, sparse)
        except (RuntimeError, NotImplementedError) as error:
            return Product(name, dtype, out, k, None, first_line(error))
    return Product(name, dtype, out, k, relative_difference(found, expected))


def int8_product(out: int, k: int, device: torch.device) -> Product:
    """cuSPARSELt's INT8 product with INT32 sums beside the exact one; nothing may differ."""
    name = "_cslt_sparse_mm"
    if not hasattr(torch, "_cslt_compress"):
        return Product(name, "int8", out, k, None, "this torch has no cuSPARSELt operators")
    weight = integers(pruned_weight(out, k, 0))
    x = integers(torch.randn(ROWS, k, generator=torch.Generator().manual_seed(1)))
    expected = weight.double() @ x.double().t()  # [out, rows], exact
    try:
        packed = torch._cslt_compress(weight.to(device))
        found = torch._cslt_sparse_mm(packed, x.to(device).t(), out_dtype=torch.int32)
    except (RuntimeError, NotImplementedError) as error:
        return Product(name, "int8", out, k, None, first_line(error))
    return Product(name, "int8", out, k, relative_difference(found.cpu(), expected))


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return str(error).partition("\n")[0]


def quantized_model(spec: str) -> tuple[nn.Module, dict[str, Tensor], tuple[int, int, int]]:
    """(model pruned by magnitude and quantized, in learning mode; weight masks; input shape)."""
    from gpusq.models import gemm_layers, load_model
    from gpusq.quantization import calibrate, insert, place, set_mode
    from gpusq.sparsity import magnitude_score, mask_nm

    loaded = load_model(spec)
    module, shape = loaded.module, loaded.description.input_shape
    chosen = [x for x in gemm_layers(module, loaded.keep_dense) if x.name not in loaded.keep_dense]
    masks = {}
    for layer in chosen:
        weight = module.get_parameter(f"{layer.name}.weight")
        if weight.dim() == 2:
            masks[layer.name] = mask_nm(magnitude_score(weight.detach()), 2, 4)
            weight.data.mul_(masks[layer.name])
    insert(module, place("inputs", chosen))
    calibrate(module, [torch.randn(4, *shape, generator=torch.Generator().manual_seed(2))], "max")
    set_mode(module, "learn", learn_scales=True)
    return module, masks, shape


def training(spec: str, precision: str, batch: int, steps: int, warmup: int) -> Training:
    """Time of `steps` steps of gpusq.training.fit after `warmup` others; one more step closes the interval."""
    from gpusq.training import Batch, Settings, fit

    module, masks, shape = quantized_model(spec)
    generator = torch.Generator().manual_seed(3)
    images, labels = torch.randn(batch, *shape, generator=generator), torch.zeros(batch, dtype=torch.int64)
    marks: dict[int, float] = {}

    def batch_of(indices: list[int], step: int) -> Batch:
        if step in (warmup, warmup + steps):
            synchronize()
            marks[step] = time.perf_counter()
        return Batch(images, labels)

    def loss_of(model: nn.Module, found: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return nn.functional.cross_entropy(model(found.images), found.labels), {}

    settings = Settings(warmup + steps + 1, batch, precision=precision, checkpoint_every=0)  # type: ignore[arg-type]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    fit(module, loss_of, batch_of, batch, settings, masks=masks)
    taken = marks[warmup + steps] - marks[warmup]
    return Training(precision, batch, steps, round(1e3 * taken / steps, 2), round(peak_gib(), 2))


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib() -> float:
    """Peak of the memory that torch allocated on the GPU; 0 without one."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def not_run_page() -> str:
    """The results file of a machine without a GPU."""
    return f"{TITLE}\n\nnot run: no GPU at hand. On a machine with an NVIDIA GPU:\n\n    {COMMAND}\n"


def page(content: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [TITLE, "", f"`{content['command']}`, {content['date']}.", ""]
    lines += [f"{content['gpu']} (compute capability {content['capability']}), torch {content['torch']}.", ""]
    lines += [f"gpusq.training.fit on {content['model']}, 2:4 pruned and INT8 quantized, random images:", ""]
    lines += ["| precision | batch | ms per step | peak GiB | steps |", "|---|---|---|---|---|"]
    for row in content["training"]:
        figures = (row[k] for k in ("precision", "batch", "ms_per_step", "peak_gib", "steps"))
        lines.append("| " + " | ".join(str(x) for x in figures) + " |")
    lines += [
        "",
        f"Pruned Linear, {ROWS} rows, against the product with its masked dense weight:",
        "",
        *table(content["products"]),
    ]
    return "\n".join(lines) + "\n"


def table(products: Sequence[dict[str, Any]]) -> list[str]:
    """The comparisons as lines of a Markdown table."""
    lines = ["| kernel | type | out x in | difference | tolerance | verdict |", "|---|---|---|---|---|---|"]
    for row in products:
        product = Product(**row)
        found = "-" if product.difference is None else f"{product.difference:.1e}"
        verdict = {True: "holds", False: "does not hold", None: f"not run: {product.note}"}[product.holds]
        shape = f"{product.out} x {product.k}"
        lines.append(
            f"| {product.kernel} | {product.dtype} | {shape} | {found} | {TOLERANCES[product.dtype]:.1e} | {verdict} |"
        )
    return lines


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything, on the GPU."""
    device = torch.device("cuda")
    products = [float_product(dtype, out, k, device) for dtype in DTYPES for out, k in SHAPES]
    products += [int8_product(out, k, device) for out, k in SHAPES]
    runs = [training(given.model, p, given.batch, given.steps, given.warmup) for p in ("bf16", "fp32")]
    capability = torch.cuda.get_device_capability(device)
    return {
        "command": f"{COMMAND} --model {given.model} --batch {given.batch} --steps {given.steps}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "gpu": torch.cuda.get_device_name(device),
        "capability": ".".join(map(str, capability)),
        "torch": torch.__version__,
        "host": host_conditions(),
        "model": given.model,
        "training": [asdict(run) for run in runs],
        "products": [asdict(product) for product in products],
    }


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with 2 where a count is out of range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="new:deit-small")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--write-not-run", action="store_true", help="without a GPU, write the page that says so")
    found = parser.parse_args(given)
    if min(found.batch, found.steps) < 1 or found.warmup < 0:
        parser.error("--batch and --steps are at least 1, --warmup at least 0")
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Measure where there is a GPU, else say that nothing was run."""
    options = arguments(given)
    markdown = options.out.with_suffix(".md")
    if not torch.cuda.is_available():
        print("not run: no GPU at hand")
        if options.write_not_run:
            markdown.write_text(not_run_page(), encoding="utf-8")
        return
    content = measure(options)
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    markdown.write_text(page(content), encoding="utf-8")
    print(page(content))
    if any(Product(**row).holds is False for row in content["products"]):
        raise SystemExit("a sparse product is outside its tolerance")


if __name__ == "__main__":
    main()
