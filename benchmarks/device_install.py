"""The device install: size, start times and real engines, from a fresh environment, as a results page.

    .venv/bin/python benchmarks/device_install.py STORE

STORE: a store that `gpusq compress ... --target a100 --target agx-orin` left on a host without GPU. Runs
scripts/test_device_install.sh on it and writes benchmarks/results/device_install.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "benchmarks" / "results" / "device_install.md"


def take(store: Path) -> dict[str, Any]:
    """Run the install test; its figures."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        subprocess.run([str(ROOT / "scripts" / "test_device_install.sh"), str(store), str(figures)], check=True)
        found: dict[str, Any] = json.loads(figures.read_text())
    return found


def page(figures: Mapping[str, Any], date: str) -> str:
    """The results page."""
    size, versions = figures["megabytes"], figures["versions"]
    largest = ", ".join(f"{name} {value}" for name, value in size["largest"].items())
    return "\n".join(
        [
            "# The device side, installed alone",
            "",
            "Command: `benchmarks/device_install.py STORE` (it runs `scripts/test_device_install.sh`).",
            f"Taken {date} on {figures['machine']}, Python {figures['python']}, a shared host without a GPU, "
            f"{figures['cores']} cores, load average {figures['load_average']}.",
            f"Installed with `pip install '.[rtx,gpu]'`: {_listed(versions)}; neither torch, transformers, onnx nor "
            "onnxruntime can be imported.",
            "",
            "| what | figure |",
            "| --- | --- |",
            f"| installed, without pip itself | {size['all']} MB |",
            f"| of it gpusq | {size['gpusq']} MB |",
            f"| the largest parts, MB | {largest} |",
            f"| `python -c pass` | {figures['bare_python_s']} s |",
            f"| `import gpusq` | {figures['import_gpusq_s']} s |",
            f"| `import gpusq.finishing` (what `gpusq build BUNDLE` runs) | {figures['import_finishing_s']} s |",
            f"| `gpusq --help` | {figures['gpusq_help_s']} s |",
            f"| CUDA | {figures['cuda']} |",
            "",
            "Times are the least of five starts, the interpreter included. On a device TensorRT takes the place of",
            "TensorRT-RTX: it comes with JetPack or from its own packages and is not part of these sizes.",
            "",
            "## Engines built there",
            "",
            "Real TensorRT-RTX builds from the bundles of the compressed model and of its dense twin, sealed and",
            "verified; a shortened plan was refused. The time is that of the whole command, both engines.",
            "",
            *[line for engine in figures["engines"] for line in _engine(engine)],
            "",
        ]
    )


def _engine(engine: Mapping[str, Any]) -> list[str]:
    capabilities, size = ", ".join(engine["capabilities"]), f"{engine['plan_bytes']:,} bytes"
    lines = [
        f"- {engine['target']}: compute capability {capabilities}, {size}, {engine['seconds']} s. {engine['status']}."
    ]
    if engine["stand_in"]:
        lines.append(f"  It is {engine['stand_in']}.")
    return lines + [f"  - {line}" for line in engine["layers"]]


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def main() -> None:
    """Take the figures and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    figures = take(parser.parse_args().store)
    PAGE.write_text(page(figures, datetime.now(timezone.utc).strftime("%Y-%m-%d")), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
