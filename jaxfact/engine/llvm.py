"""Graphs of scalars as text of LLVM: every node becomes a vector over the runs that advance together.

The order matters more than the operations: what is used often is computed first, then the outputs one by one, each
stored at once, so that few values are alive at a time and stay in registers.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from jaxfact.engine.scalars import Unscalarisable

SLOT = 64
"""Bytes of a vector in memory: 16 runs in single precision, 8 in double."""

# By the type itself: NumPy puts its name together anew each time.
_TYPES = {
    np.dtype("float32"): "float",
    np.dtype("float64"): "double",
    np.dtype("int32"): "i32",
    np.dtype("uint32"): "i32",
    np.dtype("int64"): "i64",
    np.dtype("uint64"): "i64",
    np.dtype("bool"): "i1",
    np.dtype("int8"): "i8",
    np.dtype("uint8"): "i8",
}


class Text:
    """A function of LLVM being written, for vectors of some runs."""

    def __init__(self, runs: int):
        self.runs: int = runs
        self.lines: list[str] = []
        self.declared: set[str] = set()
        self._numbers: Iterator[int] = count()
        self.block: str = "work"

    def new(self, kind: str = "v") -> str:
        """Return a name that nothing else has."""
        return f"{kind}{next(self._numbers)}"

    def set(self, text: str) -> str:
        """Write an operation; return the name of its result."""
        name = f"%{self.new()}"
        self.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Write an operation without a result."""
        self.lines.append(f"  {text}")

    def begin(self, label: str) -> None:
        """Begin a basic block."""
        self.lines.append(f"{label}:")
        self.block = label

    def call(self, function: str, kind: str, arguments: Sequence[tuple[str, str]]) -> str:
        """Call a function that is declared elsewhere, given types and values; return the name of its result."""
        self.declared.add(f"declare {kind} @{function}({', '.join(of for of, _ in arguments)})")
        return self.set(f"call {kind} @{function}({', '.join(f'{of} {value}' for of, value in arguments)})")

    def type(self, dtype: Any) -> str:
        """Return the type of a vector."""
        return f"<{self.runs} x {scalar(dtype)}>"

    def constant(self, value: Any, dtype: Any) -> str:
        """Return a vector of one number."""
        return f"splat ({scalar(dtype)} {_literal(value, np.dtype(dtype))})"

    def address(self, base: str, offset: int | str) -> str:
        """Return the address some bytes beyond another."""
        return base if offset == 0 else self.set(f"getelementptr i8, ptr {base}, i64 {offset}")

    def load(self, dtype: Any, address: str, alignment: int | None = None) -> str:
        """Load a vector; by default it lies at a multiple of its size."""
        aligned = alignment or self.runs * np.dtype(dtype).itemsize
        if np.dtype(dtype) == bool:
            loaded = self.set(f"load <{self.runs} x i8>, ptr {address}, align {aligned}")
            return self.set(f"icmp ne <{self.runs} x i8> {loaded}, zeroinitializer")
        return self.set(f"load {self.type(dtype)}, ptr {address}, align {aligned}")

    def store(self, dtype: Any, value: str, address: str, alignment: int | None = None) -> None:
        """Store a vector."""
        aligned = alignment or self.runs * np.dtype(dtype).itemsize
        if np.dtype(dtype) == bool:
            value = self.set(f"zext {self.type(bool)} {value} to <{self.runs} x i8>")
            self.do(f"store <{self.runs} x i8> {value}, ptr {address}, align {aligned}")
            return
        self.do(f"store {self.type(dtype)} {value}, ptr {address}, align {aligned}")

    def splat(self, dtype: Any, address: str) -> str:
        """Load one number, for all runs."""
        kind = "i8" if np.dtype(dtype) == bool else scalar(dtype)
        loaded = self.set(f"load {kind}, ptr {address}, align {max(1, np.dtype(dtype).itemsize)}")
        if np.dtype(dtype) == bool:
            loaded, kind = self.set(f"icmp ne i8 {loaded}, 0"), "i1"
        return self.spread(kind, loaded)

    def spread(self, kind: str, value: str) -> str:
        """Return a vector of one number, given its type."""
        first = self.set(f"insertelement <{self.runs} x {kind}> poison, {kind} {value}, i64 0")
        zeros = f"<{self.runs} x i32> zeroinitializer"
        return self.set(f"shufflevector <{self.runs} x {kind}> {first}, <{self.runs} x {kind}> poison, {zeros}")

    def table(self, numbers: np.ndarray) -> str:
        """Return the name of an array of numbers that are part of the program."""
        kind = "i8" if numbers.dtype == bool else scalar(numbers.dtype)
        entries = ", ".join(
            f"{kind} {_literal(x, np.dtype(np.int8) if kind == 'i8' else x.dtype)}" for x in numbers.flat
        )
        text = f"[{numbers.size} x {kind}] [{entries}]"
        name = f"@table{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.declared.add(f"{name} = private unnamed_addr constant {text}")
        return name

    def bits(self, mask: str) -> str:
        """Return a mask as a whole number with a bit per run."""
        return self.set(f"bitcast <{self.runs} x i1> {mask} to i{self.runs}")

    def any(self, mask: str) -> str:
        """Tell whether a mask holds for any run."""
        return self.set(f"icmp ne i{self.runs} {self.bits(mask)}, 0")

    def loop(
        self,
        begin: Sequence[tuple[str, str]],
        condition: Callable[[list[str]], str],
        body: Callable[[list[str]], list[str]],
    ) -> list[str]:
        """Write a loop that goes on while a condition on its state holds; return the state at its end.

        `begin` has types and values.
        """
        before, head, inside, after = self.block, *(self.new("b") for _ in range(3))
        self.do(f"br label %{head}")
        self.begin(head)
        here, state = len(self.lines), [f"%{self.new()}" for _ in begin]
        self.do(f"br i1 {condition(state)}, label %{inside}, label %{after}")
        self.begin(inside)
        moved = body(state)
        self.do(f"br label %{head}")
        self.lines[here:here] = [
            f"  {name} = phi {kind} [ {first}, %{before} ], [ {later}, %{self.block} ]"
            for name, (kind, first), later in zip(state, begin, moved, strict=True)
        ]
        self.begin(after)
        return state

    def passes(
        self,
        begin: int | str,
        end: int | str,
        by: int,
        state: Sequence[tuple[str, str]],
        body: Callable[..., list[str]],
    ) -> list[str]:
        """Write a loop of one pass or more, for every `by`-th number from `begin` below `end`; return the last state.

        `body` is given the number and the state.
        """
        before, inside, after = self.block, self.new("b"), self.new("b")
        self.do(f"br label %{inside}")
        self.begin(inside)
        here, number, old = len(self.lines), f"%{self.new()}", [f"%{self.new()}" for _ in state]
        moved = body(number, old)
        following = self.set(f"add i64 {number}, {by}")
        more = self.set(f"icmp slt i64 {following}, {end}")
        self.do(f"br i1 {more}, label %{inside}, label %{after}")
        self.lines[here:here] = [
            f"  {name} = phi {kind} [ {first}, %{before} ], [ {later}, %{self.block} ]"
            for name, (kind, first), later in zip(
                [number, *old], [("i64", str(begin)), *state], [following, *moved], strict=True
            )
        ]
        self.begin(after)
        return moved

    def when(self, condition: str, then: Callable[[], None], otherwise: Callable[[], None] | None = None) -> None:
        """Write a choice between two pieces of text, or between one and nothing."""
        yes, no, after = (self.new("b") for _ in range(3))
        self.do(f"br i1 {condition}, label %{yes}, label %{no if otherwise else after}")
        self.begin(yes)
        then()
        self.do(f"br label %{after}")
        if otherwise:
            self.begin(no)
            otherwise()
            self.do(f"br label %{after}")
        self.begin(after)


def scalar(dtype: Any) -> str:
    """Return the type of one number; raise Unscalarisable where there is none."""
    of = np.dtype(dtype)
    if of not in _TYPES:
        raise Unscalarisable(f"it computes in {of.name}")
    return _TYPES[of]


def _literal(value: Any, dtype: np.dtype) -> str:
    if dtype.kind == "b":
        return "true" if value else "false"
    if dtype.kind == "f":
        return f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"
    return str(int(value))
