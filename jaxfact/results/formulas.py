"""Laws as formulas, plain and in LaTeX."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxfact.results.forms import Curve, Rate, Shape

_LONGEST = 24  # characters of LaTeX that a symbol may have
_GREEK = ("alpha", "beta", "delta", "epsilon", "eta", "gamma", "kappa", "lambda", "mu", "nu", "rho", "sigma", "tau")


def symbol(name: str, known: str) -> str:
    """Return what a feature is called in LaTeX: its label where that is short, else its name (sigma_d is σ_d)."""
    if known and len(known) <= _LONGEST:
        return known.strip("$")
    first, *rest = name.split("_", 1)
    if first in _GREEK:
        return rf"\{first}" + "".join(rf"_{{\mathrm{{{one}}}}}" for one in rest)
    return rf"\mathrm{{{name}}}".replace("_", r"\_")


class Writing(NamedTuple):
    """How features are called, and whether in LaTeX."""

    names: Sequence[str]
    latex: bool

    def law(self, shape: Shape, numbers: np.ndarray) -> str:
        """Write a law: T = … ."""
        rate = shape.rate
        pieces = self._powers(numbers) if rate.curve is None else self._logarithms(shape, numbers)
        if rate.curve is Curve.PLAIN:
            number = "" if pieces == "1" else self._bracketed(pieces)
            whole = self.product(-np.array(rate.exponents), number) or pieces
        elif rate.curve is None:
            whole = pieces
        else:
            whole = self._quotient(pieces, self._curve(rate))
        return f"T = {whole}".replace("−", "-") if self.latex else f"T = {whole}"

    def _powers(self, numbers: np.ndarray) -> str:
        factors = [_short(np.exp(offset)) if offset else "" for offset in numbers[:, -1].tolist()]
        return self._largest(
            [self.product(row[:-1], factor) or "1" for row, factor in zip(numbers, factors, strict=True)]
        )

    def _logarithms(self, shape: Shape, numbers: np.ndarray) -> str:
        """Write what the pieces share once, before their maximum."""
        fixed, slopes = shape.fixed[:, :-1], numbers[:, :-1]
        shared = np.all(fixed == fixed[:1], axis=0) & (len(fixed) > 1)
        before = self._sum(np.where(shared, fixed[0], 0), np.where(shared, slopes[0], 0), 0.0)
        pieces = [
            self._sum(np.where(shared, 0, kept), np.where(shared, 0, row[:-1]), row[-1]) or "0"
            for kept, row in zip(fixed, numbers, strict=True)
        ]
        return _joined([before, self._largest(pieces)])

    def _largest(self, pieces: list[str]) -> str:
        if len(pieces) == 1:
            return pieces[0]
        inside = ", ".join(pieces)
        return rf"\max\left({inside}\right)" if self.latex else f"max({inside})"

    def _sum(self, fixed: np.ndarray, slopes: np.ndarray, offset: float) -> str:
        """Write Σ slopeᵢ ln xᵢ + offset: simple slopes as one logarithm of a product."""
        logarithm = r"\ln" if self.latex else "ln"
        simple = self.product(np.where(np.isnan(fixed), 0, slopes))
        terms = [rf"\ln {simple}" if self.latex and simple else f"ln({simple})" if simple else ""]
        for name, slope in zip(self.names, np.where(np.isnan(fixed), slopes, 0), strict=True):
            if slope:
                terms.append(f"{_short(slope)} {logarithm} {name}")
        return _joined([*terms, _short(offset) if offset else ""])

    def _curve(self, rate: Rate) -> str:
        inside = self.product(np.array(rate.exponents))
        sign, minus = ("+", "") if rate.curve is Curve.GROWTH else ("−", "−")
        return rf"{minus}\ln\left(1 {sign} {inside}\right)" if self.latex else f"{minus}ln(1 {sign} {inside})"

    def product(self, powers: np.ndarray, number: str = "") -> str:
        """Write a number times Π xᵢ^powerᵢ as a quotient; nothing for an empty one."""
        above = [self._power(name, power) for name, power in zip(self.names, powers, strict=True) if power > 0]
        below = [self._power(name, -power) for name, power in zip(self.names, powers, strict=True) if power < 0]
        above = [number] * bool(number) + above
        return self._quotient(self._times(above) or "1", self._times(below)) if below else self._times(above)

    def _quotient(self, above: str, below: str) -> str:
        if self.latex:
            return rf"\frac{{{above}}}{{{below}}}"
        return f"{self._bracketed(above, ' −')}/{self._bracketed(below)}"

    def _bracketed(self, text: str, what: str = " ·/−") -> str:
        """Put brackets about a sum, and in plain text about what else would be read otherwise."""
        whole = text.count("(") == 1 and text.endswith(")") or text.startswith(("max(", "("))
        if self.latex:
            return rf"\left({text}\right)" if " + " in text or " − " in text else text
        return f"({text})" if any(sign in text for sign in what) and not whole else text

    def _times(self, factors: list[str]) -> str:
        return (r"\," if self.latex else "·").join(factors)

    def _power(self, name: str, power: float) -> str:
        if power == 1:
            return name
        if power == 0.5:
            return rf"\sqrt{{{name}}}" if self.latex else f"√{name}"
        if self.latex:
            base = rf"\left({name}\right)" if any(sign in name for sign in (r"\,", "/", "^")) else name
            return f"{base}^{{{_short(power)}}}"
        return f"{name}^{_short(power)}"


def _short(number: float) -> str:
    return f"{number:.3g}".replace("-", "−") if not np.isnan(number) else "?"


def _joined(terms: Sequence[str]) -> str:
    """Join terms by + and −."""
    return " + ".join(term for term in terms if term).replace("+ −", "− ")
