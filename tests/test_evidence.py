"""The numbers of an artifact: labelled, repeatable, taken from the artifact itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq import measurement
from gpusq.artifacts import Store
from gpusq.data import open_data
from gpusq.errors import CheckError, NonFiniteError, StageOrderError, TamperedArtifactError
from gpusq.evidence import BATCHES, BUNDLE_ACCURACY, layer_times, measured_rows, rows_of
from gpusq.scoring import accuracy_of, predictor_of
from gpusq.stages.images import batches_in, loader_of
from gpusq.targets import load_target
from tests.chain import CLASSES, Chain, image_folder, quick_timings


@pytest.fixture
def store(chain: Chain, tmp_path: Path) -> Store:
    """A copy of the finished run's store."""
    return chain.copy(tmp_path / "store")


def without_evidence(store: Store) -> Store:
    """The store with all its reports removed."""
    import shutil

    shutil.rmtree(store.root / "reports")
    return store


def labels_of(chain: Chain, store: Store) -> list[int | None]:
    test = chain.context(store).images("test").test
    return [test.label(i) for i in range(len(test))]


@pytest.mark.parametrize("stage", ["intake", "prune", "qat", "export", "build"])
def test_accuracy_is_that_of_running_the_artifact(chain: Chain, store: Store, stage: str) -> None:
    artifact = chain.artifact(stage, target="cpu" if stage == "build" else None)
    found = accuracy_of(artifact, chain.context(without_evidence(store)))
    assert found is not None
    images, labels = [], labels_of(chain, store)
    loader = loader_of(chain.context(store).images("test").test, artifact.read_json("model.json"))
    for _, batch in batches_in(loader, range(len(labels)), 5):
        images.append(batch.pixel_values)
    how, run = predictor_of(artifact)
    expected = float((run(np.concatenate(images))["logits"].argmax(axis=1) == np.array(labels)).mean())
    assert (found.value, found.n, found.metric, found.how) == (expected, len(labels), "top1", how)


class Listener:
    """Keeps the notes of a progress."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, int, int | None, str]] = []

    def __call__(self, what: str, done: int, total: int | None, note: str) -> None:
        self.notes.append((what, done, total, note))


def test_accuracy_says_how_many_images_could_not_be_read(chain: Chain, store: Store, tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", each=204)  # 204 for the test
    broken = [f"val/{CLASSES[0]}/{i:03d}.png" for i in (1, 2)]
    for name in broken:
        (images / name).write_bytes(b"no picture")
    heard = Listener()
    found = accuracy_of(chain.artifact("intake"), chain.context(store, data=open_data(str(images)), progress=heard))
    assert found is not None
    assert (found.n, found.split) == (202, "images test, 2 unreadable images skipped")
    what, done, total, note = heard.notes[-1]
    assert (what, done, total) == ("accuracy of dense", 204, 204)
    assert note in [f"2 unreadable images skipped: {', '.join(names)}" for names in (broken, broken[::-1])]


def test_an_artifact_whose_logits_are_not_finite_has_no_accuracy(
    chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpusq import scoring

    broken = lambda pixels: {"logits": np.full((len(pixels), 4), np.nan, np.float32)}  # noqa: E731
    monkeypatch.setattr(scoring, "predictor_of", lambda _: ("PyTorch", broken))
    with pytest.raises(NonFiniteError, match="logits"):
        accuracy_of(chain.artifact("intake"), chain.context(without_evidence(store)))


def test_accuracy_is_taken_once(chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpusq import scoring

    context = chain.context(without_evidence(store))
    first = accuracy_of(chain.artifact("intake"), context)
    monkeypatch.setattr(scoring, "predictor_of", lambda _: pytest.fail("run a second time"))
    assert accuracy_of(chain.artifact("intake"), context) == first


def test_a_bundle_says_that_its_engine_was_not_run(chain: Chain, store: Store) -> None:
    bundle = chain.artifact("build", target="a100-40gb")
    rows = rows_of(bundle, load_target("a100"), chain.context(store))
    onnx = accuracy_of(chain.artifact("export"), chain.context(store))
    assert onnx is not None
    assert all(r.accuracy and (r.accuracy.value, r.accuracy.how) == (onnx.value, BUNDLE_ACCURACY) for r in rows)
    assert all(r.status == "predicted" for r in rows)
    with pytest.raises(CheckError, match="bundle"):
        predictor_of(bundle)


def test_without_images_there_is_no_new_accuracy(chain: Chain, store: Store) -> None:
    context = chain.context(without_evidence(store), data=None)
    rows = rows_of(chain.artifact("prune"), load_target("agx-orin"), context)
    assert [r.accuracy for r in rows] == [None] * len(BATCHES)


@pytest.mark.parametrize("target", ["a100", "a100-80gb", "agx-orin", "agx-orin-32gb", "cpu"])
def test_predictions_are_ordered_and_carry_their_conditions(chain: Chain, store: Store, target: str) -> None:
    found = load_target(target)
    rows = rows_of(chain.artifact("qat"), found, chain.context(store))
    latencies = [r.latency_ms.p50 for r in rows]
    assert latencies == sorted(latencies)
    for row, batch in zip(rows, BATCHES, strict=True):
        assert row.batch == batch
        assert row.latency_ms.low is not None
        assert row.latency_ms.high is not None
        assert row.latency_ms.low <= row.latency_ms.p50 <= row.latency_ms.high
        assert row.throughput_per_s == pytest.approx(1e3 * batch / row.latency_ms.p50)
        assert row.conditions.device == found.title
        assert row.conditions.power_mode == found.power_mode
        assert row.target == found.name


def test_layer_times_are_shares_of_one_whole(chain: Chain) -> None:
    times = layer_times(chain.artifact("build", target="a100-40gb"), load_target("a100"), 8)
    assert sum(t.share for t in times) == pytest.approx(1, abs=1e-3)
    assert {t.batch for t in times} == {8}


def engines(chain: Chain) -> list[Any]:
    return [chain.artifact("build", role, "cpu") for role in ("model", "dense twin")]


def test_engines_are_measured_in_turn_and_once(chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real: Callable[..., Any] = measurement.time_engines

    def count(found: Any, batch: int, *args: Any, **named: Any) -> Any:
        calls.append(batch)
        assert len(found) == 2
        return real(found, batch, *args, **named)

    monkeypatch.setattr(measurement, "time_engines", count)
    context = chain.context(without_evidence(store))
    with quick_timings():
        first = measured_rows(engines(chain), load_target("cpu"), context)
        again = measured_rows(engines(chain), load_target("cpu"), context)
    assert calls == list(BATCHES)
    assert first == again
    for row in first:
        assert row.status == "measured"
        assert row.latency_ms.n is not None
        assert row.latency_ms.n >= measurement.MIN_REPEATS
        assert row.latency_ms.warmup == measurement.WARMUP
        assert row.runtime == "onnxruntime"
        assert row.conditions.libraries["onnxruntime"] != "unknown"


def test_only_a_whole_engine_is_opened(chain: Chain, store: Store) -> None:
    with pytest.raises(StageOrderError, match="onnx"):
        measurement.open_engine(chain.artifact("export"))
    engine = store.resolve(engines(chain)[0].digest)
    (engine.path / "extra.so").write_bytes(b"x")
    with pytest.raises(TamperedArtifactError, match=r"extra: extra\.so"):
        measurement.open_engine(engine)


def test_samples_are_repeated_to_the_batch(chain: Chain) -> None:
    engine = engines(chain)[0]
    four, nine = measurement.sample_batch(engine, 4), measurement.sample_batch(engine, 9)
    assert nine.shape == (9, *four.shape[1:])
    assert np.array_equal(nine[:4], four)
    assert np.array_equal(nine[4:8], four)
