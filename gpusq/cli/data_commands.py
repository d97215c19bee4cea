"""`gpusq calibration draw | check` and `gpusq init`: the text files that a user's repository keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpusq.cli.options import Data, Json

Out = Annotated[Path, typer.Option("--out", "-o", help="Manifest file to write.")]
Count = Annotated[int, typer.Option("--images", "-n", min=1, help="Number of images.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the draw.")]
ManifestFile = Annotated[Path, typer.Argument(help="Manifest file.")]
Directory = Annotated[Path, typer.Argument(help="Directory in which export/ and calibration/ are started.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(help="Calibration manifests: which images set the activation ranges.", no_args_is_help=True)
    group.command("draw", help="Draw a manifest (ids and sha256, no images) from the training split.")(draw)
    group.command("check", help="Check that a manifest matches a data set.")(check)
    app.add_typer(group, name="calibration")
    app.command("init", help="Start export/ and calibration/ in your own repository.")(init)


def draw(out: Out, data: Data = "", images: Count = 512, seed: Seed = 0, json: Json = False) -> None:
    """Draw a manifest."""
    from gpusq.cli.output import print_json, print_line, refusals
    from gpusq.errors import UsageError

    with refusals(json):
        from gpusq.data import draw_manifest, open_data, write_manifest

        if not data:
            raise UsageError("calibration draw needs images", do="give --data DIR (or fashion-mnist, digits)")
        manifest = draw_manifest(open_data(data).train, images, seed)
        write_manifest(manifest, out)
        if json:
            print_json({"path": str(out), "images": images, "seed": seed})
        else:
            print_line(f"{images} images listed in {out} (seed {seed})")


def check(manifest: ManifestFile, data: Data = "", json: Json = False) -> None:
    """Check a manifest."""
    from gpusq.cli.output import print_json, print_line, refusals
    from gpusq.errors import UsageError

    with refusals(json):
        from gpusq.data import load_manifest, open_data

        if not data:
            raise UsageError("calibration check needs images", do="give --data DIR (or fashion-mnist, digits)")
        indices = load_manifest(manifest, open_data(data).train)
        if json:
            print_json({"path": str(manifest), "images": len(indices), "matches": True})
        else:
            print_line(f"{manifest}: {len(indices)} images, all present with the same bytes")


def init(directory: Directory = Path(), json: Json = False) -> None:
    """Start a repository."""
    from gpusq.cli.output import print_json, print_line, refusals

    with refusals(json):
        from gpusq.starter import start_repository

        written = start_repository(directory)
        if json:
            print_json({"written": [str(p) for p in written]})
        else:
            for path in written:
                print_line(f"written: {path}")
