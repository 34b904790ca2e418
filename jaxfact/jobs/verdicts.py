"""What became of claims, in one sentence made from its numbers, with their intervals."""

import math
from typing import TYPE_CHECKING

from jaxfact.papers.rules import Finding, Verdict
from jaxfact.results.wording import listed

if TYPE_CHECKING:
    from jaxfact.jobs.verifying import Verification

_SAID = {
    Verdict.HOLDS: ("holds", "hold"),
    Verdict.VIOLATED: ("is violated", "are violated"),
    Verdict.OUTSIDE: ("is outside its hypotheses", "are outside their hypotheses"),
    Verdict.INCONCLUSIVE: ("is left open", "are left open"),
}


def of_verification(found: "Verification") -> str:
    """Return what became of the claims: of one its deciding number, of several how many hold, and which do not."""
    left = f"; interrupted before {', '.join(found.left_out)}" if found.left_out else ""
    if len(found.claims) == 1:
        [one] = found.claims
        return f"{one.claim.id} {_SAID[one.verdict][0]}: {_finding(one.deciding)}{left}."
    ids = {verdict: [one.claim.id for one in found.claims if one.verdict is verdict] for verdict in Verdict}
    if len(ids[Verdict.HOLDS]) == len(found.claims):
        return f"All {len(found.claims)} claims hold: {listed(ids[Verdict.HOLDS])}{left}."
    said = [f"{len(some)} {_SAID[verdict][len(some) > 1]} ({', '.join(some)})" for verdict, some in ids.items() if some]
    return f"Of {len(found.claims)} claims {listed(said)}{left}."


def interval_of(finding: Finding) -> str:
    """Return the interval of a finding in words."""
    if math.isnan(finding.low):
        return "none"
    if math.isinf(finding.high):
        return f"at least {finding.low:.4g}"
    return f"{finding.low:.4g} to {finding.high:.4g}"


def measured_in(finding: Finding) -> str:
    """Return what was measured, where every run has it."""
    return f"{finding.measured:.4g}" if math.isfinite(finding.measured) else "not every run has one"


def _finding(finding: Finding) -> str:
    expected = "nothing is promised of it" if finding.expected == "–" else f"promised {finding.expected}"
    why = f" ({finding.why})" if finding.why else ""
    return f"{finding.what}: {measured_in(finding)} [{interval_of(finding)}], {expected}{why}"
