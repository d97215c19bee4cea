"""Check what the shipped agx-orin.toml says of published Jetson Orin engines, of 2:4 there, and of power modes.

    python benchmarks/check_orin_latency.py

Reads no fit: predictions come from the installed target file alone, so this shows what a user gets. The held-out errors
of the same rows are in benchmarks/results/latency_orin.md (benchmarks/fit_latency.py writes it).
"""

from __future__ import annotations

import math

from latency.orin import SPARSE_MLP, VIT_B_16, device_of, mlp
from latency.orin_study import TESTED

from gpusq.latency import encoder_layers, encoder_workload, predict
from gpusq.targets import load_target

MODES = ("MAXN", "50W", "30W", "15W")


def main() -> None:
    """Print the tables."""
    inside, errors = 0, []
    for row in TESTED:
        layers = encoder_layers(row.workload, int8=row.int8)
        got = predict(row.workload, layers, device_of(row.device), 1, row.base, int8_attention=row.int8_attention)
        inside += got.low_ms <= row.published_ms <= got.high_ms
        errors.append(abs(got.latency_ms / row.published_ms - 1))
        span = f"{got.low_ms:6.2f} to {got.high_ms:6.2f}"
        shown = f"published {row.published_ms:6.2f} predicted {got.latency_ms:6.2f}, {span}"
        print(f"{row.device:16} {row.model:32} {shown}")
    mean = math.fsum(errors) / len(errors)
    print(f"{inside} of {len(TESTED)} in the 90 % interval, mean error {mean:.1%} (rows that the fit saw)")
    nano = device_of("Orin Nano Super")
    for tokens, published in SPARSE_MLP.items():
        layer = mlp(tokens)
        dense, sparse = (predict(layer, encoder_layers(layer, sparse=s), nano, 1).ops for s in (False, True))
        gain = sum(op.us for op in dense) / sum(op.us for op in sparse)
        shown = f"published {published:.2f}x, predicted {gain:.2f}x (not in the fit)"
        print(f"2:4 in FP16, MLP of {tokens:4} tokens: {shown}")
    workload = encoder_workload(*VIT_B_16)
    for mode in MODES:
        target = load_target(f"agx-orin-64gb@{mode}")
        for batch in (1, 32):
            got = predict(workload, encoder_layers(workload, int8=True), target, batch)
            peak = f"INT8 peak {target.peak('int8'):5.1f} TOPS"
            print(f"{mode:5} {peak}, ViT-B/16 INT8 batch {batch:2}: {got.latency_ms:7.2f} ms")


if __name__ == "__main__":
    main()
