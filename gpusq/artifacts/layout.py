"""Where a store keeps what: store.json, artifacts/, staging/, checkpoints/, reports/."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass
from pathlib import Path

from gpusq.artifacts.canonical import pretty_json
from gpusq.artifacts.durable import make_directories, replace_file, writing
from gpusq.artifacts.manifest import SCHEMA_VERSION, check_schema
from gpusq.errors import ArtifactError, StoreError

STORE_FILE = "store.json"
FOLDERS = ("artifacts", "staging", "checkpoints", "reports")


@dataclass(frozen=True)
class Layout:
    """The paths below a store's root; knows how to make them and when a directory is not a store."""

    root: Path

    @property
    def artifacts(self) -> Path:
        """<kind>-<key>/ for each sealed artifact."""
        return self.root / "artifacts"

    @property
    def staging(self) -> Path:
        """Work in progress; anything here while nobody holds the lock is a dead owner's."""
        return self.root / "staging"

    @property
    def checkpoints(self) -> Path:
        """<key>/ for each unfinished training."""
        return self.root / "checkpoints"

    @property
    def reports(self) -> Path:
        """<digest>/<name>.json, rows measured or predicted for an artifact."""
        return self.root / "reports"

    def check(self) -> None:
        """Raises NewerSchemaError or StoreError where store.json is there and not of this gpusq."""
        path = self.root / STORE_FILE
        try:
            version = json.loads(path.read_bytes())["schema_version"]
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StoreError(f"{path}: cannot be read", got=str(error.strerror), do="check its permissions") from error
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            mend = json.dumps({"schema_version": SCHEMA_VERSION})
            raise StoreError(
                f"{path}: expected the store's schema", got=str(error), do=f"write {mend} into it"
            ) from error
        check_schema(version, path)

    def prepare(self) -> None:
        """Create root and store.json where missing. Raises StoreError for a directory that is somebody else's.

        The folders below are deleted from, so they must be this store's own and no links.
        """
        self.check()
        with writing(self.root):
            strangers = [folder for folder in FOLDERS if (self.root / folder).exists()]
            if strangers and not (self.root / STORE_FILE).exists():
                raise StoreError(
                    f"{self.root}: expected a store or a new directory",
                    got=f"{', '.join(strangers)} without {STORE_FILE}",
                    do="choose an empty directory for the store",
                )
            links = [folder for folder in FOLDERS if (self.root / folder).is_symlink()]
            if links:
                raise StoreError(
                    f"{self.root}: expected plain directories",
                    got=f"symbolic link {', '.join(links)}",
                    do="move the whole store to the other disk instead",
                )
            make_directories(self.root)
            if not (self.root / STORE_FILE).exists():
                replace_file(self.root / STORE_FILE, pretty_json({"schema_version": SCHEMA_VERSION}))

    def folder(self, path: Path, name: str) -> Path:
        """path/name for a key or digest. Raises ArtifactError unless it is 64 hex digits."""
        if not re.fullmatch(r"[0-9a-f]{64}", name):
            raise ArtifactError("expected a key or digest of 64 hex digits", got=ascii(name)[:80])
        return path / name


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where it is missing."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise StoreError(f"{folder}: cannot be read", got=str(error.strerror), do="check its permissions") from error
