"""Batches for a stage: what is skipped is told once, at the end of the pass, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpusq.artifacts import Store
from gpusq.data import open_data
from gpusq.models import load_model
from gpusq.stages.images import batches_of, skipped_note
from gpusq.stages.stage import Context
from tests.chain import CLASSES, image_folder


@pytest.mark.parametrize("broken", [0, 1])
def test_a_pass_ends_with_the_images_it_skipped(tmp_path: Path, broken: int) -> None:
    images = image_folder(tmp_path / "images", each=26)
    if broken:
        (images / "train" / CLASSES[0] / "003.png").write_bytes(b"no picture")
    heard: list[tuple[str, int, int | None, str]] = []
    context = Context(Store(tmp_path / "store"), progress=lambda *told: heard.append(told))
    train = open_data(str(images)).train
    description = load_model("new:vit-test").description
    seen = 0
    for _, batch in batches_of(train, description, range(len(train)), 13, context, "prune: statistics"):
        assert not heard
        seen += len(batch.ids)
    assert seen == 104 - broken
    note = f"1 unreadable image skipped: train/{CLASSES[0]}/003.png"
    assert heard == [("prune: statistics", 104, 104, note)] * broken


def test_a_note_names_the_first_few() -> None:
    assert skipped_note(["a.jpg", "b.jpg"]) == "2 unreadable images skipped: a.jpg, b.jpg"
    assert skipped_note(list("abcd")) == "4 unreadable images skipped: a, b, c, ..."
