"""Small steps of ci_prepare.sh: the arguments of one engine, and its bundles by target.

ci_bundles.py arguments MATRIX.json NAME       the options of `gpusq compress`, ended by zero bytes
ci_bundles.py collect COMPRESS.json FOLDER     copy each bundle to FOLDER/TARGET/model, its dense twin to .../twin
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROLES = {"model": "model", "dense twin": "twin"}


def arguments(jobs: list[dict[str, Any]], name: str) -> list[str]:
    """Options for the engine of this name; none where there is no such engine."""
    for job in jobs:
        if job["name"] == name:
            found = ["--recipe", job["recipe"], *(part for t in job["targets"] for part in ("--target", t))]
            found += ["--data", job["data"]] if job["data"] else []
            return found + [part for setting in job["settings"] for part in ("--set", setting)]
    return []


def collect(made: list[dict[str, Any]], folder: Path) -> int:
    """Copy the bundles; returns how many."""
    bundles = [artifact for artifact in made if artifact["kind"] == "bundle"]
    for artifact in bundles:
        out = folder / artifact["target"].lower().replace("@", "-") / ROLES[artifact["role"]]
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(artifact["path"], out)
    return len(bundles)


def main(what: str, file: str, last: str) -> None:
    found = json.loads(Path(file).read_text(encoding="utf-8"))
    if what == "arguments":
        sys.stdout.write("".join(part + "\0" for part in arguments(found["include"], last)))
    elif not collect(found["artifacts"], Path(last)):
        sys.exit("collect: no bundle was made; name GPU targets in the matrix")


if __name__ == "__main__":
    main(*sys.argv[1:])
