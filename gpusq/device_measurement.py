"""Engines on a GPU measured: in turn, under CUDA graphs, at several streams, with clocks, throttling and energy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpusq.errors import EngineError, UsageError
from gpusq.machine import Gpu, Machine, MachineOf, open_machine

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.engines.cuda import Cuda
    from gpusq.engines.device_engine import DeviceEngine
    from gpusq.engines.device_session import Session
    from gpusq.latency import Timing
    from gpusq.latency.clocks import Clocks, Watch
    from gpusq.latency.device_stopwatch import Throughput

STREAMS = (1, 2, 4)
LATENCY_SHARE = 0.6
"""Of the time for one engine and batch; the rest goes to throughput and energy."""

Progress = Callable[[str, int, int | None, str], None]


@dataclass(frozen=True)
class EnergyUse:
    """Energy of one image while one stream is kept busy. how: what it was read from."""

    millijoules_per_image: float
    how: str


@dataclass(frozen=True)
class Measured:
    """One engine at one batch. launched: "CUDA graph", or why there is none. energy: None where nothing tells."""

    name: str
    batch: int
    timing: Timing
    throughput: tuple[Throughput, ...]
    energy: EnergyUse | None
    launched: str
    conditions: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        from dataclasses import asdict

        return asdict(self)


class _Plain:
    """A session whose batch is queued call by call, because it cannot be captured."""

    def __init__(self, session: Session) -> None:
        self.stream, self.launch = session.stream, session.enqueue


def measure(
    engines: Mapping[str, DeviceEngine],
    batches: Sequence[int],
    cuda: Cuda,
    clocks: Clocks,
    *,
    seconds: float = 3.0,
    streams: Sequence[int] = STREAMS,
    progress: Progress,
) -> list[Measured]:
    """Every engine at every batch. seconds: for each engine and batch. Raises EngineError.

    The conditions of a batch are watched over the latencies of all engines, so rows of one batch share them.
    """
    found: list[Measured] = []
    for index, batch in enumerate(batches):
        progress("measure", index, len(batches), f"{len(engines)} engines in turn, batch {batch}")
        found += _at_batch(engines, batch, cuda, clocks, seconds, streams)
    progress("measure", len(batches), len(batches), "done")
    return found


def _at_batch(
    engines: Mapping[str, DeviceEngine],
    batch: int,
    cuda: Cuda,
    clocks: Clocks,
    seconds: float,
    streams: Sequence[int],
) -> list[Measured]:
    from gpusq.latency.clocks import Watch
    from gpusq.latency.device_stopwatch import time_on_device

    with ExitStack() as stack:
        ready = {name: stack.enter_context(_ready(engine, batch)) for name, engine in engines.items()}
        watch = stack.enter_context(Watch(clocks))
        works = {name: work for name, (work, _) in ready.items()}
        timings = time_on_device(works, cuda, batch=batch, max_seconds=LATENCY_SHARE * seconds, look=watch.look)
        watch.look()
        conditions = watch.to_json()
    rest_s = (1 - LATENCY_SHARE) * seconds / max(len(streams), 1)
    found = []
    for name, engine in engines.items():
        throughput, energy = _throughput(engine, batch, cuda, clocks, streams, rest_s)
        found.append(Measured(name, batch, timings[name], throughput, energy, ready[name][1], conditions))
    return found


@contextmanager
def _ready(engine: DeviceEngine, batch: int) -> Iterator[tuple[Any, str]]:
    """(work to launch, how it is launched): a captured graph, or plain calls where capturing fails."""
    from gpusq.engines.device_session import Session

    with Session(engine) as session:
        yield _captured(session, batch)


def _captured(session: Session, batch: int) -> tuple[Any, str]:
    session.prepare(batch)
    try:
        session.capture(batch)
    except EngineError as error:
        return _Plain(session), f"no CUDA graph: {error.got or error.what}"
    return session, "CUDA graph"


def _throughput(
    engine: DeviceEngine, batch: int, cuda: Cuda, clocks: Clocks, streams: Sequence[int], seconds: float
) -> tuple[tuple[Throughput, ...], EnergyUse | None]:
    """Images a second at each number of streams, and the energy of an image at the first of them."""
    from gpusq.latency.clocks import Watch
    from gpusq.latency.device_stopwatch import throughput_of

    found: list[Throughput] = []
    energy: EnergyUse | None = None
    for count in streams:
        with ExitStack() as stack:
            works = [stack.enter_context(_ready(engine, batch))[0] for _ in range(count)]
            watch = stack.enter_context(Watch(clocks))
            found.append(throughput_of(works, cuda, batch=batch, seconds=seconds, look=watch.look))
            watch.look()
        if energy is None:
            energy = _energy(watch, found[-1], batch)
    return tuple(found), energy


def _energy(watch: Watch, run: Throughput, batch: int) -> EnergyUse | None:
    joules = watch.energy_j(run.seconds)
    return None if joules is None else EnergyUse(1e3 * joules[0] / (run.n * batch), joules[1])


def open_on_device(artifact: Artifact, machine_of: MachineOf = open_machine) -> tuple[DeviceEngine, Machine, Gpu]:
    """A sealed device engine, loaded after its bytes and this machine were checked against its seal.

    Raises TamperedArtifactError and, before the library sees a byte, EngineError: for a machine without a device, or
    for another one than it was built for, with the rebuild command.
    """
    from gpusq.engines.compatibility import check_whole, loadable_plan, place_of, rebuild_command, this_machine
    from gpusq.engines.device_engine import DeviceEngine

    check_whole(artifact)
    place = place_of(artifact)
    machine = machine_of(place.builder)
    if machine.gpu is None:
        raise EngineError(
            f"{artifact.path.name} runs on {artifact.manifest.target}: a GPU of compute capability "
            f"{', '.join(place.capabilities)}",
            got=machine.absent,
            do=f"run this on the device, or build for what is here: {rebuild_command(artifact)}",
        )
    plan = loadable_plan(artifact, this_machine(place.builder, machine.trt, machine.gpu.device))
    return DeviceEngine(plan, machine.trt, machine.gpu.cuda), machine, machine.gpu


def bench_on_device(
    engines: Sequence[Artifact], batches: Sequence[int], seconds: float, machine_of: MachineOf = open_machine
) -> dict[str, Any]:
    """Rows (engine, runtime, batch, percentiles, throughput, energy) and the conditions of each batch.

    Raises UsageError for engines of different builders, and what `open_on_device` raises.
    """
    from dataclasses import asdict

    opened = {engine.digest: open_on_device(engine, machine_of) for engine in engines}
    builders = sorted({machine.builder for _, machine, _ in opened.values()})
    if len(builders) > 1:
        raise UsageError("engines that are timed in turn come from one builder", got=", ".join(builders))
    gpu = next(iter(opened.values()))[2]
    loaded = {digest: engine for digest, (engine, _, _) in opened.items()}
    runtimes = {engine.digest: engine.read_json("engine.json")["runtime"] for engine in engines}
    found = measure(loaded, batches, gpu.cuda, gpu.clocks, seconds=seconds, progress=_silent)
    rows = [
        {
            "engine": m.name,
            "runtime": runtimes[m.name],
            "batch": m.batch,
            **asdict(m.timing),
            "streams": [t.to_json() for t in m.throughput],
            "energy": asdict(m.energy) if m.energy else None,
            "launched": m.launched,
            "throttled": m.conditions["throttled"],
        }
        for m in found
    ]
    conditions = {"device": gpu.device.to_json(), "batches": {str(m.batch): m.conditions for m in found}}
    return {"rows": rows, "conditions": conditions, "status": "measured"}


def _silent(what: str, done: int, total: int | None, note: str) -> None:
    """Ignores progress."""
