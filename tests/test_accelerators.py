"""The reader of compiled programs that `benchmarks/accelerators.py` counts with. Nothing is compiled here."""

from collections import Counter

import accelerators
import pytest
from accelerators import Row
from chips import CHIPS
from hlo import Program
from workloads import BARE, MONITORED, Workload

PROGRAM = """
HloModule jit_update, is_scheduled=true, entry_computation_layout={(s32[8]{0})->s32[8]{0}}

%add (a.1: s32[], b.1: s32[]) -> s32[] {
  %a.1 = s32[] parameter(0)
  %b.1 = s32[] parameter(1)
  ROOT %sum.1 = s32[] add(%a.1, %b.1)
}

%fused_scatter (p.0: s32[8], p.1: s32[4,1]) -> s32[8] {
  %p.0 = s32[8]{0:T(128)} parameter(0)
  %p.1 = s32[4,1]{1,0} parameter(1)
  %view = s32[8]{0} bitcast(%p.0)
  %one = s32[4]{0} constant({1, 1, 1, 1})
  ROOT %scatter.1 = s32[8]{0} scatter(%view, %p.1, %one), update_window_dims={}, to_apply=%add
}

%called (c.0: s32[8]) -> s32[8] {
  %c.0 = s32[8]{0} parameter(0)
  ROOT %sorted = s32[8]{0} sort(%c.0), dimensions={0}, to_apply=%add
}

ENTRY %main (state.1: s32[8], index.1: s32[4,1]) -> (s32[8], s32[8]) {
  %state.1 = s32[8]{0} parameter(0), metadata={op_name="state(0)"}
  %index.1 = s32[4,1]{1,0} parameter(1)
  %zeros = s32[8]{0} broadcast(s32[] constant(0)), dimensions={}
  %copy-start.1 = (s32[8]{0}, s32[8]{0}, u32[]) copy-start(TARGET)
  %copy-done.1 = s32[8]{0} copy-done(%copy-start.1)
  %counts = s32[8]{0} fusion(%copy-done.1, %index.1), kind=kInput, calls=%fused_scatter, metadata={op_name="add(x)"}
  %all-reduce.1 = s32[8]{0} all-reduce(%counts), replica_groups={}, to_apply=%add
  %keys = s32[8]{0} call(%all-reduce.1), to_apply=%called
  ROOT %out = (s32[8]{0}, s32[8]{0}) tuple(%keys, %counts)
}
"""


def program(target):
    return Program(PROGRAM.replace("TARGET", target))


def test_launches_are_counted_through_calls_and_free_operations_are_not():
    launched = Counter(program("%state.1").launched())
    assert launched == {"broadcast": 1, "copy": 1, "fusion": 1, "all-reduce": 1, "sort": 1}


def test_a_call_that_a_cpu_compiles_as_one_kernel_is_one_launch():
    small = 'frontend_attributes={inlineable="false",xla_cpu_small_call="true"}'
    text = PROGRAM.replace("to_apply=%called", f"to_apply=%called, {small}").replace("TARGET", "%state.1")
    assert Counter(Program(text).launched())["call"] == 1
    assert Counter(Program(text).launched())["sort"] == 0


@pytest.mark.parametrize(("target", "found"), [("%state.1", 1), ("%zeros", 0)])
def test_a_scatter_into_an_argument_is_seen_through_copies_views_and_fusions(target, found):
    assert program(target).scatters_into_carried() == found


def test_text_without_a_program_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        Program("")


@pytest.mark.parametrize(
    ("chip", "change", "objection"),
    [
        ("H100", {"kernels": 17}, "17 kernels, allowed 16"),
        ("TPU v5e", {"while_loops": 1}, "1 while loops, allowed none"),
        ("TPU v5e", {"scatters_into_carried": 2}, "2 scatters into the carried state, allowed none"),
        ("TPU v5e", {"estimate_us": 61.0}, "estimate of 61.0 us, allowed 60"),
        ("TPU v5e", {"estimate_us": None}, "estimate of nan us, allowed 60"),
    ],
)
def test_check_objects_to_what_is_over_budget(chip, change, objection):
    fields = {**dict.fromkeys(Row.__dataclass_fields__, 0), "chip": chip, "program": "update"}
    fields |= {"estimate_us": 60.0, "kernels": 16, "max_kernels": 16, "max_estimate_us": 60.0}
    assert Row(**fields).violations() == []
    assert Row(**fields | change).violations() == [f"update, compiled for {chip}: {objection}"]
    other = {"H100": "TPU v4", "TPU v5e": "TPU v6e"}[chip]  # compiled for interest, not for the check
    assert Row(**fields | change | {"chip": other}).violations() == []


@pytest.mark.parametrize("chip", ["TPU v5e", "64 x TPU v6e", "1024 x TPU v5p"])
def test_check_objects_to_more_collectives_on_any_number_of_chips(chip):
    fields = {**dict.fromkeys(Row.__dataclass_fields__, 0), "chip": chip, "program": "update"}
    fields |= {"estimate_us": 1.0, "max_estimate_us": 1.0, "max_collectives": 3}
    assert Row(**fields | {"collectives": 3}).violations() == []
    objection = f"update, compiled for {chip}: 4 collectives, allowed 3"
    assert Row(**fields | {"collectives": 4}).violations() == [objection]


def test_programs_without_a_limit_pass():
    fields = {**dict.fromkeys(Row.__dataclass_fields__, None), "program": "pack", "kernels": 99}
    assert all(Row(**fields | {"chip": chip}).violations() == [] for chip in CHIPS)


@pytest.mark.parametrize(
    ("seconds", "microseconds"), [(None, None), (0.0, None), (2e-5, 20.0), (-28 + 0.02, 20_000.0), (-1.0, None)]
)
def test_operations_that_an_estimate_knows_nothing_of_are_no_time(seconds, microseconds):
    assert accelerators.estimate(seconds) == pytest.approx(microseconds)


def test_the_monitored_step_is_told_beside_the_bare_one_of_its_chip():
    fields = dict.fromkeys(Row.__dataclass_fields__, 0)
    rows = [
        Row(**fields | {"chip": chip, "program": name, "kernels": kernels, "estimate_us": us})
        for chip, of_bare in (("H100", None), ("TPU v5e", 1000.0))
        for name, kernels, us in ((BARE, 100, of_bare), (MONITORED, 122, of_bare and of_bare + 4.0))
    ]
    more = "22 kernels, 0 collectives more"
    assert list(accelerators.watched(rows)) == [
        f"{MONITORED}, compiled for H100: {more}",
        f"{MONITORED}, compiled for TPU v5e: {more}; 1.0040 x bare by the compiler's estimate",
    ]
    assert list(accelerators.watched(rows[:1])) == []


@pytest.mark.parametrize(
    ("spread", "most", "devices", "is_slice", "runs"),
    [
        (False, 1024, 4, False, True),
        (False, 1024, 64, True, False),
        (True, 1024, 1, False, False),
        (True, 1024, 1024, True, True),
        (True, 64, 1024, True, False),
    ],
)
def test_what_is_spread_is_compiled_where_there_are_chips_enough_and_not_too_many(
    spread, most, devices, is_slice, runs
):
    workload = Workload("update", lambda mesh: None, spread=spread, most_chips=most)
    assert accelerators.runs_on(workload, devices, is_slice) == runs
