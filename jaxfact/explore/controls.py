"""What can be moved in the explorer, each control with its range, and the address of a page, which holds them all."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from jaxfact.choices import Spectrum
from jaxfact.inputs import as_whole, nearest, printable, problem_with, shown

WIDEST, HIGHEST = 5, 5
"""The largest width, and the largest rank of a target that is made up: to these everything is padded."""

METHODS: tuple[str, ...] = ("plain", "balanced", "noisy", "momentum", "scaled")
SPECTRA: tuple[str, ...] = tuple(Spectrum)
BUDGETS: tuple[int, ...] = (400, 2000)
_SHOWN = ("plain", "balanced", "momentum")
_DIGITS = 6


class Control(NamedTuple):
    """A number that can be moved from `low` to `high`, evenly or evenly in its logarithm, or in whole numbers.

    `label` says what it is, with symbol and unit; `group` under which heading it stands.
    """

    name: str
    label: str
    group: str
    low: float
    high: float
    usual: float
    logarithmic: bool = False
    whole: bool = False

    def read(self, text: Any) -> float | int:
        """Return the number that a text stands for. Raises ValueError for what is none, or out of range."""
        try:
            number = float(text)
        except (TypeError, ValueError):
            number = math.nan
        if self.whole and as_whole(number) is None:
            raise problem_with(self.name, _safe(text), "needs a whole number", self._range)
        if not self.low <= number <= self.high:
            raise problem_with(self.name, _safe(text), "is not in its range", self._range)
        return int(number) if self.whole else float(f"{number:.{_DIGITS}g}")

    def on_slider(self, value: float) -> float:
        """Return where a value is on its slider."""
        return math.log10(value) if self.logarithmic else value

    def off_slider(self, place: float) -> float | int:
        """Return the value at a place of the slider, within the range."""
        value = min(max(10**place if self.logarithmic else place, self.low), self.high)
        return round(value) if self.whole else float(f"{value:.{_DIGITS}g}")

    @property
    def _range(self) -> str:
        return f"give one from {self.low:g} to {self.high:g}"


class Choice(NamedTuple):
    """One of a few words."""

    name: str
    label: str
    group: str
    options: tuple[str, ...]
    usual: str

    def read(self, text: Any) -> str:
        """Return the option. Raises ValueError for what is none."""
        if text not in self.options:
            raise problem_with(self.name, _safe(text), "is no option", f"choose among {', '.join(self.options)}")
        return text


_START, _TARGET, _METHOD, _RUNS = "start", "target", "method", "runs"
_STEP_SIZE = Control("step_size", "step size η · σ₁", _METHOD, 0.01, 2.0, 0.5, logarithmic=True)
_OF_START = (
    Control("scale", "scale ε / √σ₁", _START, 1e-6, 3.0, 0.01, logarithmic=True),
    Control("ratio", "imbalance ‖U‖ / ‖V‖", _START, 0.01, 100.0, 1.0, logarithmic=True),
    Control("width", "width d", _START, 1, WIDEST, 3, whole=True),
)
_OF_TARGET = (
    Control("rank", "rank r", _TARGET, 1, HIGHEST, 3, whole=True),
    Control("condition", "condition σ₁ / σᵣ", _TARGET, 1.0, 1000.0, 3.0, logarithmic=True),
    Choice("spectrum", "spectrum", _TARGET, SPECTRA, Spectrum.LINEAR),
    Control("m", "rows m", _TARGET, WIDEST + HIGHEST, 1000, 100, logarithmic=True, whole=True),
    Control("n", "columns n", _TARGET, WIDEST + HIGHEST, 1000, 80, logarithmic=True, whole=True),
)
_OF_METHODS = (
    Control("weight", "balancing weight λ", _METHOD, 0.0, 2.0, 0.125),
    Control("noise", "noise ν / √σ₁", _METHOD, 1e-8, 0.1, 1e-6, logarithmic=True),
    Control("momentum", "momentum μ", _METHOD, 0.0, 0.99, 0.5),
    Control("damping", "damping δ / σ₁", _METHOD, 0.0, 1.0, 0.0),
)
_BUDGET = Choice("budget", "steps at most", _RUNS, tuple(map(str, BUDGETS)), str(BUDGETS[0]))
_FIRST_SEED = Control("first_seed", "first seed", _RUNS, 0, 10**6, 0, whole=True)
_SEEDS = Control("seeds", "starts per method", _RUNS, 1000, 10_000, 1000, logarithmic=True, whole=True)
# Of a matrix of one's own, whose runs may take a hundred times as long.
_FEWER_SEEDS = _SEEDS._replace(low=100)

MADE_UP: tuple[Control | Choice, ...] = (
    _STEP_SIZE, *_OF_METHODS, *_OF_START, *_OF_TARGET, _SEEDS, _FIRST_SEED, _BUDGET,
)  # fmt: skip
GIVEN: tuple[Control | Choice, ...] = (_STEP_SIZE, *_OF_METHODS, *_OF_START, _FEWER_SEEDS, _FIRST_SEED, _BUDGET)


class State(NamedTuple):
    """Where all controls stand, and which methods are shown."""

    values: Mapping[str, Any]
    methods: tuple[str, ...]

    @property
    def point(self) -> dict[str, Any]:
        """The values of the experiment's axes."""
        return {name: value for name, value in self.values.items() if name not in ("seeds", "first_seed", "budget")}

    @property
    def budget(self) -> int:
        """The most steps of a run."""
        return int(self.values["budget"])

    @property
    def seeds(self) -> range:
        """The seeds that are run."""
        return range(self.values["first_seed"], self.values["first_seed"] + self.values["seeds"])

    def moved(self, name: str, value: Any) -> "State":
        """Return the state with one control elsewhere."""
        return self._replace(values={**self.values, name: value})


def usual(controls: tuple[Control | Choice, ...]) -> State:
    """Return where controls stand at first."""
    return State({one.name: one.usual for one in controls}, _SHOWN)


def read_address(address: str, controls: tuple[Control | Choice, ...]) -> State:
    """Return the state of an address such as `step_size=0.3&methods=plain,noisy`; what it leaves out is usual.

    Raises ValueError for names that are no controls, for values out of range, and for controls that contradict.
    """
    state, known = usual(controls), {one.name: one for one in controls}
    for name, text in parse_qsl(address.lstrip("?"), keep_blank_values=True):
        if name == "methods":
            state = state._replace(methods=read_methods(text))
        elif name in known:
            state = state.moved(name, known[name].read(text))
        else:
            likely = nearest(name, [*known, "methods"])
            instead = f"{likely} may be meant" if likely else f"the controls are {', '.join(known)}, and methods"
            raise problem_with("address", _safe(name), "is no control of this page", instead)
    check(state)
    return state


def address_of(state: State, controls: tuple[Control | Choice, ...]) -> str:
    """Return the address of a state: what is not where it usually stands."""
    first = usual(controls)
    moved = {name: _number(value) for name, value in state.values.items() if value != first.values[name]}
    shown_methods = {} if state.methods == first.methods else {"methods": ",".join(state.methods)}
    return urlencode(moved | shown_methods, safe=",")


CHECKED = ("width", "rank", "condition")
"""The controls along which `check` may refuse some values and not others."""


def check(state: State) -> None:
    """Refuse a width below the rank where the best approximation of that width is not one matrix but a set."""
    values = state.values
    if "rank" not in values or values["width"] >= values["rank"]:
        return
    if values["condition"] == 1 or (values["spectrum"] == Spectrum.STEP and values["width"] < values["rank"] - 1):
        needed = f"is below the rank, {values['rank']}, of equal singular values: the best approximations are a set"
        raise problem_with("width", values["width"], needed, "widen, or choose another spectrum or condition")


def read_methods(text: str) -> tuple[str, ...]:
    """Return the methods that a list with commas names, in their usual order. Raises ValueError for others."""
    chosen = text.split(",") if text else []
    unknown = [name for name in chosen if name not in METHODS]
    if unknown or not chosen:
        needed = "is no method" if unknown else "names no method"
        raise problem_with("methods", _safe(text), needed, f"choose among {', '.join(METHODS)}")
    return tuple(name for name in METHODS if name in chosen)


def _number(value: Any) -> str:
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)


def _safe(text: Any) -> str:
    return printable(shown(text))
