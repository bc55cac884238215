"""What a compiled program sends between devices and puts into memory, read from XLA's text of it.

The text (https://openxla.org/xla/operation_semantics) is a list of computations, called ones before
their callers, and each of these a list of `%NAME = TYPE OPCODE(OPERANDS), ATTRIBUTE=…`. Bytes are
those of one device, as numbers take them, without the padding of a TPU's tiles.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

MIB = 1 << 20
SHOWN = 10  # temporaries
_COLLECTIVE = re.compile(
    r"((?:ragged-)?all-to-all|all-gather|all-reduce|reduce-scatter|collective-(?:broadcast|permute))"
    r"(-start|-done)?"
)
# What takes no memory of its own: names for what is there, or results of the computation called.
_NO_ARRAY = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "optimization-barrier"),
    *("while", "call", "conditional"),
}
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][\w-]*)\((.*)")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|\w+_computations?)=\{?((?:%[\w.-]+,? ?)+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange of arrays between devices.

    Attributes:
      kind: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or "collective-permute".
      devices: how many exchange with one another.
      arrays: that a device has after it, "f32[64,512]" and so on.
      where: in the network, by JAX's names; layers are not told apart.
    """

    kind: str
    devices: int
    arrays: tuple[str, ...]
    where: str

    @property
    def bytes(self) -> int:
        """Of what a device has after it; or before it, where that is more."""
        return sum(map(_bytes, self.arrays)) * (
            self.devices if self.kind == "reduce-scatter" else 1
        )


class Temporary(NamedTuple):
    """An array that a program makes and does not give back; `where` as in `Collective`."""

    bytes: int
    array: str
    where: str


class _Instruction(NamedTuple):
    name: str
    arrays: tuple[str, ...]
    opcode: str
    rest: str  # operands and attributes

    @property
    def operands(self) -> list[str]:
        """Their names, and after them those of computations that are called."""
        return _NAME.findall(self.rest)

    @property
    def where(self) -> str:
        found = re.search(r'op_name="(?:jit\(\w+\)/)?([^"]*)"', self.rest)
        return re.sub(r"layers_\d+", "layers_*", found[1]) if found else self.opcode


def explain(hlo: str, program: str) -> str:
    """The collectives of a program, all of them, and its largest temporaries, line by line."""
    collectives = find_collectives(hlo)
    whole = sum(found.bytes * times for found, times in collectives.items())
    lines = [f"collectives of {program}: {_mebibytes(whole)} a device"]
    for found, times in sorted(collectives.items(), key=lambda one: -one[0].bytes * one[1]):
        one, *others = sorted(found.arrays, key=_bytes, reverse=True)
        arrays = f"{one} and {len(others)} more" if others else one
        head = f"{_mebibytes(found.bytes * times):>14}  {times} x {found.kind} over {found.devices}"
        lines.append(f"{head}  {arrays}  {_shorten(found.where)}")
    lines.append(f"largest temporaries of {program}, of which some take the place of others")
    for (size, array, where), number in sorted(find_temporaries(hlo).items(), reverse=True)[:SHOWN]:
        lines.append(f"{_mebibytes(size):>14}  {number} x {array}  {_shorten(where)}")
    return "\n".join(lines)


def find_collectives(hlo: str) -> Counter[Collective]:
    """Each collective and how often it runs; a loop that XLA does not know the length of, once."""
    computations = _parse(hlo)
    everyone = math.prod(
        int(found[1])
        for what in ("replica_count", "num_partitions")
        if (found := re.search(rf"^HloModule .*\b{what}=(\d+)", hlo))
    )
    found: Counter[Collective] = Counter()
    starts = {}
    for name, times in _count_runs(computations).items():
        for instruction in computations[name]:
            if not (match := _COLLECTIVE.fullmatch(instruction.opcode)):
                continue
            kind, phase = match.groups()
            if phase == "-start":  # tells who takes part, and its end what comes of it
                starts[instruction.name] = instruction.rest
                continue
            rest = starts[instruction.operands[0]] if phase else instruction.rest
            devices = _count_devices(rest, everyone)
            one = Collective(kind, devices, instruction.arrays, instruction.where)
            found[one] += times
    return found


def find_temporaries(hlo: str) -> Counter[Temporary]:
    """The arrays and how many there are, wherever memory is given to one."""
    computations = _parse(hlo)
    *_, entry = computations.values()
    made = {instruction.name: instruction for instruction in entry}
    last = entry[-1]
    given = set()
    for name in last.operands if last.opcode == "tuple" else [last.name]:
        given.add((name, 0))
        if made[name].opcode == "get-tuple-element":
            index = int(re.search(r"index=(\d+)", made[name].rest)[1])
            given.add((made[name].operands[0], index))
    found: Counter[Temporary] = Counter()
    for name in _count_runs(computations, fusions=False):
        for instruction in computations[name]:
            if instruction.opcode in _NO_ARRAY or instruction.opcode.endswith("-start"):
                continue
            for index, array in enumerate(instruction.arrays):
                if (instruction.name, index) not in given:
                    found[Temporary(_bytes(array), array, instruction.where)] += 1
    return found


def _parse(hlo: str) -> dict[str, list[_Instruction]]:
    """The computations, as they stand: that which the program is comes last."""
    computations: dict[str, list[_Instruction]] = {}
    body: list[_Instruction] = []
    for line in hlo.splitlines():
        if head := _COMPUTATION.match(line):
            body = computations[head[1]] = []
        elif found := _INSTRUCTION.match(line):
            name, made, opcode, rest = found.groups()
            arrays = tuple(f"{dtype}[{shape}]" for dtype, shape in _ARRAY.findall(made))
            body.append(_Instruction(name, arrays, opcode, rest))
    return computations


def _count_runs(computations: dict[str, list[_Instruction]], fusions: bool = True) -> Counter[str]:
    """How often each computation runs; those within `fusions`, which keep nothing, on demand."""
    names = [*computations]
    times = Counter({names[-1]: 1})
    for name in reversed(names):
        for caller, called in _find_calls(computations[name]) if times[name] else ():
            if fusions or caller.opcode != "fusion":
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', caller.rest)
                times[called] += times[name] * (int(trips[1]) if trips else 1)
    return +times


def _find_calls(body: list[_Instruction]) -> Iterator[tuple[_Instruction, str]]:
    for instruction in body:
        if not instruction.opcode.endswith(("-update", "-done")):  # the call is their start's
            for called in _CALLED.findall(instruction.rest):
                yield from ((instruction, name) for name in _NAME.findall(called))


def _count_devices(attributes: str, everyone: int) -> int:
    """Of a group: XLA writes a mesh and axes, or numbers of groups and members, or lists."""
    if found := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", attributes):
        sizes = dict(re.findall(r"('\w+')=(\d+)", found[1]))
        axes = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return found[1].count(",") + 1
    return 2 if "source_target_pairs" in attributes else everyone


def _bytes(array: str) -> int:
    dtype, shape = _ARRAY.match(array).groups()
    bits = re.search(r"\d+", dtype)
    numbers = math.prod(map(int, filter(None, shape.split(","))))
    return numbers * (int(bits[0]) if bits else 8) // 8


def _mebibytes(size: int) -> str:
    return f"{size / MIB:,.3f} MiB"


def _shorten(where: str, width: int = 100) -> str:
    return where if len(where) <= width else f"…{where[1 - width :]}"
