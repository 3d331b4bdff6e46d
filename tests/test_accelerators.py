"""The reader of compiled programs that `benchmarks/accelerators.py` counts with. Nothing is compiled here."""

import runpy
from collections import Counter
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "accelerators.py"))
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
    return TOOL["Program"](PROGRAM.replace("TARGET", target))


def test_launches_are_counted_through_calls_and_free_operations_are_not():
    launched = Counter(program("%state.1").launched())
    assert launched == {"broadcast": 1, "copy": 1, "fusion": 1, "all-reduce": 1, "sort": 1}


def test_a_call_that_a_cpu_compiles_as_one_kernel_is_one_launch():
    small = 'frontend_attributes={inlineable="false",xla_cpu_small_call="true"}'
    text = PROGRAM.replace("to_apply=%called", f"to_apply=%called, {small}").replace("TARGET", "%state.1")
    assert Counter(TOOL["Program"](text).launched())["call"] == 1
    assert Counter(TOOL["Program"](text).launched())["sort"] == 0


@pytest.mark.parametrize(("target", "found"), [("%state.1", 1), ("%zeros", 0)])
def test_a_scatter_into_an_argument_is_seen_through_copies_views_and_fusions(target, found):
    assert program(target).scatters_into_carried() == found


def test_text_without_a_program_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        TOOL["Program"]("")


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
    fields = {**dict.fromkeys(TOOL["Row"].__dataclass_fields__, 0), "chip": chip, "program": "update"}
    fields |= {"estimate_us": 60.0, "kernels": 16, "max_kernels": 16, "max_estimate_us": 60.0}
    assert TOOL["Row"](**fields).violations() == []
    assert TOOL["Row"](**fields | change).violations() == [f"update, compiled for {chip}: {objection}"]
    other = {"H100": "TPU v4", "TPU v5e": "TPU v6e"}[chip]  # compiled for interest, not for the check
    assert TOOL["Row"](**fields | change | {"chip": other}).violations() == []


@pytest.mark.parametrize("chip", ["TPU v5e", "64 x TPU v6e", "1024 x TPU v5p"])
def test_check_objects_to_more_collectives_on_any_number_of_chips(chip):
    fields = {**dict.fromkeys(TOOL["Row"].__dataclass_fields__, 0), "chip": chip, "program": "update"}
    fields |= {"estimate_us": 1.0, "max_estimate_us": 1.0, "max_collectives": 3}
    assert TOOL["Row"](**fields | {"collectives": 3}).violations() == []
    objection = f"update, compiled for {chip}: 4 collectives, allowed 3"
    assert TOOL["Row"](**fields | {"collectives": 4}).violations() == [objection]


def test_programs_without_a_limit_pass():
    fields = {**dict.fromkeys(TOOL["Row"].__dataclass_fields__, None), "program": "pack", "kernels": 99}
    assert all(TOOL["Row"](**fields | {"chip": chip}).violations() == [] for chip in TOOL["CHIPS"])
