"""Claims for people: the list of them, the table of what became of them, and one page with a figure each."""

import math
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import xarray as xr
from matplotlib.figure import Figure
from rich.console import Console
from rich.padding import Padding

from jaxfact import figures, papers
from jaxfact.inputs import printable
from jaxfact.jobs.verdicts import interval_of, measured_in, of_verification
from jaxfact.jobs.verifying import Chosen, Verification, Verified
from jaxfact.papers import Finding
from jaxfact.reports.pages import Report, Rows, print_table
from jaxfact.results.strict_json import finite_or_none

_FINDINGS = ["what", "measured", "interval", "expected", "verdict"]
_COLUMNS = ["id", "claim", "measured", "promised", "verdict", "s"]


def report_of(found: Verification, *, stored: bool = False) -> Report:
    """Return what terminal, notebook and page say; runs that are `stored` already are not written again."""
    return Report(
        title="Claims of papers, measured",
        heading=_heading(found),
        tables=[("claims", _COLUMNS, [_row(one) for one in found.claims])],
        lines=[*(line for one in found.claims for line in _remarkable(one)), *failures(found)],
        captions={one.claim.id: _caption(one) for one in found.claims},
        summary=as_json(found),
        runs={} if stored else _stores(found),
        draw=partial(_drawn, found),
        found=of_verification(found),
        again=_again(found),
    )


def report_of_paper(paper: papers.Paper, found: Verification) -> Report:
    """Return the same of one paper's claims, with all numbers that they are judged by."""
    tables = [(_headline(one), _FINDINGS, [_cells(finding) for finding in one.findings]) for one in found.claims]
    return replace(report_of(found), title=f"{paper.citation}, {paper.title}", tables=tables)


def print_list(console: Console) -> None:
    """Print name, citation and title of every paper, with its claims and what they cost."""
    for paper in map(papers.find, papers.names()):
        console.print(f"{paper.name}: {paper.citation}, {paper.title}", highlight=False, markup=False)
        for claim in paper.claims:
            preset = claim.preset
            cost = f"{preset.name}: {preset.seeds} seeds by default, about {preset.seconds} s on two CPU cores"
            said = f"{claim.id} ({claim.place}): {claim.statement}\n{cost}"
            console.print(Padding(said, (0, 0, 0, 4)), highlight=False, markup=False)
        console.print()


def list_of(chosen: Chosen) -> Rows:
    """Return the table of claims that were not run: what they say, and what they cost."""
    rows = [
        [name, claim.title, f"{paper.citation}, {claim.place}", str(claim.preset.seeds), str(claim.preset.seconds)]
        for name, (paper, claim) in chosen.items()
    ]
    return "claims", ["id", "claim", "paper and theorem", "seeds", "s"], rows


def list_as_json(chosen: Chosen) -> dict[str, Any]:
    """Return the same as plain numbers and strings."""
    return {
        name: {**_described(paper, claim), "seeds": claim.preset.seeds, "seconds": claim.preset.seconds}
        for name, (paper, claim) in chosen.items()
    }


def print_findings(found: Verification, console: Console) -> None:
    """Print for every claim what is said, and the table of all numbers that it is judged by."""
    for one in found.claims:
        attrs, preset = next(iter(one.runs.values())).attrs, one.claim.preset
        for line in (
            _headline(one),
            one.claim.statement,
            one.claim.formula,
            f"{preset.name}: {preset.randomness} {one.seeds} seeds, {attrs['dtype']} on {attrs['devices']} × "
            f"{attrs['device']}, jax {attrs['jax']}",
        ):
            console.print(printable(line), highlight=False, markup=False)
        print_table(console, "findings", _FINDINGS, [_cells(finding) for finding in one.findings])
        for line in (*_remarkable(one), *_behind(one)):
            console.print(printable(f"• {line}"), highlight=False, markup=False)


def as_json(found: Verification) -> dict[str, Any]:
    """Return all claims, their findings and hypotheses as plain numbers and strings; what is not finite is null."""
    claims = {one.claim.id: _claim_as_json(one) for one in found.claims}
    failed = {name: f"{type(error).__name__}: {error}" for name, error in found.failed.items()}
    told = {"claims": claims, "false_alarm": found.alarm, "left_out": list(found.left_out), "failed": failed}
    return finite_or_none(told)


def failures(found: Verification) -> list[str]:
    """Return a line for each claim that could not be run or judged."""
    return [f"{name}: ended in {type(error).__name__}: {error}" for name, error in found.failed.items()]


def _again(found: Verification) -> str:
    """Return the command that verifies these claims, with as many seeds and in the precision that they had."""
    own = {one.seeds for one in found.claims if one.seeds != one.claim.preset.seeds}
    seeds = f" --seeds {own.pop()}" if own else ""
    x64 = " --x64" * any(one.command.endswith(" --x64") for one in found.claims)
    return f"jaxfact verify {' '.join(one.claim.id for one in found.claims)}{seeds}{x64}"


def _headline(one: Verified) -> str:
    return f"{one.claim.id}, {one.claim.title}: {one.verdict} ({one.paper.citation}, {one.claim.place})"


def _heading(found: Verification) -> list[str]:
    chance = f"if all of them hold, one is called violated in at most {100 * found.alarm:.2g} % of cases"
    count = len(found.claims)
    said = [f"{count} claim{'s' * (count != 1)}, {sum(one.seconds for one in found.claims):.0f} s; {chance}"]
    if count > 1:
        said.append("what stands behind each is on the page, all its numbers: jaxfact paper NAME")
    return said + [f"interrupted before {', '.join(found.left_out)}"] * bool(found.left_out)


def _row(one: Verified) -> list[str]:
    finding = one.deciding
    measured = f"{finding.what}: {measured_in(finding)} [{interval_of(finding)}]"
    claimed = f"{one.claim.title} ({one.paper.citation}, {one.claim.place})"
    return [one.claim.id, claimed, measured, finding.expected, str(one.verdict), f"{one.seconds:.0f}"]


def _remarkable(one: Verified) -> list[str]:
    """Return what keeps a claim from a plain verdict."""
    name = one.claim.id
    unmet = [f"{h.what} is {h.value:.3g}, not {h.bound}" for h in one.hypotheses if h.met is False]
    broken = [f"{identity} by {ratio:.3g}" for identity, ratio in one.defects.items() if ratio > 1]
    unknown = [identity for identity, ratio in one.defects.items() if math.isnan(ratio)]
    return [
        *(f"{name}: outside its hypotheses: {said}" for said in unmet),
        *(f"{name}: {finding.what}: {finding.why}" for finding in one.findings if finding.why),
        *(f"{name}: its runs break an identity by more than rounding explains: {said}" for said in broken),
        *(f"{name}: its runs are not finite from the first step on: {identity}" for identity in unknown),
    ]


def _behind(one: Verified) -> list[str]:
    """Return what stands behind a verdict."""
    claim, worst = one.claim, max(one.defects.values(), default=0.0)
    return [
        *(f"Hypothesis: {h.what}: {h.value:.3g} ({h.bound})." for h in one.hypotheses if h.met is not False),
        f"The rule notices, with probability 0.95, {claim.power.deviation}; control: {claim.control.said}.",
        *([f"Identities of a step: {worst:.2g} of what rounding explains."] if one.defects else []),
        *(said for said in (claim.evidence, claim.departure) if said),
    ]


def _caption(one: Verified) -> str:
    """Return the caption: what is claimed, what became of it and stands behind it, and the line that makes it again."""
    where = f"{one.paper.citation}, {one.claim.place}"
    said = f"{one.claim.id}: {one.verdict}. {one.claim.statement} ({where}) {' '.join(_behind(one))}"
    return f"{said} Made again by: {one.command}"


def _drawn(found: Verification) -> dict[str, Figure]:
    return {
        one.claim.id: figures.claim(one.claim.plot(one.runs), f"{one.claim.id}: {one.verdict}\n{one.claim.title}")
        for one in found.claims
    }


def _stores(found: Verification) -> dict[str, xr.Dataset]:
    """Return the runs by the path of their store: a folder for each preset."""
    return {f"{one.claim.preset.name}/{name}.zarr": runs for one in found.claims for name, runs in one.runs.items()}


def _claim_as_json(one: Verified) -> dict[str, Any]:
    return {
        **_described(one.paper, one.claim),
        "verdict": str(one.verdict),
        "seeds": one.seeds,
        "seconds": one.seconds,
        "findings": [asdict(finding) for finding in one.findings],
        "hypotheses": [asdict(hypothesis) for hypothesis in one.hypotheses],
        "defects": one.defects,
        "false_alarm": one.alarm,
        "command": one.command,
    }


def _described(paper: papers.Paper, claim: papers.Claim) -> dict[str, Any]:
    names = ("title", "place", "statement", "formula", "evidence", "departure")
    described = {name: getattr(claim, name) for name in names}
    notices, broken = claim.power.deviation, claim.control.said
    return {"paper": paper.name, "citation": paper.citation, **described, "notices": notices, "control": broken}


def _cells(finding: Finding) -> list[str]:
    said = str(finding.verdict or "–")
    return [
        finding.what,
        measured_in(finding),
        f"{interval_of(finding)} ({finding.interval})",
        finding.expected,
        said,
    ]
