"""Logs of every version are read alike, and no text, however torn, is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.engines.tensorrt import LogFacts, parse_log
from tests.engines.recordings import text

CHOSEN = text("trt10_sparse_chosen.log")


def test_a_log_of_tensorrt_10_counts_and_lists() -> None:
    facts = parse_log([CHOSEN])
    assert (facts.eligible, facts.chosen) == (4, 3)
    assert len(facts.eligible_names) == 4
    assert set(facts.chosen_names) < set(facts.eligible_names)
    assert facts.timing_cache == "local"
    assert (facts.device_mib, facts.errors, facts.device_memory) == (131.0, (), ())
    assert facts.weights_mib == pytest.approx(1771264 / 2**20)


def test_a_log_of_tensorrt_8_lists_without_counting() -> None:
    facts = parse_log([text("trt8_eligible_none_picked.log")])
    assert (facts.eligible, facts.chosen) == (5, 0)
    assert facts.eligible_names == ("Conv_22", "MatMul_51", "MatMul_69", "MatMul_83", "Gemm_725")


def test_counts_stand_without_their_lists() -> None:
    facts = parse_log([text("trt10_found_39_chose_0.log")])
    assert (facts.eligible, facts.chosen, facts.eligible_names) == (39, 0, ())


def test_no_sparsity_line_is_not_zero() -> None:
    facts = parse_log([text("rtx_int8.log")])
    assert (facts.eligible, facts.chosen) == (None, None)
    assert facts.device_mib is not None
    assert facts.activations_mib is not None


def test_memory_that_ran_out_is_found_in_the_lines_that_show_it() -> None:
    facts = parse_log([text("trt10_device_out_of_memory.log")])
    assert len(facts.device_memory) == 2
    assert "15485030400 bytes" in facts.device_memory[1]
    assert len(facts.errors) == 2
    assert facts.host_memory == ()


@pytest.mark.parametrize(
    ("line", "device"),
    [
        ("[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)", True),
        ("Skipping tactic 3 due to insufficient memory on requested size of 68719476736 detected", True),
        ("NvMapMemAllocInternalTagged: 1075072515 error 12", True),
        ("std::bad_alloc", False),
        ("[Autotuner]: Required HOST memory at auto-tuning 3 MB. Available host memory: 9 MB", None),
    ],
)
def test_which_memory_ran_out(line: str, device: bool | None) -> None:
    facts = parse_log([line])
    assert bool(facts.device_memory) is (device is True)
    assert bool(facts.host_memory) is (device is False)


@pytest.mark.parametrize(
    ("lines", "use"),
    [
        (["Local timing cache in use. Profiling results in this builder pass will not be stored."], "local"),
        (["Global timing cache in use. Profiling results in this builder pass will be stored."], "global"),
        (["Timing cache header mismatch: x", "Local timing cache in use."], "refused"),
        (["nothing"], None),
    ],
)
def test_how_the_timing_cache_was_used(lines: list[str], use: str | None) -> None:
    assert parse_log(lines).timing_cache == use


@given(st.integers(0, len(CHOSEN)), st.integers(0, len(CHOSEN)))
def test_a_torn_log_gives_no_more_than_the_whole(start: int, length: int) -> None:
    whole, part = parse_log([CHOSEN]), parse_log([CHOSEN[start : start + length]])
    assert part.eligible in (None, whole.eligible)
    assert part.chosen in (None, whole.chosen)
    assert len(part.eligible_names) <= len(whole.eligible_names)


@given(st.lists(st.text()))
def test_any_text_is_read(messages: list[str]) -> None:
    assert isinstance(parse_log(messages), LogFacts)
