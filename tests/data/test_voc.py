"""Pascal VOC folders: pairs of image and XML, and XML from strangers."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpusq.data import BoxSet, DataSpec, open_data
from gpusq.data.safe_xml import MOST_DEPTH, read_xml
from gpusq.data.voc import read_voc
from gpusq.errors import AnnotationError, ClassMismatchError, EmptyDataError
from tests.data.box_samples import SIZES, voc_folder, voc_part, voc_xml, write_images

GOOD = voc_xml([("cat", (1, 2, 5, 6))], "a.png", (12, 10))


def opened(root: Path) -> DataSpec:
    return open_data(f"voc:{root}")


def boxes_of(data: DataSpec, own: str) -> list[list[float]]:
    for part in (data.train, data.test):
        if own in part.ids:
            assert isinstance(part, BoxSet)
            found: list[list[float]] = part.boxes(part.ids.index(own)).xyxy().round(3).tolist()
            return found
    raise AssertionError(own)


def test_a_folder_with_both_splits_is_opened(tmp_path: Path) -> None:
    data = opened(voc_folder(tmp_path / "pets"))
    assert (data.name, len(data.train), len(data.test), data.train.classes) == ("pets", 6, 3, ("cat", "dog"))
    assert isinstance(data.test, BoxSet)
    assert data.test.supervised
    assert boxes_of(data, "test/0.png") == []
    assert boxes_of(data, "test/2.png") == [[0, 1, 3, 5], [1, 1, 4, 6]]
    two = data.test.boxes(data.test.ids.index("test/2.png"))
    assert (two.classes.tolist(), two.size) == ([0, 1], SIZES[2])


def test_one_folder_is_split_by_the_ids(tmp_path: Path) -> None:
    data = opened(voc_part(tmp_path, count=30))
    assert len(data.train) + len(data.test) == 30
    assert 0 < len(data.test) < 15


def test_xml_finds_its_image_by_name_then_by_stem_then_anywhere(tmp_path: Path) -> None:
    voc_part(tmp_path / "test", count=2)
    write_images(tmp_path / "train", ["named.png", "stem.png", "JPEGImages/far.png"])
    for place, named in (("x.xml", "named.png"), ("stem.xml", "stem.tif"), ("Annotations/far.xml", "elsewhere.jpg")):
        path = tmp_path / "train" / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(voc_xml([("cat", (0, 0, 2, 2))], named))
    assert len(opened(tmp_path).train) == 3


def test_a_class_file_sets_the_order(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("bird\ndog\n\ncat\n")
    data = opened(tmp_path)
    assert data.train.classes == data.test.classes == ("bird", "dog", "cat")
    assert isinstance(data.test, BoxSet)
    assert data.test.boxes(data.test.ids.index("test/2.png")).classes.tolist() == [2, 1]


def test_difficult_objects_are_crowds(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    path = tmp_path / "test" / "1.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    test = opened(tmp_path).test
    assert isinstance(test, BoxSet)
    assert test.boxes(test.ids.index("test/1.png")).crowd.tolist() == [True]


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_a_size_that_is_not_given_is_read_from_the_image(tmp_path: Path, size: tuple[int, int] | None) -> None:
    voc_folder(tmp_path)
    (tmp_path / "test" / "1.xml").write_text(voc_xml([("cat", (25, 15, 30, 20))], "1.png", size))
    assert boxes_of(opened(tmp_path), "test/1.png") == [[25, 15, 30, 20]]


def test_parts_of_objects_are_no_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>"
    path = tmp_path / "x.xml"
    path.write_text(GOOD.replace("</object>", f"{part}</object>"))
    assert [found.name for found in read_voc(path).objects] == ["cat"]


def test_images_without_any_xml_are_unlabelled(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{i}.png" for i in range(10)])
    data = opened(tmp_path)
    assert not data.train.supervised
    assert data.train.classes == ()
    assert len(data.train) + len(data.test) == 10


# ---- refusals ----


def test_images_without_xml_are_refused_with_count_and_names(tmp_path: Path) -> None:
    voc_folder(tmp_path, train=9)
    for i in range(1, 8):
        (tmp_path / "train" / f"{i}.xml").unlink()
    with pytest.raises(
        AnnotationError, match=r"each of the 12 images must have an XML file.*got 7: .*1\.png, .*\.\.\."
    ):
        opened(tmp_path)


def test_xml_without_an_image_is_refused_with_its_name(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    (tmp_path / "train" / "3.png").unlink()
    with pytest.raises(AnnotationError, match=r"annotations without an image; got 1: .*3\.xml"):
        opened(tmp_path)


def test_two_xml_files_for_one_image_are_refused(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    (tmp_path / "train" / "z.xml").write_text(voc_xml([], "3.png"))
    with pytest.raises(AnnotationError, match=r"3\.png must have one XML file; got .*3\.xml and .*z\.xml"):
        opened(tmp_path)


def test_a_name_that_could_mean_two_images_is_refused(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    write_images(tmp_path / "train", ["a/far.png", "b/far.png"])
    (tmp_path / "train" / "far.xml").write_text(voc_xml([]))
    with pytest.raises(AnnotationError, match=r"without an image; got 1: .*far\.xml"):
        opened(tmp_path)


def test_a_class_that_train_does_not_have_is_refused(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    (tmp_path / "test" / "1.xml").write_text(voc_xml([("cat", (0, 0, 1, 1)), ("bird", (0, 0, 1, 1))], "1.png"))
    with pytest.raises(ClassMismatchError, match=r"1\.xml: object 2 \(bird\).*got 'bird', not among 2: cat, dog"):
        opened(tmp_path)


@pytest.mark.parametrize("content", [b"", b"cat\ncat\n", b"\xff\xfe"])
def test_class_files_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    voc_folder(tmp_path)
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(AnnotationError, match=r"classes\.txt"):
        opened(tmp_path)


def test_boxes_outside_are_refused_by_name(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    (tmp_path / "test" / "1.xml").write_text(voc_xml([("cat", (31, 0, 40, 5))], "1.png", SIZES[1]))
    with pytest.raises(AnnotationError, match=r"got 1 of 3: .*1\.xml: object 1 \(cat\) \[31, 0, 40, 5\] on 30x20"):
        opened(tmp_path)


@pytest.mark.parametrize("have", ["train", "val"])
def test_one_split_alone_is_refused(tmp_path: Path, have: str) -> None:
    voc_part(tmp_path / have)
    with pytest.raises(EmptyDataError, match=rf"must hold train/ and one of val, .*got only .*{have}"):
        opened(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError, match="holds no images"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", "must be XML"),
        ("<annotation>", "", "must be XML"),
        ("annotation>", "html>", "outermost element must be <annotation>; got <html>"),
        ("<name>cat</name>", "", r"object 1 must have a <name> and a <bndbox>; got no name"),
        ("bndbox>", "box>", r"object 1 must have a <name> and a <bndbox>; got cat"),
        ("<xmin>1</xmin>", "", r"object 1 \(cat\): <xmin> must be a finite number; got ''"),
        ("<xmin>1", "<xmin>nan", "<xmin> must be a finite number"),
        ("<xmin>1", "<xmin>left", "finite number; got 'left'"),
        ("<xmax>5", "<xmax>0", "xmax and ymax must not be below xmin and ymin; got 1, 2, 0, 6"),
        ("<difficult>0", "<difficult>very", "<difficult> must be 0 or 1; got very"),
        ("<width>10", "<width>wide", "size must be a finite number; got 'wide'"),
        ("<width>10", "<width>-10", "size must be a whole number from 0"),
    ],
)
def test_damaged_files_are_refused_with_the_object(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    (tmp_path / "x.xml").write_text(GOOD.replace(old, new))
    with pytest.raises(AnnotationError, match=message) as caught:
        read_voc(tmp_path / "x.xml")
    assert "x.xml" in caught.value.what


# ---- XML from strangers ----

LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
ATTACKS = {
    "billion-laughs": f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation>&l9;</annotation>',
    "quadratic": f'<!DOCTYPE a [<!ENTITY x "{"x" * 10_000}">]><annotation>{"&x;" * 1000}</annotation>',
    "a-file": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
    "an-address": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><annotation/>',
    "parameter": '<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]><annotation/>',
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_document_types_are_refused_before_anything_is_expanded(tmp_path: Path, attack: str) -> None:
    (tmp_path / "x.xml").write_text(f'<?xml version="1.0"?>\n{ATTACKS[attack]}')
    with pytest.raises(AnnotationError, match=r"x\.xml:2: annotations may not declare a document type"):
        read_xml(tmp_path / "x.xml")


def test_unknown_entities_and_encodings_are_refused(tmp_path: Path) -> None:
    for text in ("<a>&x;</a>", '<?xml version="1.0" encoding="no-such"?><a/>', "<a/><b/>"):
        (tmp_path / "x.xml").write_text(text)
        with pytest.raises(AnnotationError, match="must be XML"):
            read_xml(tmp_path / "x.xml")


def test_deep_and_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.xml").write_text("<a>" * (MOST_DEPTH + 1) + "</a>" * (MOST_DEPTH + 1))
    with pytest.raises(AnnotationError, match="nested"):
        read_xml(tmp_path / "x.xml")
    monkeypatch.setattr("gpusq.data.safe_xml.MOST_BYTES", 10)
    with pytest.raises(AnnotationError, match="at most 10 bytes"):
        read_xml(tmp_path / "x.xml")


def test_text_and_other_encodings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_bytes('<?xml version="1.0" encoding="latin-1"?><a><b>n\xe9e &amp; co</b></a>'.encode("latin-1"))
    assert read_xml(path).findtext("b") == "née & co"
