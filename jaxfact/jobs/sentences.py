"""What a comparison or a recovery found, in one sentence made from its numbers, with their intervals."""

import math
from typing import TYPE_CHECKING

from jaxfact.jobs.compared import MARGIN
from jaxfact.results.stats import PairedErrors, PairedTimes
from jaxfact.results.wording import changed, counted, share_in_text

if TYPE_CHECKING:
    from jaxfact.jobs.comparison import Comparison, Judgement
    from jaxfact.jobs.recovery import Recovery

_WITHIN = f"{100 * MARGIN:g} %"


def of_comparison(found: "Comparison") -> str:
    """Return how many starts of the reference arrived and when, and how the others compare with it."""
    judged, seeds = found.judged, found.settings.seeds
    reached = {row.method: _at(row.reached, judged.level) for row in found.methods}
    if not any(fraction for fraction, *_ in reached.values()):
        ends = [_end(row.method, row.outcomes) for row in found.methods]
        return f"No start arrived at distance {judged.level:g} with any method: {'; '.join(ends)}."
    reference, middle = judged.reference, judged.times[judged.reference][0.5]
    arrived = f"{share_in_text(*reached[reference])} of {counted(seeds, 'start')} of {reference} descent arrived at "
    arrived += f"distance {judged.level:g}" + (f", half of all by step {middle:.0f}" if math.isfinite(middle) else "")
    return "; ".join([arrived, *_pairs(judged)]) + "."


def of_recovery(found: "Recovery") -> str:
    """Return the test error of the reference, how it compares with the better simple prediction, and the others."""
    first, (mean, low, high) = found.methods[0].method, found.methods[0].test
    if not math.isfinite(mean):
        said = [f"{first} descent has no test error, as {100 * found.methods[0].diverged:.3g} % of its runs diverged"]
    else:
        interval = "" if math.isnan(low) else f" (95 % interval {max(low, 0.0):.4g}–{high:.4g})"
        said = [f"{first} descent predicts the held-out entries with an error of {mean:.4g}{interval}"]
        alone = {two: pair for (one, two), pair in found.pairs.items() if one == first}
        best = max(alone, key=lambda name: alone[name].ratio, default=None)
        said += [] if best is None else [_error(alone[best], f"that of {best} alone", found.splits)]
    others = {one: pair for (one, two), pair in found.pairs.items() if two == first}
    said += [f"{name}: {_error(pair, f'that of {first}', found.splits)}" for name, pair in others.items()]
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def _at(reached: dict, level: float) -> tuple[float, float, float]:
    """Return the fraction at a level, which may differ from its label by rounding."""
    at = next((found for one, found in reached.items() if math.isclose(one, level, rel_tol=1e-6)), None)
    return (0.0, 0.0, 1.0) if at is None else at


def _end(method: str, outcomes: dict) -> str:
    name, shares = max(outcomes.items(), key=lambda item: item[1][0])
    return f"{share_in_text(*shares)} of {method} ended as {name}"


def _pairs(judged: "Judgement") -> list[str]:
    """Return how each other method compares with the first."""
    return [_pair(name, judged.reference, pair) for name, pair in judged.pairs.items()]


def _pair(name: str, reference: str, pair: PairedTimes) -> str:
    ends = f"95 % interval {pair.low:.3f}–{pair.high:.3f}"
    ratio = "" if math.isnan(pair.ratio) else f"time ratio {pair.ratio:.3f}, {ends}"
    if pair.verdict == "equivalent":
        return f"{name} needs as many steps within {_WITHIN} ({ratio})" if ratio else f"{name} arrives like {reference}"
    if pair.verdict == "different" and (pair.high < 1 - MARGIN or pair.low > 1 + MARGIN):
        return f"{name} needs {changed(pair.ratio, 'fewer', 'more')} steps ({ratio})"
    if pair.verdict == "different":
        alone = f"only {name} on {pair.first_only}, only {reference} on {pair.second_only}"
        return f"{name} does not arrive from the same starts ({alone})"
    return f"whether {name} differs by {_WITHIN} is left open ({ratio or pair.why})"


def _error(pair: PairedErrors, other: str, splits: int) -> str:
    if not 0 < pair.ratio < math.inf:
        return f"no ratio to {other}, as {pair.why or 'an error is zero'}"
    if pair.ratio == pair.low == pair.high == 1:
        return f"the same as {other}"
    how = f"{changed(pair.ratio, 'below', 'above')} {other}"
    if math.isnan(pair.low):
        return f"{how} on one split, which gives no interval"
    ends = " to ".join(changed(end, "below", "above") for end in (pair.low, pair.high))
    words = {"equivalent": f"equivalent within {_WITHIN}", "inconclusive": f"left open at {_WITHIN}"}
    return f"{how} (95 % interval {ends}{', ' + words[pair.verdict] if pair.verdict in words else ''})"
