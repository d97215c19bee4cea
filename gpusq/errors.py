"""The exception tree: every refusal says what was expected, what was given and what to do.

GpusqError
|-- UsageError (exit 2)              the command or recipe is wrong
|   |-- RecipeError                  a recipe file, stage or key that is not known or not valid
|   |-- StageOrderError              a stage was given an artifact of a kind it does not take
|   `-- UnknownTargetError           a target, variant or power mode that no target file describes
|-- DataError (exit 3)
|   |-- EmptyDataError               a folder that is missing or holds no images
|   |-- CorruptImagesError           more unreadable images than the tolerance
|   |-- ClassMismatchError           the classes of the data do not match the head of the model
|   |-- TableError                   a table of rows that is empty, mistyped or lacks a column
|   |-- AnnotationError              annotations that do not parse, or do not fit the images beside them
|   `-- CalibrationManifestError     a manifest that does not parse or does not match the data
|-- ModelError (exit 4)
|   |-- UnsupportedModelError        a model that cannot be loaded, rebuilt or traced
|   |-- NonFiniteError               NaN or infinity in a weight, an activation range or a loss
|   `-- PatternError                 a dimension that the n:m pattern does not divide
|-- ArtifactError (exit 5)
|   |-- ArtifactNotFoundError        no artifact answers to this name
|   |-- TamperedArtifactError        bytes that differ from what was sealed
|   `-- NewerSchemaError             written by a newer gpusq than this one
|-- StoreError (exit 6)
|   |-- StoreFullError               no space left, or a write was refused by the file system
|   `-- StoreBusyError               another process holds the store for longer than the wait allows
|-- CheckError (exit 7)              a stage's result broke the stage's own promise; nothing was sealed
|   |-- SparsityCheckError           a pruned layer is not n:m in the file that ships
|   |-- ParityError                  two forms of one model disagree
|   |-- SignatureError               names, shapes or types differ from the frozen signature
|   |-- LintError                    an operator or type that the engine builder refuses
|   |-- SparseShareError             less of the engine runs 2:4 kernels than was required, or it cannot be shown
|   `-- PrecisionError               an engine that runs in another precision than its graph asks for
|-- EngineError (exit 8)             building, loading or running an engine failed
|   |-- BuildMemoryError             the build ran out of memory, of the device or of the host
|   `-- UnsupportedNodeError         a node that the builder cannot parse or has no kernel for
`-- MissingExtraError (exit 9)       an optional library is needed; carries the pip line
"""

from __future__ import annotations

from typing import ClassVar


class GpusqError(Exception):
    """Base of all refusals.

    what: what was expected and did not hold, with the place (file, stage, layer, key).
    got: what was found instead; empty where `what` already says it.
    do: the next step for the user, an imperative sentence.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, got: str = "", do: str = "") -> None:
        self.what, self.got, self.do = what, got, do
        super().__init__("; ".join(p for p in (what, f"got {got}" if got else "", do) if p))

    def to_json(self) -> dict[str, str | int]:
        """The error as one flat object: type, what, got, do, exit_code."""
        return {
            "type": type(self).__name__,
            "what": self.what,
            "got": self.got,
            "do": self.do,
            "exit_code": self.exit_code,
        }


class UsageError(GpusqError):
    """The command line or recipe cannot be carried out as written."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe file, stage or key that is not known or not valid."""


class StageOrderError(UsageError):
    """A stage was given an artifact of a kind it does not take."""


class UnknownTargetError(UsageError):
    """A target, variant or power mode that no target file describes."""


class DataError(GpusqError):
    """The data set cannot be used."""

    exit_code = 3


class EmptyDataError(DataError):
    """A data folder that is missing or holds no images."""


class CorruptImagesError(DataError):
    """More unreadable images than the tolerance."""


class ClassMismatchError(DataError):
    """The classes of the data do not match the head of the model."""


class TableError(DataError):
    """A table of rows that is empty, mistyped or lacks a column; names file, row and column."""


class AnnotationError(DataError):
    """Annotations that do not parse, or do not fit the images beside them."""


class CalibrationManifestError(DataError):
    """A calibration manifest that does not parse or does not match the data."""


class ModelError(GpusqError):
    """The model cannot be used."""

    exit_code = 4


class UnsupportedModelError(ModelError):
    """A model that cannot be loaded, rebuilt or traced."""


class NonFiniteError(ModelError):
    """NaN or infinity in a weight, an activation range or a loss."""


class PatternError(ModelError):
    """A dimension that the n:m pattern does not divide."""


class ArtifactError(GpusqError):
    """An artifact cannot be read."""

    exit_code = 5


class ArtifactNotFoundError(ArtifactError):
    """No artifact answers to this name."""


class TamperedArtifactError(ArtifactError):
    """Bytes that differ from what was sealed."""


class NewerSchemaError(ArtifactError):
    """Written by a newer gpusq than this one."""


class StoreError(GpusqError):
    """The store cannot be written."""

    exit_code = 6


class StoreFullError(StoreError):
    """No space left, or a write was refused by the file system."""


class StoreBusyError(StoreError):
    """Another process holds the store for longer than the wait allows."""


class CheckError(GpusqError):
    """A stage's result broke the stage's own promise; nothing was sealed."""

    exit_code = 7


class SparsityCheckError(CheckError):
    """A pruned layer is not n:m in the file that ships."""


class ParityError(CheckError):
    """Two forms of one model disagree."""


class SignatureError(CheckError):
    """Names, shapes or types differ from the frozen signature."""


class LintError(CheckError):
    """An operator or type that the engine builder refuses."""


class SparseShareError(CheckError):
    """Less of the engine runs 2:4 kernels than was required, or it cannot be shown."""


class PrecisionError(CheckError):
    """An engine that runs in another precision than its graph asks for."""


class EngineError(GpusqError):
    """Building, loading or running an engine failed."""

    exit_code = 8


class BuildMemoryError(EngineError):
    """The build ran out of memory, of the device or of the host."""


class UnsupportedNodeError(EngineError):
    """A node that the builder cannot parse or has no kernel for."""


class MissingExtraError(GpusqError):
    """An optional library is needed for this step."""

    exit_code = 9

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed",
            do=f"in a clone of gpusq run: pip install '.[{extra}]'",
        )
