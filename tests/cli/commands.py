"""Commands run in this process, as the tests of this room need them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from gpusq.cli.main import app
from tests.chain import tree

ROOT = Path(__file__).resolve().parents[2]


def gpusq(*args: object) -> Result:
    """Run a command; stdout and stderr are kept apart."""
    return CliRunner().invoke(app, [str(a) for a in args])


def gpusq_json(*args: object) -> Any:
    """The JSON document that a command that ends well prints."""
    result = gpusq(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(store: Path, kind: str, code: int, needles: tuple[str, ...], *args: object) -> dict[str, Any]:
    """The command ends with this code and this error in JSON and in words, and the store is as it was."""
    before = tree(store)
    result = gpusq(*args, "--store", store, "--json")
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["exit_code"], result.exit_code) == (kind, code, code), result.output
    assert error["what"]
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith(f"gpusq: {kind}: ")
    for needle in needles:
        assert needle in message
    assert tree(store) == before
    return error


def start(*args: object) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "gpusq", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
