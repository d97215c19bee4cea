"""XML from strangers: elements and text alone. Nothing is expanded, nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from gpusq.data.annotation import read_bytes
from gpusq.errors import AnnotationError

MOST_BYTES = 16 << 20
MOST_DEPTH = 100
DO = "write the file again without a document type and entities"


def read_xml(path: Path) -> Element:
    """The root element of an XML file.

    Raises AnnotationError where the file is no XML, is larger than MOST_BYTES, is nested deeper than MOST_DEPTH, or
    declares a document type: entities, internal (which can grow without bound) or external (which can name any file
    or address), are only possible behind such a declaration.
    """
    content = read_bytes(path, MOST_BYTES)
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MOST_DEPTH:
            raise AnnotationError(f"{path} may be nested {MOST_DEPTH} deep", got=f"<{tag}> below that", do=DO)
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> NoReturn:
        line = parser.CurrentLineNumber
        raise AnnotationError(f"{path}:{line}: annotations may not declare a document type", got="a DOCTYPE", do=DO)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # LookupError: an encoding nobody knows
        raise AnnotationError(f"{path} must be XML", got=str(error), do="mend the file") from error
    return builder.close()
