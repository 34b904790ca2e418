"""Claims of papers, held against runs: which are asked for, what they show, and whether it is what was promised."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import xarray as xr

from jaxfact.inputs import explained, nearest, positive_integer, problem_with
from jaxfact.jobs.identities import defects
from jaxfact.jobs.verdicts import of_verification
from jaxfact.numerics.products import in_full_precision
from jaxfact.papers.base import Paper, claims, find, names
from jaxfact.papers.claims import Claim, Hypothesis, Preset, Runs, Sweeps, verdict_of
from jaxfact.papers.rules import Finding, Verdict
from jaxfact.showing.markup import REPORTED, Table, card
from jaxfact.showing.pace import WORK
from jaxfact.showing.progress import Progress, shown_progress


@dataclass(frozen=True)
class Verified:
    """What became of one claim.

    `runs` are those of its preset, by name, shared with the claims of the same one. `findings` begins with the number
    that matters most. `defects` holds for each exact identity the largest defect over what rounding explains, on the
    first steps of a run of every sweep. `seconds` are those of its runs, and of judging alone where another claim
    before it had made them. `command` makes it again.
    """

    claim: Claim
    paper: Paper
    seeds: int
    runs: dict[str, xr.Dataset]
    findings: list[Finding]
    hypotheses: list[Hypothesis]
    defects: dict[str, float]
    verdict: Verdict
    seconds: float
    command: str

    @property
    def deciding(self) -> Finding:
        """The finding to which the verdict is due: the first that has it, else the first."""
        return next((finding for finding in self.findings if finding.verdict is self.verdict), self.findings[0])

    @property
    def alarm(self) -> float:
        """The chance, at most, that it is called violated though it holds."""
        return sum(finding.alarm for finding in self.findings)


@dataclass(frozen=True)
class Verification:
    """What `verify` found, claim by claim.

    `left_out` are the ids of those that an interrupt kept from being run, `failed` holds by id what those ended with
    that could not be run or judged.
    """

    claims: tuple[Verified, ...]
    left_out: tuple[str, ...] = ()
    failed: dict[str, Exception] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Verified:
        """Return what became of a claim by its id. Raises ValueError for one that was not run, or not to its end."""
        known = {found.claim.id: found for found in self.claims}
        if error := self.failed.get(name.upper()):
            needed = f"ended in {type(error).__name__}: {error}"
            raise problem_with("claim", name, needed, "mend that, and verify it again") from error
        if name.upper() not in known:
            needed = f"is not among those that were run, {', '.join(known)}"
            raise problem_with("claim", name, needed, "choose one of these")
        return known[name.upper()]

    def __repr__(self) -> str:
        said = [f"{found.claim.id}: {found.verdict}" for found in self.claims]
        said += [f"{name}: {type(error).__name__}" for name, error in self.failed.items()]
        return f"Verification({', '.join(said)})"

    def _repr_html_(self) -> str:
        """Say in a notebook what became of the claims."""
        rows = [
            [one.claim.id, one.claim.title, f"{one.paper.citation}, {one.claim.place}", str(one.verdict)]
            for one in self.claims
        ]
        rows += [[name, "", "", f"ended in {type(error).__name__}"] for name, error in self.failed.items()]
        table = Table(["id", "claim", "paper", "verdict"], rows)
        return card("Verification", said=of_verification(self), table=table, note=REPORTED)

    @property
    def violated(self) -> tuple[str, ...]:
        """The ids of claims that are violated though their hypotheses are met."""
        return tuple(found.claim.id for found in self.claims if found.verdict is Verdict.VIOLATED)

    @property
    def alarm(self) -> float:
        """The chance, at most, that one of them is called violated though all hold."""
        return sum(found.alarm for found in self.claims)


Chosen = dict[str, tuple[Paper, Claim]]
"""Claims by id, with their papers."""

_Ended = dict[str, Verified | Exception]


@explained
@in_full_precision
def verify(
    *claims_or_papers: str,
    seeds: int | None = None,
    store: str | Path | None = None,
    progress: Progress | bool = True,
) -> Verification:
    """Run what claims of papers are about, and decide whether they hold.

    A claim holds where the interval of every number that it is judged by, at 95 %, lies within what is promised. It is
    violated where one lies so far beyond that chance makes it so in 2·10⁻⁵ of cases at most; otherwise it is
    inconclusive. Where a hypothesis that can be computed is not met, it is outside its hypotheses. Claims of the same
    preset share their runs. A preset that needs double precision is run in it, whatever else is; others are run in the
    precision that holds where this is called. An interrupt keeps what is done, and a claim that fails does not stop
    the others.

    Args:
        *claims_or_papers: Ids of claims and names of papers, all claims without any: verify("C8", "ye-du-2021").
        seeds: The number of seeds, each preset's own without it.
        store: The path or URL of a store of the runs, new or of the same claim; where a preset has several sweeps, of a
            folder with one for each.
        progress: Whether it is shown, as by `sweep`, or a function of the seconds of work done and those of all
            work, by an estimate.

    Returns:
        A `Verification`: `jf.report` shows it.

    Raises:
        ValueError: For a name that is unknown, a paper without claims, fewer seeds than a rule needs, a store for
            claims of several presets, and a store of other runs.
        Exception: Whatever the first claim ended with, where none was judged.
    """
    wanted = chosen(claims_or_papers)
    check(wanted, seeds, store)
    done: dict[str, Verified] = {}
    failed: dict[str, Exception] = {}
    try:
        with shown_progress(progress, WORK) as tell:
            for some in _verified(wanted, seeds, store, tell):
                done |= {name: one for name, one in some.items() if isinstance(one, Verified)}
                failed |= {name: one for name, one in some.items() if isinstance(one, Exception)}
    except KeyboardInterrupt:
        if not done:
            raise
    if failed and not done:
        raise next(iter(failed.values()))
    left_out = tuple(name for name in wanted if name not in done and name not in failed)
    return Verification(tuple(done[name] for name in wanted if name in done), left_out, failed)


def chosen(wanted: Sequence[str]) -> Chosen:
    """Return the claims that ids and papers name, in order, each once; all without any.

    Raises ValueError for an unknown name, which says what is near, and for a paper without claims.
    """
    known = claims()
    if not wanted:
        return known
    ids = [name for one in wanted for name in _ids(one, known)]
    return {name: found for name, found in known.items() if name in ids}


def check(wanted: Chosen, seeds: int | None, store: str | Path | None) -> None:
    """Refuse seeds that are too few for what a rule is to notice, and a store where there are several presets."""
    if seeds is not None:
        seeds = positive_integer("seeds", seeds, "give the number of seeds")
        name, claim = max(((name, claim) for name, (_, claim) in wanted.items()), key=lambda one: one[1].power.seeds)
        if seeds < claim.power.seeds:
            needed = f"{name} needs {claim.power.seeds} to notice, with probability 0.95, {claim.power.deviation}"
            raise problem_with("seeds", seeds, needed, f"give {claim.power.seeds} or more, or leave it out")
    presets = {claim.preset.name for _, claim in wanted.values()}
    if store is not None and len(presets) > 1:
        needed = f"holds the runs of one preset, and these claims have {len(presets)}: {', '.join(sorted(presets))}"
        raise problem_with("store", store, needed, "name claims of one")


def _ids(name: str, known: Chosen) -> list[str]:
    if name.upper() in known:
        return [name.upper()]
    if name not in names():
        likely = nearest(name.upper(), known) or nearest(name, names())
        instead = f"{likely} may be meant" if likely else "leave it out for all"
        raise problem_with("claim", name, "is neither the id of a claim nor the name of a paper", instead)
    if not find(name).claims:
        raise problem_with("paper", name, "has no claims yet", "jaxfact verify --list says which have")
    return [claim.id for claim in find(name).claims]


def _verified(wanted: Chosen, seeds: int | None, store: str | Path | None, progress: Progress) -> Iterator[_Ended]:
    """Yield the claims of one preset after the other, so that its runs are made once."""
    presets = {claim.preset.name: claim.preset for _, claim in wanted.values()}
    work, done = sum(preset.seconds for preset in presets.values()), 0
    for name, preset in presets.items():
        own = {one: found for one, found in wanted.items() if found[1].preset.name == name}
        yield _of_preset(preset, own, seeds, store, _share(progress, done, preset.seconds, work))
        done += preset.seconds
        progress(done, work)


def _of_preset(
    preset: Preset, wanted: Chosen, seeds: int | None, store: str | Path | None, progress: Progress
) -> _Ended:
    """Return what became of the claims of a preset; whatever one of them stumbles over, the others go on."""
    began, count = time.monotonic(), preset.seeds if seeds is None else seeds
    sweeps = Sweeps(count, progress, store, preset.sweeps)
    try:
        runs, x64 = preset.run(sweeps), bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
        with preset.precision():
            found = defects(sweeps.made.values())
    except Exception as error:
        return dict.fromkeys(wanted, error)
    all_of_them: _Ended = {}
    for name, (paper, claim) in wanted.items():
        words = [f"jaxfact verify {claim.id} --seeds {count}", "--x64" if x64 else ""]
        try:
            made = _judged(paper, claim, runs, found, " ".join(filter(None, words)))
            all_of_them[name] = replace(made, seeds=count, seconds=time.monotonic() - began)
        except Exception as error:
            all_of_them[name] = error
        began = time.monotonic()
    return all_of_them


def _judged(paper: Paper, claim: Claim, runs: Runs, found: dict[str, float], command: str) -> Verified:
    findings, hypotheses = claim.judge(runs), claim.hypotheses(runs)
    verdict = verdict_of(findings, hypotheses)
    if verdict is Verdict.HOLDS and not all(ratio <= 1 for ratio in found.values()):
        verdict = Verdict.INCONCLUSIVE  # runs whose arithmetic breaks an identity show nothing
    return Verified(claim, paper, 0, runs, findings, hypotheses, found, verdict, 0.0, command)


def _share(progress: Progress, done: int, seconds: int, work: int) -> Progress:
    """Return the progress of one preset's runs, as part of all work."""
    return lambda runs, total: progress(done + int(seconds * runs / max(total, 1)), work)
