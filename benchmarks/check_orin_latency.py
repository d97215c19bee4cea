"""Check what the shipped agx-orin.toml says of published Jetson Orin engines, row by row, and by power mode.

    python benchmarks/check_orin_latency.py

Reads no fit: predictions come from the installed target file alone, so this shows what a user gets. The held-out errors
of the same rows are in benchmarks/results/latency_orin.md (benchmarks/fit_latency.py writes it).
"""

from __future__ import annotations

import math

from latency.orin import VIT_B_16, device_of
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
    workload = encoder_workload(*VIT_B_16)
    for mode in MODES:
        target = load_target(f"agx-orin-64gb@{mode}")
        for batch in (1, 32):
            got = predict(workload, encoder_layers(workload, int8=True), target, batch)
            peak = f"INT8 peak {target.peak('int8'):5.1f} TOPS"
            print(f"{mode:5} {peak}, ViT-B/16 INT8 batch {batch:2}: {got.latency_ms:7.2f} ms")


if __name__ == "__main__":
    main()
