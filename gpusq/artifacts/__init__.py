"""Sealed artifacts and the store that keeps them: seal, find, verify, lineage, reports beside the seal.

Light on purpose: pydantic and the standard library; no torch, and filelock only when a lock is taken.
"""

from gpusq.artifacts.artifact import Artifact, open_artifact
from gpusq.artifacts.canonical import canonical_json
from gpusq.artifacts.manifest import MANIFEST_NAME, SCHEMA_VERSION, FileEntry, Manifest, Parent, artifact_key
from gpusq.artifacts.store import Store

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "Artifact",
    "FileEntry",
    "Manifest",
    "Parent",
    "Store",
    "artifact_key",
    "canonical_json",
    "open_artifact",
]
