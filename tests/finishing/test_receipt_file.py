"""The receipt on its way back: what was sealed is read, everything else is refused, twice is once."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpusq.artifacts.canonical import pretty_json
from gpusq.errors import ArtifactError, ArtifactNotFoundError, NewerSchemaError, TamperedArtifactError
from gpusq.finishing import FinishOptions, Receipt, finish, import_receipt, read_receipt, receipts_of, write_receipt
from gpusq.finishing.receipt_file import seal_of, sealed_receipt
from tests.chain import tree
from tests.engines.fake_device import FakeGpu
from tests.finishing.small import Pair, machine_with, make_pair

trt = pytest.importorskip("tensorrt_rtx", reason="the rtx extra builds real engines without a GPU")


@pytest.fixture(scope="module")
def receipt(sealed_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Receipt:
    """Of both engines, "measured" on the stand-in device."""
    options = FinishOptions(tmp_path_factory.mktemp("out") / "engine", builder="tensorrt-rtx", seconds=0.02)
    return finish(sealed_pair.model.path, options, machine_with(trt, FakeGpu(), sealed_pair.plans())).receipt


def resealed(receipt: Receipt, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Another receipt with a seal of its own that fits: only what it says is wrong."""
    fields = receipt.model_dump(mode="json")
    change(fields)
    return pretty_json(fields | {"sha256": seal_of(fields)})


def test_what_was_written_is_read(receipt: Receipt, tmp_path: Path) -> None:
    write_receipt(receipt, tmp_path / "deep/receipt.json")
    assert read_receipt(tmp_path / "deep/receipt.json") == receipt


def test_it_holds_no_engine(receipt: Receipt, tmp_path: Path) -> None:
    write_receipt(receipt, tmp_path / "receipt.json")
    assert (tmp_path / "receipt.json").stat().st_size < sum(engine.plan_bytes for engine in receipt.engines) / 10


@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_bit_and_no_torn_end_goes_unnoticed(receipt: Receipt, tmp_path: Path, seed: int) -> None:
    path = tmp_path / "receipt.json"
    write_receipt(receipt, path)
    whole, draw = path.read_bytes(), random.Random(seed)  # noqa: S311
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        for data in (bytes(damaged), whole[: draw.randrange(len(whole))], whole + b" "):
            path.write_bytes(data)
            with pytest.raises(ArtifactError):
                read_receipt(path)
    path.write_bytes(whole)
    read_receipt(path)


def test_a_faster_row_needs_a_new_seal_and_a_new_seal_needs_rows_of_its_engines(
    receipt: Receipt, tmp_path: Path
) -> None:
    path = tmp_path / "receipt.json"
    fields = receipt.model_dump(mode="json")
    fields["rows"][0]["latency_ms"]["p50"] /= 2
    path.write_bytes(pretty_json(fields))
    with pytest.raises(TamperedArtifactError):
        read_receipt(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["rows"][0]["artifact"].update(digest="0" * 64), "one of its engines"),
        (lambda f: f["rows"][0].update(target="cpu"), "target"),
        (lambda f: f.update(status="not run: no GPU"), "no rows"),
        (lambda f: f.update(status="fine"), "status"),
        (lambda f: f.update(engines=[]), "engines"),
        (lambda f: f.update(extra=1), "extra"),
    ],
)
def test_a_seal_that_fits_does_not_make_nonsense_valid(
    receipt: Receipt, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = tmp_path / "receipt.json"
    path.write_bytes(resealed(receipt, change))
    with pytest.raises(ArtifactError, match=message):
        read_receipt(path)


def test_a_prediction_cannot_travel_as_a_measurement(receipt: Receipt, tmp_path: Path) -> None:
    def predicted(fields: dict[str, Any]) -> None:
        row = fields["rows"][0]
        row["status"] = "predicted"
        row["latency_ms"] = {"p50": 1.0, "low": 0.5, "high": 2.0}

    (tmp_path / "receipt.json").write_bytes(resealed(receipt, predicted))
    with pytest.raises(ArtifactError, match="measured"):
        read_receipt(tmp_path / "receipt.json")


def test_a_newer_schema_is_refused_as_such_before_its_seal(receipt: Receipt, tmp_path: Path) -> None:
    fields = receipt.model_dump(mode="json") | {"schema_version": 2, "new": "field"}
    (tmp_path / "receipt.json").write_bytes(pretty_json(fields))
    with pytest.raises(NewerSchemaError, match="upgrade"):
        read_receipt(tmp_path / "receipt.json")


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"kind": "gpusq-receipt"}']
)
def test_other_files_are_no_receipts(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "receipt.json").write_bytes(text)
    with pytest.raises(ArtifactError):
        read_receipt(tmp_path / "receipt.json")


def test_a_link_and_a_missing_file_are_refused(receipt: Receipt, tmp_path: Path) -> None:
    write_receipt(receipt, tmp_path / "there.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "there.json")
    for name in ("link.json", "nothing.json"):
        with pytest.raises(ArtifactError):
            read_receipt(tmp_path / name)


def test_imported_twice_is_imported_once(receipt: Receipt, pair: Pair) -> None:
    names = import_receipt(receipt, pair.store)
    assert len(names) == 2
    before = tree(pair.store.root)
    assert import_receipt(receipt, pair.store) == names
    assert tree(pair.store.root) == before
    assert receipts_of(pair.model, pair.store) == [receipt] == receipts_of(pair.twin, pair.store)
    assert pair.store.verify_all() == {a.path.name: [] for a in (pair.model, pair.twin)}


def test_a_receipt_of_an_unknown_bundle_is_refused_and_leaves_nothing(receipt: Receipt, tmp_path: Path) -> None:
    other = make_pair(tmp_path / "other", tolerance=0.04)
    before = tree(other.store.root)
    with pytest.raises(ArtifactNotFoundError, match="--store"):
        import_receipt(receipt, other.store)
    assert tree(other.store.root) == before


def test_a_receipt_must_be_of_the_graph_that_the_bundle_holds(receipt: Receipt, pair: Pair) -> None:
    for change in ({"onnx_sha256": "0" * 64}, {"bundle": pair.twin.digest}):
        fields = receipt.model_dump(mode="json", exclude={"sha256"})
        fields["engines"][0] |= change
        with pytest.raises(ArtifactError):
            import_receipt(sealed_receipt(fields), pair.store)
    assert receipts_of(pair.model, pair.store) == []


def test_a_receipt_that_is_changed_in_the_store_is_noticed_when_it_is_read(receipt: Receipt, pair: Pair) -> None:
    import_receipt(receipt, pair.store)
    (path,) = (pair.store.root / "reports" / pair.model.digest).glob("receipt-*.json")
    kept = json.loads(path.read_text())
    kept[0]["rows"][0]["throughput_per_s"] *= 2
    path.write_text(json.dumps(kept))
    with pytest.raises(TamperedArtifactError):
        receipts_of(pair.model, pair.store)
