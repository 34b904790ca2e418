"""Tests the claims about how cost grows: flat in seeds and in m = n, about d³ in the width, about κ in time.

Each point is a sweep of its own; seconds exclude compilation and include drawing the starts.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from factorization import device, device_line

import jaxfact as jf

STEP_SIZE, NORM, TOLERANCE, CHECK_EVERY = 0.3, 0.1, 1e-3, 50
FULL = {
    "seeds": (10**2, 10**3, 10**4, 10**5, 10**6),
    "size": (10**2, 10**3, 10**4, 10**5, 10**6),
    "width": (1, 2, 4, 8, 16, 32),
    "condition": (1, 2, 5, 10, 20, 50, 100),
    "starts": 10**5,
    "run_steps": 10**7,
}
QUICK = {
    "seeds": (10**2, 10**3, 10**4),
    "size": (10**2, 10**6),
    "width": (1, 4, 8),
    "condition": (1, 10),
    "starts": 10**3,
    "run_steps": 10**5,
}


def swept(size: int, width: int, seeds: int, steps: int, condition: float = 2.0, tolerance: float | None = None):
    """Return the dataset of one sweep on an m = n = size target whose rank is the width, and its set-up seconds."""
    values = np.linspace(1, 1 / condition, width, dtype=np.float32)
    problem = jf.Factorization(values, shape=(size, size))

    def experiment(step_size):
        return jf.Run(problem, jf.starts.Gaussian(width, norm=NORM), jf.methods.gradient_descent(step_size))

    began = time.perf_counter()
    runs = jf.sweep(
        experiment,
        seeds=seeds,
        max_steps=steps,
        tolerance=tolerance,
        check_every=CHECK_EVERY,
        compress=True,
        step_size=[STEP_SIZE],
    )
    wall = time.perf_counter() - began
    return runs, wall - float(runs.compile_seconds) - float(runs.run_seconds)


def costs(size: int, width: int, seeds: int, steps: int) -> dict:
    """Return what a sweep of a fixed number of steps costs."""
    runs, set_up = swept(size, width, seeds, steps)
    seconds = float(runs.run_seconds)
    return {
        "seeds": seeds,
        "steps": steps,
        "run_seconds": seconds,
        "set_up_seconds": set_up,
        "compile_seconds": float(runs.compile_seconds),
        "seconds_per_run_step": seconds / (seeds * steps),
    }


def arrival(condition: float, seeds: int) -> dict:
    """Return how long runs take to the tolerance at one condition number."""
    # Escape and convergence both take a multiple of κ/η steps; this is several times their sum.
    most = CHECK_EVERY * int(np.ceil(200 * condition / STEP_SIZE / CHECK_EVERY))
    runs, set_up = swept(100, 5, seeds, most, condition, TOLERANCE)
    hit = runs.hit.isel(level=-1).values.ravel()
    return {
        "seeds": seeds,
        "run_seconds": float(runs.run_seconds),
        "set_up_seconds": set_up,
        "compile_seconds": float(runs.compile_seconds),
        "seconds_per_run": float(runs.run_seconds) / seeds,
        "median_steps_to_tolerance": float(np.median(np.where(np.isnan(hit), np.inf, hit))),
        "arrived": float(np.mean(np.isfinite(hit))),
    }


def steps_of(run_steps: int, seeds: int) -> int:
    """Return how many steps make about a number of run-steps: at least 100, in whole checks."""
    return CHECK_EVERY * int(np.clip(run_steps // seeds, 100, 10_000) // CHECK_EVERY)


def panels(plan: dict) -> dict[str, dict[float, Callable[[], dict]]]:
    """Return what is to be measured at every point of the four panels."""
    total, starts = plan["run_steps"], plan["starts"]
    per_width = max(100, starts // 100)
    return {
        "seeds": {s: lambda s=s: costs(100, 5, s, steps_of(total, s)) for s in plan["seeds"]},
        "size": {m: lambda m=m: costs(m, 5, starts, 100) for m in plan["size"]},
        "width": {d: lambda d=d: costs(100, d, per_width, steps_of(total // 10, per_width)) for d in plan["width"]},
        "condition": {k: lambda k=k: arrival(k, per_width) for k in plan["condition"]},
    }


def measure(plan: dict, repeats: int) -> dict[str, list[dict]]:
    """Measure all points in turn, several times, and return their medians."""
    todo = panels(plan)
    rounds = [
        {name: {at: run() for at, run in points.items()} for name, points in todo.items()} for _ in range(repeats)
    ]
    return {
        name: [{name: at} | medians([found[name][at] for found in rounds]) for at in points]
        for name, points in todo.items()
    }


def medians(found: Sequence[dict]) -> dict:
    """Return the median of every entry."""
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def draw(report: dict, folder: Path) -> None:
    """Write the four panels as PNG and SVG."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    kinds = {
        "seeds": ("seeds", "seconds_per_run_step", 1e9, "ns per run-step", 0),
        "size": ("m = n", "seconds_per_run_step", 1e9, "ns per run-step, draws included", 0),
        "width": ("width d = rank", "seconds_per_run_step", 1e9, "ns per run-step", 3),
        "condition": ("condition number κ", "seconds_per_run", 1e3, f"ms per run to distance {TOLERANCE:g}", 1),
    }
    figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    for axis, (name, (label, key, unit, text, power)) in zip(axes.flat, kinds.items(), strict=True):
        at = np.array([row[name] for row in report["panels"][name]], float)
        cost = np.array([row[key] for row in report["panels"][name]]) * unit
        axis.loglog(at, cost, "o-")
        if power:
            axis.loglog(at, cost[-1] * (at / at[-1]) ** power, ":", color="grey", label=f"power {power}")
            axis.legend(frameon=False)
        else:
            axis.set_ylim(min(cost) / 10, max(cost) * 10)
        axis.set(xlabel=label, ylabel=text)
    figure.suptitle(device_line(report["device"]), fontsize=8)
    for kind in ("png", "svg"):
        figure.savefig(folder / f"scaling.{kind}", dpi=150)
    plt.close(figure)


def power_of_ten(number: int) -> str:
    """Return 10⁵ for 100000."""
    return "10" + str(round(np.log10(number))).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def show(report: dict) -> None:
    """Print the report as text."""
    print(device_line(report["device"]))
    for name, rows in report["panels"].items():
        for row in rows:
            cost = (
                f"{row['seconds_per_run'] * 1e3:9.3g} ms per run, median {row['median_steps_to_tolerance']:g} steps, "
                f"{row['arrived']:.0%} arrived"
                if name == "condition"
                else f"{row['seconds_per_run_step'] * 1e9:9.3g} ns per run-step ({row['seeds']:g} × {row['steps']:g})"
            )
            print(f"{name:<10}{row[name]:>9g}: {cost}; run {row['run_seconds']:.3g} s")
    small, large = report["panels"]["size"][0], report["panels"]["size"][-1]
    print(
        f"{power_of_ten(large['seeds'])} starts drawn and run for {large['steps']:g} steps at "
        f"m=n={power_of_ten(large['size'])} against {power_of_ten(small['size'])}: ratio {report['size_ratio']:.3g}"
    )


def main() -> None:
    """Measure, print, and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for scaling.png, scaling.svg and scaling.json")
    parser.add_argument("--quick", action="store_true", help="a few points and runs only")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = measure(QUICK if options.quick else FULL, options.repeats)
    ratio = found["size"][-1]["run_seconds"] / found["size"][0]["run_seconds"]
    report = {"device": device(), "quick": options.quick, "panels": found, "size_ratio": ratio}
    show(report)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "scaling.json").write_text(json.dumps(report, indent=2))
        draw(report, options.out)


if __name__ == "__main__":
    main()
