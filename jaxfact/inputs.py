"""What every public entry point checks: errors that say what was given, what is needed, and what to do instead."""

import difflib
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

SEEDS = 2**32
"""Seed numbers lie below it: a word of the random generator's key."""

P = ParamSpec("P")
R = TypeVar("R")


def problem_with(name: str, given: object, needed: str, instead: str) -> ValueError:
    """Build the ValueError of this library: what was given, what is needed, what to do instead."""
    return ValueError(f"{name}={given}: {needed}; {instead}.")


def positive(name: str, value: Any, instead: str) -> None:
    """Refuse a number that is not finite and above zero; a traced number, or a schedule, passes."""
    _require(name, value, lambda x: math.isfinite(x) and x > 0, "needs a finite number above 0", instead)


def non_negative(name: str, value: Any, instead: str) -> None:
    """Refuse a number that is negative or not finite; a traced number, or a schedule, passes."""
    _require(name, value, lambda x: math.isfinite(x) and x >= 0, "needs a finite number, 0 or above", instead)


def positive_integer(name: str, value: Any, instead: str) -> int:
    """Return a whole number above zero, which may be written as a float, such as 1e3; refuse anything else."""
    whole = as_whole(value)
    if whole is None or whole < 1:
        raise problem_with(name, shown(value), "needs a whole number, 1 or above", instead)
    return whole


def seed_number(name: str, value: Any) -> int:
    """Return the number of a seed, from 0 to 2³²−1, which may be written as a float; refuse anything else."""
    whole = as_whole(value)
    if whole is None or not 0 <= whole < SEEDS:
        instead = f"{value % SEEDS} is one" if isinstance(whole, int) else "0 is the default"
        raise problem_with(name, shown(value), "needs a whole number from 0 to 2³²−1", instead)
    return whole


def as_whole(value: Any) -> int | None:
    """Return the whole number that an integer, or a float without a fraction, stands for; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        number = float(value) if isinstance(value, numbers.Real) else math.nan
        return int(number) if number.is_integer() else None


def sizes(shape: Any) -> tuple[int, int]:
    """Return the numbers of rows and columns of a matrix; refuse anything else."""
    pair = [as_whole(size) for size in shape] if isinstance(shape, Iterable) and not isinstance(shape, str) else []
    m, n = pair if len(pair) == 2 else (None, None)
    if m is None or n is None or not (0 < m < 2**63 and 0 < n < 2**63):
        raise problem_with("shape", shown(shape), "needs two whole numbers above 0", "write it like shape=(100, 80)")
    return m, n


def recorded_steps(every: Any, num_steps: int, unit: int = 1) -> list[int]:
    """Return the steps that a stride or a list stands for, in order; none for None.

    They need to be multiples of `unit`, the steps between two looks.
    """
    if every is None:
        return []
    spread = f"jf.log_steps({num_steps}, unit={unit})" if unit > 1 else f"jf.log_steps({num_steps})"
    if isinstance(every, str):
        raise problem_with("every", repr(every), "needs a whole number or a list of steps", f"give every={spread}")
    if isinstance(every, Iterable) and getattr(every, "ndim", 1) > 0:
        steps = _listed_steps(every, num_steps, spread)
        given: object = [step for step in steps if step % unit][:3]
        instead = spread
    else:
        given = stride = positive_integer("every", every, "give the steps between two records")
        if stride > num_steps:
            needed = f"is beyond the last step, {num_steps}, so that only the start would be recorded"
            raise problem_with("every", stride, needed, "lower it, or leave it out to record the end")
        steps = list(range(0, num_steps + 1, stride))
        instead = str(max(round(stride / unit), 1) * unit)
    if any(step % unit for step in steps):
        also = f"give every={instead}, or check_every={math.gcd(num_steps, *steps)}"
        raise problem_with("every", given, f"needs multiples of check_every={unit}", also)
    return steps


def _listed_steps(every: Iterable[Any], num_steps: int, spread: str) -> list[int]:
    """Return the steps of a list in order, each once; refuse what is no step of a run."""
    steps = [as_whole(step) for step in every]
    kept = sorted({step for step in steps if step is not None and 0 <= step <= num_steps})
    if not steps or not set(steps) <= set(kept):
        given = [shown(step) for step in every if as_whole(step) not in kept][:3]
        needed = f"needs whole numbers of steps from 0 to {num_steps}"
        raise problem_with("every", f"[{', '.join(given)}]", needed, f"give every={spread}")
    return kept


def printable(text: str) -> str:
    """Return a text without what a terminal would obey: names in a store may be anybody's."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


def shown(value: object) -> str:
    """Return a value as an error shows it: in one line, not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}…"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a mistyped one is like, None where there is none."""
    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)


def explained(function: Callable[P, R]) -> Callable[P, R]:
    """Let a call that does not fit a function's arguments say in one line which it lacks, or does not have."""
    signature = inspect.signature(function)

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            name = function.__qualname__.removesuffix(".__init__")
            raise _misfit(name, signature, args, kwargs) from None
        return function(*args, **kwargs)

    return called


def _misfit(name: str, signature: inspect.Signature, args: Sequence[object], given: Mapping[str, object]) -> ValueError:
    """Say what a call lacks or has too much of."""
    kinds = inspect.Parameter
    known = {
        one: of for one, of in signature.parameters.items() if of.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
    }
    by_place = [one for one, of in known.items() if of.kind is not kinds.KEYWORD_ONLY]
    if by_place[:1] in (["self"], ["cls"]):  # the caller of a class did not give it
        del known[by_place[0]]
        by_place, args = by_place[1:], args[1:]
    missing = [
        one
        for one, of in known.items()
        if of.default is of.empty and one not in given and one not in by_place[: len(args)]
    ]
    unknown = [one for one in given if one not in known]
    said = f"{name}({', '.join([*(['…'] if args else []), *(f'{one}={shown(of)}' for one, of in given.items())])})"
    if missing:
        likely = {one: of for one in unknown if (of := nearest(one, missing))}
        instead = "; ".join(f"{one} may be meant to be {of}" for one, of in likely.items())
        return ValueError(f"{said}: lacks {', '.join(missing)}; {instead or f'see help(jaxfact.{name})'}.")
    if len(args) > len(by_place):
        return ValueError(f"{said}: takes {', '.join(by_place)} by place; give the others by name.")
    if twice := [one for one in by_place[: len(args)] if one in given]:
        return ValueError(f"{said}: {', '.join(twice)} is given by place too; give it once.")
    for holder, of in known.items():  # such as `settings`, whose fields are options at the command line
        kind: Any = next(iter(getattr(of.annotation, "__args__", ())), None)
        if unknown and set(unknown) <= getattr(kind, "__dataclass_fields__", {}).keys():
            fields = ", ".join(f"{one}={shown(given[one])}" for one in unknown)
            return ValueError(f"{said}: has no argument {', '.join(unknown)}; give {holder}={kind.__name__}({fields}).")
    likely = nearest(unknown[0], known) if unknown else None
    instead = f"{likely} may be meant" if likely else f"it has {', '.join(known)}"
    return ValueError(f"{said}: has no argument {', '.join(unknown)}; {instead}.")


def _require(name: str, value: Any, holds: Callable[[float], bool], needed: str, instead: str) -> None:
    if not isinstance(value, numbers.Real):
        from jax.core import Tracer  # here, so that the command line can check numbers without loading JAX

        if isinstance(value, Tracer) or callable(value):
            return
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise problem_with(name, repr(value), needed, instead) from None
    if not holds(number):
        raise problem_with(name, f"{number:g}", needed, instead)
