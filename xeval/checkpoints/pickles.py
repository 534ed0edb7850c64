"""Find what a pickle would build from its opcodes, without building any of it.

The restricted unpickler calls no foreign code, but it does build what the pickle tells it to: tuples nested so deep
that hashing them overflows the interpreter's stack, or a bytearray of any size.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator

MAX_NESTING = 100  # limit of tuples inside tuples; a state dict needs fewer than ten
ALLOCATORS = ("bytearray",)
MEMO_WRITES = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
MEMO_READS = ("GET", "BINGET", "LONG_BINGET")
TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
Opcode = tuple[pickletools.OpcodeInfo, object]


def objection(data: bytes) -> str:
    """Return why a pickle must not reach the restricted unpickler, or an empty string if nothing is wrong.

    Raises ValueError or IndexError for bytes that are not a pickle.
    """
    opcodes = [(opcode, argument) for opcode, argument, _ in pickletools.genops(data)]
    for opcode, argument in opcodes:
        if opcode.name == "GLOBAL" and str(argument).split(" ")[-1] in ALLOCATORS:
            return f"refused globals: {str(argument).replace(' ', '.')}"
    if any(depth > MAX_NESTING for depth in _depths(opcodes)):
        return f"tuples nested more than {MAX_NESTING} deep"
    return ""


def _depths(opcodes: list[Opcode]) -> Iterator[int]:
    """Yield, for each object that would be built, how deep tuples are nested in it."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    for opcode, argument in opcodes:
        if opcode.name == "MARK":
            marks.append(len(stack))
        elif opcode.name in MEMO_WRITES:
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif opcode.name in MEMO_READS:
            stack.append(memo.get(argument, 0))
        else:
            depth = _popped(opcode, stack, marks) + (opcode.name in TUPLES)
            yield depth
            stack.extend(depth for _ in opcode.stack_after)


def _popped(opcode: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> int:
    """Remove what an opcode takes from the stack, and return the greatest depth among it."""
    taken = opcode.stack_before
    start = len(stack) - len(taken)
    if pickletools.markobject in taken:
        start = marks.pop() - taken.index(pickletools.markobject)
    if start < 0:
        raise IndexError("the stack is empty")
    deepest = max(stack[start:], default=0)
    del stack[start:]
    return deepest
