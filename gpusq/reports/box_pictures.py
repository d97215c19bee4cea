"""Boxes of several detectors and the truth side by side: as SVG for the report page, as PNG to keep.

Scores are drawn in percent. The SVG holds its image (JPEG, as a data URI), loads nothing and runs nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpusq.errors import MissingExtraError
from gpusq.reports.box_panels import Found, Mark, Panel, Pixels, Truth, alt_text, rows_of_panels

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

PANEL = 360  # width of a panel in the picture's own units
TITLE, GAP, FONT = 22, 8, 11
SHARPEST = 2 * PANEL  # pixels a side beyond which an image is made smaller before it is embedded
QUALITY = 88
INK, PAPER = "#1c2129", "#ffffff"
SHADE = "#000000"  # under the coloured lines, so that they show on any ground


def box_pictures(
    images: Sequence[Pixels],
    named_detections: Mapping[str, Sequence[Found]],
    targets: Sequence[Truth],
    threshold: float,
    classes: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> list[str]:
    """One `<svg>` element for each image: a panel for each detector, then the ground truth.

    named_detections: e.g. {"dense": [...], "2:4 INT8": [...]}, one entry an image. threshold: scores below are not
    drawn. classes: names; with one class alone only scores are written. captions: begin the alternative texts. All
    text is escaped, so the result can be put into HTML as it is. Equal input gives equal text with the same Pillow.
    Raises DataError (see rows_of_panels), MissingExtraError without Pillow.
    """
    rows = rows_of_panels(images, named_detections, targets, threshold, classes)
    return [
        _svg(image, panels, alt_text(panels, captions[i] if i < len(captions) else ""))
        for i, (image, panels) in enumerate(zip(images, rows, strict=True))
    ]


def draw_png(
    images: Sequence[Pixels],
    named_detections: Mapping[str, Sequence[Found]],
    targets: Sequence[Truth],
    threshold: float,
    classes: Sequence[str] = (),
) -> bytes:
    """The same pictures below each other as the bytes of one PNG file; at least one image. Errors as box_pictures."""
    image_module, draw_module = _pillow("Image"), _pillow("ImageDraw")
    rows = rows_of_panels(images, named_detections, targets, threshold, classes)
    heights = [_panel_height(image) + TITLE + GAP for image in images]
    across = max((len(panels) for panels in rows), default=1)
    sheet = image_module.new("RGB", (across * (PANEL + GAP) - GAP, max(1, sum(heights))), PAPER)
    top = 0
    for image, panels, height in zip(images, rows, heights, strict=True):
        photo = image_module.fromarray(image).resize((PANEL, _panel_height(image)), image_module.Resampling.BICUBIC)
        for column, panel in enumerate(panels):
            _draw_panel(sheet, draw_module.Draw(sheet), photo, panel, column * (PANEL + GAP), top)
        top += height
    return _encoded(sheet, "PNG", optimize=True)


def _pillow(module: str) -> Any:
    try:
        import importlib

        return importlib.import_module(f"PIL.{module}")
    except ImportError as error:
        raise MissingExtraError("pillow", "host", "drawing boxes on images") from error


def _panel_height(image: Pixels) -> int:
    shape: tuple[int, ...] = image.shape
    return max(1, round(PANEL * shape[0] / shape[1]))


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# ---- SVG ----


def _svg(image: Pixels, panels: Sequence[Panel], alt: str) -> str:
    height = _panel_height(image)
    width, tall = len(panels) * (PANEL + GAP) - GAP, height + TITLE
    data = _jpeg(image)
    name = f"photo-{hashlib.sha256(data).hexdigest()[:16]}"  # several pictures share one page
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    words = html.escape(alt)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {tall}" width="100%" role="img" '
        f'aria-label="{words}" font-family="sans-serif"><title>{words}</title>',
        f'<defs><image id="{name}" width="{PANEL}" height="{height}" preserveAspectRatio="none" '
        f'href="{source}"/></defs>',
        *(_svg_panel(panel, name, column * (PANEL + GAP), height) for column, panel in enumerate(panels)),
        "</svg>",
    ]
    return "\n".join(parts)


def _jpeg(image: Pixels) -> bytes:
    module = _pillow("Image")
    photo = module.fromarray(image)
    photo.thumbnail((SHARPEST, SHARPEST))
    return _encoded(photo, "JPEG", quality=QUALITY)


def _svg_panel(panel: Panel, photo: str, left: int, height: int) -> str:
    marks = "".join(_svg_mark(mark, panel.colour, height) for mark in panel.marks)
    return (
        f'<text x="{left}" y="{TITLE - 7}" font-size="13" fill="currentColor">{html.escape(panel.title)}</text>'
        f'<g transform="translate({left} {TITLE})"><use href="#{photo}"/>{marks}</g>'
    )


def _svg_mark(mark: Mark, colour: str, height: int) -> str:
    x, y = mark.x0 * PANEL, mark.y0 * height
    place = (
        f'x="{x:.1f}" y="{y:.1f}" width="{(mark.x1 - mark.x0) * PANEL:.1f}" height="{(mark.y1 - mark.y0) * height:.1f}"'
    )
    broken = ' stroke-dasharray="4 3"' if mark.ignored else ""
    rectangles = "".join(
        f'<rect {place} fill="none" stroke="{stroke}" stroke-width="{wide}"{broken}/>'
        for stroke, wide in ((SHADE, 3), (colour, 1.5))
    )
    if not mark.label:
        return rectangles
    text = f'x="{x + 2:.1f}" y="{max(FONT, y - 2):.1f}" font-size="{FONT}" paint-order="stroke" stroke="{SHADE}"'
    return f'{rectangles}<text {text} stroke-width="2" fill="{colour}">{html.escape(mark.label)}</text>'


# ---- PNG ----


def _draw_panel(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, photo: Image.Image, panel: Panel, left: int, top: int
) -> None:
    fonts = _pillow("ImageFont")
    draw.text((left, top + 4), panel.title, fill=INK, font=fonts.load_default(13))
    sheet.paste(photo, (left, top + TITLE))
    width, height = photo.size
    for mark in panel.marks:
        x0, x1 = (left + share * (width - 1) for share in (mark.x0, mark.x1))
        y0, y1 = (top + TITLE + share * (height - 1) for share in (mark.y0, mark.y1))
        if mark.ignored:
            _broken_rectangle(draw, (x0, y0, x1, y1), panel.colour)
            continue
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=SHADE)
        draw.rectangle((x0, y0, x1, y1), outline=panel.colour, width=2)
        if mark.label:
            place = (x0 + 3, max(top + TITLE + 1, y0 - FONT - 3))
            draw.rectangle(draw.textbbox(place, mark.label, font=fonts.load_default(FONT)), fill=SHADE)
            draw.text(place, mark.label, fill=panel.colour, font=fonts.load_default(FONT))


def _broken_rectangle(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: str) -> None:
    x0, y0, x1, y1 = box
    for start in range(int(x0), int(x1) + 1, 7):
        for y in (y0, y1):
            draw.line((start, y, min(start + 3, x1), y), fill=colour)
    for start in range(int(y0), int(y1) + 1, 7):
        for x in (x0, x1):
            draw.line((x, start, x, min(start + 3, y1)), fill=colour)
