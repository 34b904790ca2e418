"""Draws what `factorization.py --json` printed as one chart: a bar per contender, labelled by what jaxfact gains on it.

python benchmarks/factorization.py --json > small.json
python benchmarks/chart.py small.json docs/speed.svg
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxfact.figures.styles import COLOURS, house

OURS, PEER, LIMIT = COLOURS[0], "#999999", "#CCCCCC"


def chart(report: dict) -> Figure:
    """Return the chart of one report; contenders that are timed twice appear with their shorter run."""
    again = ("ten times", "prepared")
    rows = [row for row in report["contenders"] if not any(said in row["contender"] for said in again)]
    rows.sort(key=lambda row: row["run_steps_per_second"])
    ours = next(row for row in rows if row["contender"] == "jaxfact")["run_steps_per_second"]
    figure = Figure(figsize=(6.3, 0.24 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        rate, name = row["run_steps_per_second"], row["contender"]
        colour = OURS if name == "jaxfact" else LIMIT if row["form"] == "limit" else PEER
        axes.barh(place, rate, color=colour)
        gain = ours / rate
        label = "" if name == "jaxfact" else f"{gain:,.0f} ×" if gain >= 10 else f"{gain:.2g} ×"
        axes.annotate(label, (rate, place), (4, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [row["contender"] for row in rows])
    slowest, fastest = (rows[at]["run_steps_per_second"] for at in (0, -1))
    limits = 10 ** np.floor(np.log10(slowest)), 5 * fastest
    axes.set(xscale="log", xlim=limits, xlabel="run-steps per second, and how many times that jaxfact makes")
    size, device = report["case"], report["device"]
    axes.set_title(
        f"{size['shape'][0]}×{size['shape'][1]}, rank {size['rank']}, width {size['width']}, {size['starts']} starts; "
        f"{device['cores']} cores of {device['cpu']}, {device['dtype']}"
    )
    return figure


def main() -> None:
    """Read the report and write the chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("chart", type=Path)
    options = parser.parse_args()
    with house():
        chart(json.loads(options.report.read_text())).savefig(options.chart, metadata={"Date": None})


if __name__ == "__main__":
    main()
