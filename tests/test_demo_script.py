"""What `make demo` runs, read from its script and its recipe."""

from __future__ import annotations

import re
from pathlib import Path

from gpusq.data import load_manifest, open_data
from gpusq.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = (ROOT / "scripts" / "demo.sh").read_text(encoding="utf-8")


def test_the_demo_writes_both_reports() -> None:
    assert "out=build/demo\n" in SCRIPT
    assert '--report "$out/report.json"' in SCRIPT
    assert '--html "$out/report.html"' in SCRIPT


def test_the_recipe_it_names_is_the_committed_one_and_covers_the_three_targets() -> None:
    (name,) = re.findall(r"--recipe (\S+)", SCRIPT)
    assert load_recipe(ROOT / name).targets == ("cpu", "a100", "agx-orin")


def test_the_fallback_to_digits_names_a_manifest_that_fits_them() -> None:
    (manifest,) = re.findall(r"--set qat\.calibration=(\S+)", SCRIPT)
    assert len(load_manifest(ROOT / manifest, open_data("digits").train)) > 100
