"""Reading a compiled program: what it launches, copies and sends, counted in the text that XLA prints of it.

Instructions, and which computations they call, are all that is read; nothing is timed.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple


class Instruction(NamedTuple):
    """One line of an HLO computation."""

    name: str
    opcode: str
    operands: tuple[str, ...]
    called: tuple[str, ...]  # computations: of a fusion, a loop, a call
    index: int  # of a parameter, or of the element that get-tuple-element takes
    is_kernel: bool = False  # a call that a CPU runs as one kernel


Computation = dict[str, Instruction]

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|\w+_computations)=\{?([^,}\s]+(?:, ?%[^,}\s]+)*)")
_INDEX = re.compile(r"\bindex=(\d+)")

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
COLLECTIVES = {"all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"}
VIEWS = {"bitcast", "copy", "copy-start", "copy-done", "reshape", "transpose", "convert", "optimization-barrier"}


class Program:
    """The computations of an HLO module in text form, after optimization."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.callers: dict[str, list[tuple[str, Instruction]]] = {}  # computation -> who calls it, from where
        self.entry = ""
        current: Computation = {}
        for line in text.splitlines():
            if head := _HEAD.match(line):
                current = self.computations.setdefault(head[2], {})
                self.entry = head[2] if head[1] else self.entry
            elif (match := _LINE.match(line)) and (instruction := _parse(match[1], match[2])):
                current[instruction.name] = instruction
        for where, computation in self.computations.items():
            for instruction in computation.values():
                for callee in instruction.called:
                    self.callers.setdefault(callee, []).append((where, instruction))
        if not self.entry:
            raise ValueError("text: no ENTRY computation found; is it the output of compiled.as_text()?")

    def launched(self, computation: str | None = None) -> Iterator[str]:
        """Opcodes of what the entry computation runs, through calls, one for each instruction that costs a launch."""
        for instruction in self.computations[computation or self.entry].values():
            opcode = instruction.opcode.removesuffix("-start")
            if opcode == "call" and not instruction.is_kernel:
                for callee in instruction.called:
                    yield from self.launched(callee)
            elif opcode == "async":
                yield "fusion"
            elif opcode not in FREE and not opcode.endswith("-done"):
                yield opcode

    def count(self, *opcodes: str) -> int:
        """How often these occur anywhere in the program."""
        return sum(i.opcode in opcodes for computation in self.computations.values() for i in computation.values())

    def scatters_into_carried(self) -> int:
        """Scatters whose target is, but for views and copies, an argument of the program."""
        return sum(
            any(self._is_argument(where, target) for target in instruction.operands[: len(instruction.operands) // 2])
            for where, computation in self.computations.items()
            for instruction in computation.values()
            if instruction.opcode == "scatter"  # targets, then indices, then as many updates as targets
        )

    def _is_argument(self, where: str, name: str, element: int | None = None) -> bool:
        """Whether a value is an argument of the entry computation, unchanged; `element` is its index in a tuple."""
        instruction = self.computations[where].get(name)
        if instruction is None:
            return False
        if instruction.opcode in VIEWS:
            return self._is_argument(where, instruction.operands[0], element)
        if instruction.opcode == "get-tuple-element":
            return self._is_argument(where, instruction.operands[0], instruction.index)
        if instruction.opcode == "tuple" and element is not None:
            return self._is_argument(where, instruction.operands[element])
        if instruction.opcode == "fusion":  # one that only moves data hands its operand on
            (callee,) = instruction.called
            inside = self.computations[callee].values()
            moves = all(i.opcode in VIEWS or i.opcode == "parameter" for i in inside)
            return moves and self._is_argument(where, instruction.operands[0])
        if instruction.opcode != "parameter":
            return False
        if where == self.entry:
            return True
        return any(
            # A loop and a conditional hand over one tuple; a fusion and a call hand over their operands in order.
            self._is_argument(
                caller_where, caller.operands[instruction.index if caller.opcode in ("fusion", "call") else 0], element
            )
            for caller_where, caller in self.callers.get(where, [])
            if caller.opcode in ("fusion", "call", "while")
        )


def _parse(name: str, rest: str) -> Instruction | None:
    """One instruction from what follows `name = `, or None for a line that is not one."""
    opcode = _OPCODE.search(rest)
    if opcode is None:
        return None
    depth, end = 1, opcode.end()
    while depth and end < len(rest):
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        end += 1
    inside, after = rest[opcode.end() : end - 1], rest[end:]
    called = tuple(c.lstrip("% ") for match in _CALLED.finditer(after) for c in match[1].split(","))
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    if opcode[1] == "parameter":
        return Instruction(name, "parameter", (), (), int(inside))
    index = _INDEX.search(after)
    is_kernel = 'xla_cpu_small_call="true"' in after
    return Instruction(name, opcode[1], operands, called, int(index[1]) if index else 0, is_kernel)
