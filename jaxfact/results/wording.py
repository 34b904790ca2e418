"""Numbers in words, for tables, pages and notebooks."""

import math
import numbers
from collections.abc import Sequence


def changed(ratio: float, less: str, more: str) -> str:
    """Return a ratio in words: "58 % fewer" for 0.42, "7 % more" for 1.07, "over 900 % more" for 11 and beyond."""
    share, most = 100 * abs(ratio - 1), 99 if ratio < 1 else 900
    number = f"over {most}" if share > most else f"{share:.0f}" if share >= 10 else f"{share:.2g}"
    return f"{number} % {less if ratio < 1 else more}"


def percent(share: float) -> str:
    """Return a fraction as a percentage to one decimal, without its sign."""
    return f"{100 * share:.1f}".removesuffix(".0")


def share(fraction: float, low: float, high: float) -> str:
    """Return a fraction and its interval as percentages: "12.5 (4–30)"."""
    return f"{percent(fraction)} ({percent(low)}–{percent(high)})"


def share_in_text(fraction: float, low: float, high: float) -> str:
    """Return a fraction and its interval as a sentence has them: "12.5 % (95 % interval 4–30)"."""
    return f"{percent(fraction)} % (95 % interval {percent(low)}–{percent(high)})"


def number(value: float) -> str:
    """Return a number to four digits; a dash where runs diverged and have none."""
    return f"{value:.4g}" if math.isfinite(value) else "–"


def value_of(value: object) -> str:
    """Return a value of an axis: a number to four digits, a word or a truth as it is."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return f"{value:.4g}" if is_number else str(value)


def listed(words: Sequence[str]) -> str:
    """Return words as a sentence lists them: "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def counted(count: int, what: str) -> str:
    """Return a number of things: "1 run", "2 runs"."""
    return f"{count} {what}{'s' * (count != 1)}"
