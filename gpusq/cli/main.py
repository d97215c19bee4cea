"""`gpusq`: the list of commands and how they end.

Exit codes: 0 done; 1 a check found a problem (`verify`, `doctor`, `gate`, `compress --require-ship`); 2 usage, recipe,
stage order or target; 3 data; 4 model; 5 artifact; 6 store; 7 a stage's own check; 8 engine; 9 a library is missing;
70 internal error; 130 interrupted; 141 the output's reader closed it.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from gpusq.cli import (
    artifact_commands,
    compress_command,
    data_commands,
    delivery_commands,
    device_commands,
    latency_commands,
    machine_commands,
    sensitivity_command,
    stage_commands,
    zoo_command,
)
from gpusq.errors import UsageError

EPILOG = (
    "Exit codes: 0 done, 1 a check found a problem, 2 usage, 3 data, 4 model, 5 artifact, 6 store, 7 stage check, "
    "8 engine, 9 missing library, 70 internal error, 130 interrupted, 141 output closed by its reader. "
    "Every command takes --json."
)

app = typer.Typer(
    name="gpusq",
    help="Trained vision transformers to 2:4 sparse INT8 engines for NVIDIA A100 and Jetson AGX Orin, with evidence.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        from gpusq import __version__
        from gpusq.cli.output import print_line

        print_line(f"gpusq {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Trained vision transformers to 2:4 sparse INT8 engines for NVIDIA A100 and Jetson AGX Orin, with evidence."""


compress_command.register(app)
stage_commands.register(app)
sensitivity_command.register(app)
artifact_commands.register(app)
machine_commands.register(app)
latency_commands.register(app)
delivery_commands.register(app)
device_commands.register(app)
data_commands.register(app)
zoo_command.register(app)


def run() -> None:
    """Entry point of the console script.

    Threads of torch that wait do so without spinning, unless OMP_WAIT_POLICY says otherwise: a spinning thread takes
    the core from the one it waits for, which on a busy machine costs far more than waking up does.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported
    if "--json" in sys.argv[1:]:
        _run_for_machines()
    else:
        app()


def _run_for_machines() -> None:
    """The commands with their usage errors as the same JSON object as every other refusal."""
    from gpusq.cli.output import INTERRUPTED, refusals

    # typer brings its own copy of click from 0.16 on; its exceptions are found through a class that it exports
    refused: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

    with refusals(as_json=True):
        try:
            code = app(standalone_mode=False)
        except refused as error:
            tell = getattr(error, "format_message", None)  # names the option too
            got = str(tell() if tell else error)
            raise UsageError(
                "the command line must be one that gpusq understands", got=got, do="see the command's --help"
            ) from error
        except typer.Abort:
            raise SystemExit(INTERRUPTED) from None
    raise SystemExit(code if isinstance(code, int) else 0)
