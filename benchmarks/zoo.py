"""Every model family through every step at a small size: the table of results/zoo.md and docs/zoo.md.

    OMP_NUM_THREADS=1 python benchmarks/zoo.py

The same as `gpusq zoo --out benchmarks/results`, with docs/zoo.md written from the result. --merge takes results of
several runs of one version of gpusq (each family counts once, the last one given), for a machine that is shared.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gpusq.zoo import FAMILIES, FamilyResult, Limits, run_conditions, run_zoo, to_json, to_markdown

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "zoo.md"
INTRODUCTION = """# The model zoo

Every family that gpusq takes, as a small model with fresh weights (some trained for a minute, see below the table),
through the product's own stages: intake, one-shot 2:4 by SparseGPT, post-training INT8, export to ONNX (float32 and
strongly typed FP16, deformable attention by gathers), ONNX Runtime beside PyTorch, and a parse and build by
TensorRT-RTX. It shows that every step takes the family, not how accurate or fast a trained model of it becomes.
Run it: `gpusq zoo`, or one family: `gpusq zoo --family DETR`.

"""


def merged(files: list[Path]) -> list[FamilyResult]:
    """The results of several files in the order of FAMILIES."""
    found: dict[str, FamilyResult] = {}
    for file in files:
        rows = json.loads(file.read_text(encoding="utf-8"))["results"]
        found |= {row["family"]: FamilyResult.from_json(row) for row in rows}
    return [found[family.name] for family in FAMILIES if family.name in found]


def conditions_of(files: list[Path]) -> dict[str, Any]:
    """The version of gpusq that made all of the files, and the dates of each. Exits where the versions differ."""
    stated = [json.loads(file.read_text(encoding="utf-8"))["conditions"] for file in files]
    versions = {str(found.get("gpusq", "not stated")) for found in stated}
    if len(versions) > 1:
        raise SystemExit(f"--merge takes results of one version of gpusq, got {', '.join(sorted(versions))}; run again")
    return {"gpusq": versions.pop(), "date": [found.get("date", "not stated") for found in stated]}


def write(results: list[FamilyResult], conditions: dict[str, Any]) -> None:
    """results/zoo.json, results/zoo.md and docs/zoo.md."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    text = to_markdown(results)
    (RESULTS / "zoo.json").write_text(json.dumps(to_json(results, conditions), indent=1) + "\n", encoding="utf-8")
    (RESULTS / "zoo.md").write_text(f"{stated(conditions)}\n\n{text}", encoding="utf-8")
    PAGE.write_text(INTRODUCTION + text, encoding="utf-8")


def stated(conditions: dict[str, Any]) -> str:
    """The command and its conditions in one line."""
    dates, host = conditions["date"], conditions["host"]
    how = f" ({conditions['how']})" if "how" in conditions else ""
    when = dates if isinstance(dates, str) else ", ".join(dates)
    return f"`{conditions['command']}`{how}; gpusq {conditions['gpusq']}, {host['cpu']}, {host['cores']} cores; {when}."


def main() -> None:
    """Run or merge, then write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--merge", type=Path, nargs="+", help="zoo.json files to merge instead of a run")
    parser.add_argument("--seconds", type=float, default=Limits.seconds)
    given = parser.parse_args()
    conditions: dict[str, Any] = {"command": "python benchmarks/zoo.py", **run_conditions()}
    if given.merge:
        conditions |= conditions_of(given.merge)
        conditions["how"] = f"{len(given.merge)} runs of `gpusq zoo` on a shared machine, of each family the last"
        results = merged(given.merge)
    else:
        results = run_zoo(FAMILIES, Limits(given.seconds), lambda r: print(f"{r.family}: {r.why or 'every step'}"))
    write(results, conditions)
    print(to_markdown(results))


if __name__ == "__main__":
    main()
