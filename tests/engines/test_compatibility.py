"""An engine of another place is refused by its seal, with the rebuild command; the library never sees the plan."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpusq.artifacts import Artifact, Store, artifact_key
from gpusq.engines import compatibility
from gpusq.engines.compatibility import Place, loadable_plan, place_of, registered_plugins
from gpusq.engines.cuda import CudaRuntime
from gpusq.engines.device_engine import DeviceEngine
from gpusq.errors import EngineError, StageOrderError, TamperedArtifactError
from gpusq.finishing.sealing import seal_engine
from tests.engines.fake_device import FakeGpu, classifier, runtime_module, with_device

PLUGINS = ("MultiscaleDeformableAttnPlugin_TRT:1",)
HOME = Place("tensorrt", "10.3.0.30", ("8.7",), "aarch64", PLUGINS)


def bundle_artifact(tmp_path: Path) -> Artifact:
    described: dict[str, Any] = {
        "stage": "build", "stage_version": 1, "params": {}, "parents": (), "inputs": {}, "target": "agx-orin",
        "toolchain": {},
    }  # fmt: skip
    key = artifact_key(**described)
    store = Store(tmp_path / "store")
    with store.lock(), store.staging(key) as staging:
        (staging / "bundle.json").write_text("{}")
        return store.publish(staging, kind="bundle", facts={}, key=key, **described)


def engine(tmp_path: Path, place: Place = HOME, facts: Any = None) -> Artifact:
    return seal_engine(
        tmp_path / "engine",
        {"engine.plan": b"the plan", "engine.json": json.dumps(facts or {"place": place.to_json()}).encode()},
        params={"builder": place.builder},
        parent=bundle_artifact(tmp_path),
        inputs={},
        target="agx-orin",
        toolchain={},
        facts={},
    )


BUILDERS = {"tensorrt": ("10.3.0.30", "10.16.2.10", "11.4.1.2"), "tensorrt-rtx": ("10.3.0.30", "1.7.1.116")}
PLACES = [
    Place(builder, library, (capability,), "aarch64", plugins)
    for builder, libraries in BUILDERS.items()
    for library, capability, plugins in itertools.product(libraries, ("8.7", "8.0", "8.6", "9.0"), (PLUGINS, ()))
]
ELSEWHERE = [place for place in PLACES if place != HOME] + [Place("tensorrt", "10.3.0.30", ("8.7",), "x86_64", PLUGINS)]


def test_there_are_forty_places_that_differ() -> None:
    assert len(ELSEWHERE) == len(set(ELSEWHERE)) == 40


@pytest.mark.parametrize(
    "here", ELSEWHERE, ids=lambda p: f"{p.builder}-{p.library}-{p.capabilities[0]}-{len(p.plugins)}"
)
def test_another_place_is_refused_with_the_rebuild_command_and_nothing_is_deserialized(
    tmp_path: Path, here: Place
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    gpu = FakeGpu()
    module = with_device(trt, gpu, lambda plan: classifier())
    sealed = engine(tmp_path)
    with pytest.raises(EngineError) as refused:
        DeviceEngine(loadable_plan(sealed, here), module, CudaRuntime(runtime_module(gpu)))
    assert module.loaded == []
    assert f"gpusq build bundle-{sealed.manifest.parents[0].digest[:12]}" in refused.value.do
    for ours, theirs in ((HOME.library, here.library), (HOME.capabilities[0], here.capabilities[0])):
        if ours != theirs and HOME.builder == here.builder:
            assert ours in refused.value.got
            assert theirs in refused.value.got


def test_its_own_place_loads_it_and_more_plugins_do_not_matter(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    gpu = FakeGpu()
    module = with_device(trt, gpu, lambda plan: classifier())
    sealed = engine(tmp_path)
    here = Place(HOME.builder, HOME.library, HOME.capabilities, HOME.platform, (*PLUGINS, "Other:2"))
    DeviceEngine(loadable_plan(sealed, here), module, CudaRuntime(runtime_module(gpu)))
    assert module.loaded == [b"the plan"]


def test_an_engine_for_several_capabilities_runs_on_each_of_them(tmp_path: Path) -> None:
    portable = Place("tensorrt-rtx", "1.7.1.116", ("8.0", "8.6"), "x86_64")
    sealed = engine(tmp_path, portable)
    for capability in portable.capabilities:
        here = Place("tensorrt-rtx", "1.7.1.116", (capability,), "x86_64")
        assert loadable_plan(sealed, here) == b"the plan"
    with pytest.raises(EngineError, match="--builder tensorrt-rtx"):
        loadable_plan(sealed, Place("tensorrt-rtx", "1.7.1.116", ("8.9",), "x86_64"))


def test_the_seal_comes_before_the_place(tmp_path: Path) -> None:
    sealed = engine(tmp_path)
    (sealed.path / "engine.plan").write_bytes(b"the Plan")
    with pytest.raises(TamperedArtifactError, match="rebuild"):
        loadable_plan(sealed, HOME)


def test_other_artifacts_and_other_facts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageOrderError):
        loadable_plan(bundle_artifact(tmp_path), HOME)
    with pytest.raises(EngineError, match="where the engine runs"):
        place_of(engine(tmp_path, facts={"place": 3}))
    with pytest.raises(EngineError, match="KeyError"):
        Place.from_json({})


def test_what_a_machine_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    creators = [SimpleNamespace(name="B", plugin_version="2"), SimpleNamespace(name="A", plugin_version="1")]
    trt = SimpleNamespace(__version__="10.3.0.30", get_plugin_registry=lambda: SimpleNamespace(all_creators=creators))
    device = CudaRuntime(runtime_module(FakeGpu(capability=(8, 7)))).device()
    here = compatibility.this_machine("tensorrt", trt, device)
    assert here == Place("tensorrt", "10.3.0.30", ("8.7",), "aarch64", ("A:1", "B:2"))
    assert Place.from_json(json.loads(json.dumps(here.to_json()))) == here
    assert registered_plugins(SimpleNamespace()) == ()
