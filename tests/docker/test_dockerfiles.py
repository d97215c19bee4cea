"""The images: pinned, not root, no steps of their own, nothing from outside that the ignore file does not let in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, argument) of each, continued lines joined."""
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines]


def values(path: Path, name: str) -> list[str]:
    return [argument for instruction, argument in instructions(path) if instruction == name]


def test_there_are_two() -> None:
    assert [p.name for p in DOCKERFILES] == ["Dockerfile.datacenter", "Dockerfile.jetson"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_the_base_is_pinned_by_digest(path: Path) -> None:
    bases = [*values(path, "FROM"), *(a for a in values(path, "ARG") if a.startswith("BASE="))]
    named = [b for b in bases if "$" not in b]
    assert named
    assert all(re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", base) for base in named)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_the_one_script_does_the_installing(path: Path) -> None:
    (run,) = values(path, "RUN")
    assert run.startswith("/opt/src/scripts/install_device.sh ")
    assert not re.search(r"pip |apt-get|curl|wget|torch", run)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_it_does_not_run_as_root_and_can_be_asked_for_its_health(path: Path) -> None:
    order = [instruction for instruction, _ in instructions(path)]
    assert values(path, "USER") == ["10001"]
    assert order.index("USER") > order.index("RUN")
    assert "--user gpusq:10001" in values(path, "RUN")[0]
    assert "gpusq" in values(path, "HEALTHCHECK")[0]
    assert values(path, "ENTRYPOINT") == ['["gpusq"]']


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_what_it_copies_is_let_in(path: Path) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in values(path, "COPY") for word in line.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_an_exact_tensorrt() -> None:
    arguments = dict(a.split("=", 1) for a in values(ROOT / "docker/Dockerfile.datacenter", "ARG"))
    assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", arguments["TENSORRT"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_actions_are_pinned_by_commit_and_may_do_little(path: Path) -> None:
    text = path.read_text()
    uses = re.findall(r"uses: (\S+)(.*)", text)
    assert uses
    for action, comment in uses:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
    assert "\npermissions:\n  contents: read\n" in text
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")
    assert "pull_request_target" not in text


def test_no_stranger_runs_code_on_our_devices() -> None:
    """Self-hosted runners must not be reached from pull requests."""
    text = (ROOT / ".github/workflows/engines.yml").read_text()
    head = text[: text.index("\njobs:")]
    assert "pull_request" not in head


def test_scripts_that_workflows_run_are_there() -> None:
    named = {name for path in WORKFLOWS for name in re.findall(r"(scripts/[\w.]+\.sh)", path.read_text())}
    assert len(named) >= 6
    assert all((ROOT / name).is_file() for name in named)


def test_the_verdict_waits_for_no_build_job() -> None:
    """`needs: build` would wait in the queue with a job that no runner takes, for a day or two."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/engines.yml").read_text())["jobs"]
    needs = {
        name: [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
        for name, job in jobs.items()
    }
    assert "build" in jobs
    assert [name for name, wanted in needs.items() if "build" in wanted] == []
    assert jobs["verdict"]["if"] == "${{ always() }}"
    assert "verdict" in needs["release"]
    assert "needs.verdict.result == 'success'" in jobs["release"]["if"]


def test_each_job_has_a_limit_and_only_building_is_done_on_devices() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/engines.yml").read_text())["jobs"]
    assert all("timeout-minutes" in job for job in jobs.values())
    assert [name for name, job in jobs.items() if job["runs-on"] != "ubuntu-24.04"] == ["build"]
    assert all("permissions" in jobs[name] for name in ("watch", "verdict", "release"))
