"""A receipt in the store of the host that wrote the bundles: kept beside them, read back checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq.engines.bundle import FP16
from gpusq.errors import ArtifactError, ArtifactNotFoundError
from gpusq.finishing.receipt_file import Attempted, BuiltEngine, Receipt, open_receipt

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact, Store

PREFIX = "receipt-"


def import_receipt(receipt: Receipt, store: Store) -> list[str]:
    """Keep a receipt beside each bundle that it names; returns their names. The same receipt again changes nothing.

    That of a failed build too, so that reports of the bundle say so.

    Raises ArtifactNotFoundError for a bundle that is not in this store, ArtifactError for one that does not fit.
    """
    held = {artifact.digest: artifact for artifact in store.artifacts()}
    bundles = [_bundle(subject, receipt, held, store) for subject in receipt.subjects]
    for bundle in bundles:
        store.add_report(bundle.digest, name_of(receipt), [receipt.model_dump(mode="json")])
    return [f"bundle-{bundle.digest[:12]}" for bundle in bundles]


def name_of(receipt: Receipt) -> str:
    """Under which the store keeps it."""
    return PREFIX + receipt.sha256[:16]


def receipts_of(bundle: Artifact, store: Store) -> list[Receipt]:
    """The receipts kept beside a bundle, their seals checked again. Raises TamperedArtifactError."""
    kept = store.reports(bundle.digest)
    return [
        open_receipt(entry, f"{store.root}/reports/{bundle.digest}/{name}.json")
        for name, entries in kept.items()
        if name.startswith(PREFIX)
        for entry in entries
    ]


def _bundle(engine: BuiltEngine | Attempted, receipt: Receipt, held: dict[str, Artifact], store: Store) -> Artifact:
    bundle = held.get(engine.bundle)
    if bundle is not None and bundle.kind != "bundle":
        raise ArtifactError(
            "a receipt of a bundle can be imported",
            got=f"one of a {bundle.kind} model that torch-tensorrt built; predictions and receipts hang on bundles",
            do="read it beside its engine (receipt.json), or hold it to limits: gpusq gate FILE",
        )
    if bundle is None:
        raise ArtifactNotFoundError(
            f"the receipt is of the bundle {engine.bundle[:12]}, which must be in the store {store.root}",
            got="no such bundle",
            do="name the store that `gpusq compress` wrote it into: --store DIR",
        )
    graph = bundle.manifest.files.get(FP16)
    if bundle.manifest.target != receipt.target or graph is None or graph.sha256 != engine.onnx_sha256:
        raise ArtifactError(
            f"the receipt must be of the graph and target of {bundle.path.name[:24]}",
            got=f"target {receipt.target}, graph {engine.onnx_sha256[:12]}",
            do="send the receipt again from the device",
        )
    return bundle
