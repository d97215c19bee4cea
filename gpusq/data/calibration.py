"""Calibration manifests: text files that say which images set the activation ranges, by id and sha256."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from gpusq.data.imageset import ImageSet, UnreadableImageError, order_by_hash
from gpusq.errors import CalibrationManifestError

FORMAT = "1"
HEADER_LINE = re.compile(r"# (\w+): (.*)")
ENTRY_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
KEYS = ("format", "data", "split", "seed", "n", "command")
NAMED = 5
REDRAW = "draw it again with `gpusq calibration draw`"


@dataclass(frozen=True)
class CalibrationManifest:
    """Which images, and how they were drawn. entries: (sha256, id) in the order of the draw."""

    data: str
    split: str
    seed: int
    entries: tuple[tuple[str, str], ...]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.entries)

    @property
    def command(self) -> str:
        """The command that draws the same images."""
        return f"gpusq calibration draw --data {shlex.quote(self.data)} --images {self.n} --seed {self.seed}"


def draw_manifest(imageset: ImageSet, n: int, seed: int) -> CalibrationManifest:
    """n readable images with different bytes, in an order set by the seed and the ids alone.

    A draw of fewer images with the same seed is the beginning of this one.
    Raises CalibrationManifestError where the set holds fewer than n such images, or n < 1.
    """
    entries: dict[str, str] = {}  # sha256 -> id
    for index in order_by_hash(imageset.ids, seed):
        if len(entries) >= n:
            break
        sha256 = _readable_sha256(imageset, index)
        if sha256 is not None:
            entries.setdefault(sha256, imageset.ids[index])
    if n < 1 or len(entries) < n:
        raise CalibrationManifestError(
            f"{imageset.name} {imageset.split}: cannot draw {n} different readable images",
            got=f"{len(entries)} of {len(imageset)}" if n > 0 else "",
            do="ask for 1 or more images, and no more than there are",
        )
    return CalibrationManifest(imageset.name, imageset.split, seed, tuple(entries.items()))


def _readable_sha256(imageset: ImageSet, index: int) -> str | None:
    try:
        imageset.image(index)
        return imageset.content_sha256(index)
    except UnreadableImageError:
        return None


def write_manifest(manifest: CalibrationManifest, path: Path) -> None:
    """Write the text file: a "# key: value" header, then one "sha256  id" a line. Parents are made."""
    values = ("format", FORMAT), ("data", manifest.data), ("split", manifest.split), ("seed", manifest.seed)
    header = [f"# {key}: {value}" for key, value in (*values, ("n", manifest.n), ("command", manifest.command))]
    lines = [f"{sha256}  {image_id}" for sha256, image_id in manifest.entries]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in header + lines).encode())


def read_manifest(path: Path) -> CalibrationManifest:
    """Parse a manifest. Raises CalibrationManifestError naming the line."""
    try:
        lines = path.read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationManifestError(f"{path} cannot be read", got=str(error), do=REDRAW) from error
    header: dict[str, str] = {}
    entries: list[tuple[str, str]] = []
    for number, raw in enumerate(lines, start=1):
        line = raw.removesuffix("\r")  # a checkout may have changed the line ends
        if line:
            _read_line(path, number, line, header, entries)
    return _manifest_of(path, header, tuple(entries))


def _read_line(path: Path, number: int, line: str, header: dict[str, str], entries: list[tuple[str, str]]) -> None:
    if (found := HEADER_LINE.fullmatch(line)) and found[1] in KEYS and found[1] not in header and not entries:
        header[found[1]] = found[2]
    elif found := ENTRY_LINE.fullmatch(line):
        entries.append((found[1], found[2]))
    else:
        raise CalibrationManifestError(
            f"{path}:{number}: expected `sha256  id`, or above them one `# key: value` each of {', '.join(KEYS)}",
            got=line[:100],
            do=REDRAW,
        )


def _manifest_of(path: Path, header: dict[str, str], entries: tuple[tuple[str, str], ...]) -> CalibrationManifest:
    """The manifest from its parts, after checking that the header is whole and true."""
    problem = ""
    if header.get("format") != FORMAT:
        problem = f"format must be {FORMAT}, got {header.get('format')}"
    elif missing := [key for key in KEYS if key not in header]:
        problem = f"the header lacks {', '.join(missing)}"
    elif not header["seed"].removeprefix("-").isdecimal():
        problem = f"seed must be a whole number, got {header['seed']}"
    elif header["n"] != str(len(entries)) or not entries:
        problem = f"n must be the number of images listed (at least 1), got n {header['n']} and {len(entries)} listed"
    elif len({image_id for _, image_id in entries}) != len(entries):
        problem = "an id is listed twice"
    if problem:
        raise CalibrationManifestError(f"{path}: {problem}", do=REDRAW)
    return CalibrationManifest(header["data"], header["split"], int(header["seed"]), entries)


def load_manifest(path: Path, imageset: ImageSet) -> tuple[int, ...]:
    """Indices in `imageset` of the listed images, in the listed order, after checking their bytes.

    Raises CalibrationManifestError where the file does not parse, the split differs, or images are missing or changed.
    """
    manifest = read_manifest(path)
    if manifest.split != imageset.split:
        raise CalibrationManifestError(
            f"{path} lists images of the {manifest.split} split", got=f"{imageset.name} {imageset.split}", do=REDRAW
        )
    place = {image_id: i for i, image_id in enumerate(imageset.ids)}
    missing = [i for _, i in manifest.entries if i not in place]
    changed = [i for sha256, i in manifest.entries if i in place and _sha256(imageset, place[i]) != sha256]
    if missing or changed:
        raise CalibrationManifestError(
            f"{path} does not match {imageset.name}",
            got=f"{len(missing)} images missing, {len(changed)} changed: {', '.join((missing + changed)[:NAMED])}",
            do=f"use the images it was drawn from ({manifest.data}), or {REDRAW}",
        )
    return tuple(place[i] for _, i in manifest.entries)


def _sha256(imageset: ImageSet, index: int) -> str | None:
    try:
        return imageset.content_sha256(index)
    except UnreadableImageError:
        return None
