"""The words of docs/latency.md; errors in them are computed from the study, facts of data sheets are typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latency.data import provenance
from latency.gemms import mape

if TYPE_CHECKING:
    from fit_latency import Study


def headlines(found: Study) -> list[str]:
    """The figures that matter, in a list."""
    lines = []
    for gpu in ("A100", "H100"):
        part = [p for p in found.paths if p.gpu == gpu]
        rows = [len(p.held_out_ln) for p in part]
        held, naive, inside = (
            np.average([getattr(p, name) for p in part], weights=rows)
            for name in ("held_out_mape", "naive_mape", "coverage")
        )
        worst = max(part, key=lambda p: p.held_out_mape)
        lines.append(
            f"- One GEMM on {gpu} PCIe, its workload left out: {held:.1%} mean absolute error (worst path {worst.path}"
            f" {worst.held_out_mape:.1%}; peak roofline {naive:.1%}), {inside:.1%} inside the 90 % interval."
        )
    transfer = mape(np.concatenate(list(found.transfer["H100 to A100"].values())))
    lines.append(f"- H100 parameters on the A100, with no A100 row seen: {transfer:.1%}.")
    for way, held in found.models.across.items():
        p90 = np.quantile(np.abs(np.expm1(held.ln)), 0.9)
        lines.append(f"- Whole encoders on A100, {way}: {mape(held.ln):.1%} mean, {p90:.1%} at the 90th percentile.")
    orin = found.orin
    lines.append(
        f"- Jetson Orin, {len(orin.carried)} published engines: {mape(orin.by_group.every):.1%} with the row's group"
        f" left out ({orin.by_group.coverage:.1%} in the interval), {mape(orin.by_source.every):.1%} with its whole"
        f" source left out ({orin.by_source.coverage:.1%}), {mape(orin.carried):.1%} with A100 parameters as they are."
    )
    return [
        *lines,
        "",
        "Nothing here was measured by this project on an A100, an H100 or an Orin: the data are other people's. All",
        "predictions are labelled `predicted`. This page is written by `python benchmarks/latency_report.py`.",
        "",
    ]


BEFORE = f"""## Method

A GEMM [m, k] x [k, n] takes t0 + |(compute, dram, cache, latency)|, a norm whose order is fitted:

- compute: waves of output tiles over the streaming multiprocessors at a share of the datasheet peak, the
  cheapest of nine tile shapes; where the board's power is less than operations a second times their energy,
  power sets the rate, and long kernels lose a little more;
- dram: each operand once at a share of the bandwidth, less what the cache kept since its last use. A benchmark
  repeats a call on warm operands; inside a model the other layers' weights pass in between, so weights come
  from DRAM unless the whole model fits;
- cache: that rest, or operands as often as waves of tiles reread them;
- latency: the steps of one tile along k.

Eight parameters for each device, precision and sparsity are fitted by damped Gauss-Newton on logarithms with a
prior (`gpusq.latency.fit`; `gpusq calibrate` uses the same function). Peaks, bandwidth, units, cache and watts
come from data sheets, energy is compared between processes by TSMC's published 30 % from N7 to N5: that is what
carries parameters from one GPU to another. The six constants shared by all paths, and the form itself, were
chosen with all of the GEMM table in view; the figures below leave workloads out of the parameters, not out of
that choice.

A model is a sequence of kernels: what TensorRT fuses is fused, each kernel costs a gap, GEMMs their model's
time with the compute term times a factor per path, attention its products at one rate plus the first head's
time, other operators their traffic. Depthwise convolutions take their traffic or their products at the float32
rate, whichever is longer. These engine parameters are fitted to whole published encoders; their priors and the
rules of fusion were chosen by hand, with those encoders in view.

Intervals are conformal: the 90 % quantile of |ln(predicted / measured)| over held-out rows, for GEMMs in up to
four bands of predicted time. Coverage in the tables is nested: the rows that are counted touched neither the
parameters nor the quantile. A path without a fit (INT4; FP16 2:4 on H100) takes the nearest path's efficiencies
with its own peak, is marked `scaled`, and has twice the interval (assumed).

## Data

- {provenance()}. 1,074 rows on A100 80GB PCIe, 963 on H100 PCIe; layers of five language models and squares.
- Whole encoders on A100-40GB from the READMEs of TensorRT demoBERT (TensorRT 10.x) and AITemplate.
- Orin: READMEs of onnxsim, NanoOWL and EfficientViT, and NVIDIA's rates for the Orin Nano before and after
  "Super". EfficientViT is rebuilt from its paper, its multiply-accumulates agree with the README's.

`benchmarks/data/README.md` names sources and licences.
""".splitlines()

AFTER_GEMMS = """Points beyond an axis are drawn at its end. Squares are extrapolation: the others have n and k of 2048
and more, the squares begin at 64 and go to 65536. Dense INT8 on H100 is the worst path; neighbouring shapes
differ there as no smooth model follows.

## Parameters of one GPU on the other

From H100 to A100 is the test of the physics: none of the A100's times is used, only its data sheet. The reverse
is worse: a board that is not held back by its power says little of the energy that holds back another.
""".splitlines()

AFTER_MODELS = """FasterTransformer runs slower than an engine because it does not join operators: attention is two
products with the scores in memory and a softmax between, and biases, GELU, residuals and transposes are kernels
of their own. `predict(..., fused=False)` models that: the mean ln error falls by half to seven tenths. The rest is not
modelled; older kernels and, in INT8, conversions between layers are its likely causes. The 2:4 rows left out are the
worst group, as no other row on an A100 says what TensorRT's sparse kernels do.
""".splitlines()

CANNOT = """## Power modes of the AGX Orin

A mode sets the peak by NVIDIA's published TOPS (171, 109, 41 and 14 sparse INT8 TOPS at MAXN, 50 W, 30 W and 15
W), the multiprocessors by the TPCs left on (8, 8, 4, 3) and the memory clock (2133 of 3200 MHz at 15 W,
uncapped above) by NVIDIA's `nvpmodel` table. `python benchmarks/check_orin_latency.py` prints the answers. No
published row says what a ViT takes in another mode than the maker's own, so the order is checked, not the size.

## What it cannot know

- Library versions. The GEMMs are those of CUDA 12.9; TensorRT picks its own kernels, and another version
  others.
- Clocks and temperature of your board. A locked clock or a hot case changes everything in proportion.
- Batch-1 latency of runtimes that do not replay a graph: launches are then the host's.
- The Orin's GEMMs: no public table. Its GEMM parameters are the A100's; only the engine's were refitted. A
  model unlike the ones above is off by what the left-out source shows.
- 2:4 in TensorRT: on an A100 one encoder at sequence 128, on an Orin an FP16 MLP in isolation (onnxsim, Orin
  Nano; not in the fit, `python benchmarks/check_orin_latency.py` compares their speed-ups). demoBERT's rows for
  L40S and A30 or L4 are in `data/` but not used: there is no target file for those GPUs.
- Whole models in an engine on H100 and H200: no row was found. The H100's engine parameters are the A100's, with
  an interval widened by an assumption.
- FP32 means IEEE float32. TensorRT uses TF32 unless told not to, which is several times faster.
- INT4 has no TensorRT path on these devices; its figures are scaled peaks.

Measure ten layers on your device and run `gpusq calibrate`: the table of anchors shows what that is worth.
It fits each path from the target's own parameters and from textbook values, keeps the one with the lower error on
rows not seen, and changes nothing unless it beats the target there on at least three rows.

Tables for `gpusq predict FILE.csv` have one of these headers, or one with the columns of both (a later line that
begins with kind is a new header; other columns pass through):

    kind,device,dtype,sparsity,m,n,k
    kind,device,dtype,sparsity,layers,width,heads,mlp,tokens,batch

kind is gemm or encoder, device a target's name or file, sparsity dense or 2:4. With fewer than nine held-out rows
`gpusq calibrate` never narrows a path's interval: it is at least that of the target and the largest error seen.
""".splitlines()
