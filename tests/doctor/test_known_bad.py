"""The list reads strictly, each entry says where it comes from, and holds exactly where it should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.doctor.known_bad import Facts, holding, in_range, known_bad, parse_known_bad, waiting_for_model
from gpusq.errors import UsageError

GOOD = """
[[entry]]
id = "some-entry"
what = "something goes wrong"
do = "take another version"
evidence = "one user's measurement"
sources = ["https://example.org/1"]
when = { tensorrt = ">=10.14" }
"""


def ids(**facts: object) -> set[str]:
    packages = facts.pop("packages", {})
    assert isinstance(packages, dict)
    return {entry.id for entry in holding(known_bad(), Facts(packages=packages.get, **facts))}  # type: ignore[arg-type]


def test_every_shipped_entry_has_evidence_and_an_address() -> None:
    assert len(known_bad()) >= 10
    for entry in known_bad():
        assert entry.evidence
        assert entry.do
        assert all(url.startswith("https://") for url in entry.sources)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"tensorrt": "10.16.1.11", "operators": {"GridSample", "Add"}}, {"gridsample-wrong-output"}),
        ({"tensorrt": "11.1.0", "operators": {"GridSample"}}, {"gridsample-wrong-output"}),
        ({"tensorrt": "10.13.3.9", "operators": {"GridSample"}}, set()),
        ({"tensorrt": "10.16.1.11", "operators": {"MatMul"}}, set()),
        ({"tensorrt": None, "operators": {"GridSample"}}, set()),
        ({"tensorrt": "10.13.3.9", "capability": "8.7"}, {"tensorrt-10.13.3-without-sm87"}),
        ({"tensorrt": "10.13.3.9", "capability": "8.0"}, set()),
        ({"tensorrt": "10.13.3.9", "capability": None}, set()),
        ({"tensorrt": "10.16.2.10", "capability": "8.7", "jetson": True, "l4t": "39.2.0"}, set()),
        ({"tensorrt": "10.3.0", "capability": "8.7", "jetson": True, "l4t": "36.4.3"}, set()),
        ({"tensorrt": "11.2.1.2", "jetson": True, "l4t": "39.2.0"}, {"tensorrt-11.0-to-11.4.0-on-jetson"}),
        ({"tensorrt": "11.4.1", "jetson": True, "l4t": "39.3.0"}, set()),
        ({"tensorrt": "11.4.1", "jetson": True, "l4t": "36.4.3"}, {"tensorrt-11-on-jetpack-6"}),
        ({"jetson": True, "packages": {"torch-tensorrt": "2.12.0"}}, {"torch-tensorrt-on-jetson"}),
        ({"jetson": True, "packages": {"torch-tensorrt": "2.8.0"}}, set()),
        ({"jetson": False, "packages": {"torch-tensorrt": "2.12.0"}}, set()),
        ({"tensorrt": "11.1", "packages": {"torch-tensorrt": "2.13.0+cu130"}}, {"torch-tensorrt-2.13-with-11.1"}),
        ({"tensorrt": "11.0.1", "packages": {"torch-tensorrt": "2.13.0"}}, set()),
        (
            {"tensorrt": "11.4", "packages": {"onnxruntime-gpu": "1.26.1"}},
            {"onnxruntime-gpu-before-1.27-with-tensorrt-11"},
        ),
        ({"tensorrt": "11.4", "packages": {"onnxruntime-gpu": "1.27.0"}}, set()),
        ({"packages": {"onnxruntime-gpu": "1.31.1", "onnxruntime": "1.31.1"}}, {"onnxruntime-twice"}),
        ({"packages": {"onnxruntime": "1.31.1"}}, set()),
        (
            {"jetson": True, "l4t": "36.4.3", "packages": {"tensorrt-cu12-libs": "10.3.0"}},
            {"pip-tensorrt-on-jetpack-6"},
        ),
        (
            {"operators": {"NonMaxSuppression"}, "packages": {"tensorrt-rtx-cu13": "1.7.1.116"}},
            {"rtx-nonmaxsuppression"},
        ),
    ],
)
def test_where_an_entry_holds(facts: dict[str, object], expected: set[str]) -> None:
    assert ids(**facts) == expected


def test_entries_about_operators_wait_for_a_model() -> None:
    waiting = {e.id for e in waiting_for_model(known_bad(), Facts(tensorrt="10.16"))}
    assert "gridsample-wrong-output" in waiting
    assert waiting_for_model(known_bad(), Facts(tensorrt="10.16", operators=())) == []
    assert ids(tensorrt="10.16") == set()


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (("tensorrt = ", "tensorrtt = "), "tensorrtt"),
        (('">=10.14"', '"10.14 and later"'), "version range"),
        (('"https://example.org/1"', '"a colleague"'), "sources"),
        (('sources = ["https://example.org/1"]', "sources = []"), "sources"),
        (('{ tensorrt = ">=10.14" }', "{}"), "holds? everywhere|hold everywhere"),
        (('id = "some-entry"', 'id = "Some Entry"'), "id"),
        (("[[entry]]", "[entry]"), "entry"),
        (("[[entry]]", "[[entry]"), "TOML"),
        (('do = "take another version"\n', ""), "do"),
    ],
)
def test_a_list_that_is_not_right_is_refused(change: tuple[str, str], needle: str) -> None:
    with pytest.raises(UsageError, match=needle):
        parse_known_bad(GOOD.replace(*change))


def test_one_id_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="some-entry"):
        parse_known_bad(GOOD + GOOD)


versions = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))


@given(versions, versions)
def test_ranges_split_the_versions(version: str, bound: str) -> None:
    assert in_range(version, f">={bound}") != in_range(version, f"<{bound}")
    assert in_range(version, f"<={bound}") != in_range(version, f">{bound}")
    assert in_range(version, f"=={bound}") == (in_range(version, f">={bound}") and in_range(version, f"<={bound}"))
    assert in_range(version, f"{version}".join((">=", "")))
    assert in_range(version, "")


def test_a_local_part_and_letters_do_not_count() -> None:
    assert in_range("2.13.0+cu130", "==2.13")
    assert in_range("1.27.0rc1", ">=1.27")
    assert not in_range("unknown", ">=1")
