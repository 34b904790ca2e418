"""What `jf.stats.fit_law` finds in sweeps of descent, how often it finds what was planted, and what its intervals hold.

python benchmarks/laws.py [descent] [tail] [noise] [coverage]
"""

import sys
import time

import jax
import numpy as np
import xarray as xr

import jaxfact as jf

LawForm = jf.stats.LawForm
BALANCE = (LawForm.LOGARITHM, LawForm.LOGARITHMS)


def grid(**axes) -> list[xr.DataArray]:
    """Return axes as labelled arrays, each along itself."""
    return [xr.DataArray(np.asarray(values, float), dims=name, coords={name: values}) for name, values in axes.items()]


def scattered(median: xr.DataArray, seeds: int, scatter: float, key: int) -> jf.stats.Times:
    """Return times of many seeds, half of whose scatter is shared by all points of a seed."""
    rng = np.random.default_rng(key)
    noise = scatter * (rng.standard_normal(seeds) + rng.standard_normal((*median.shape, seeds))) / 2**0.5
    hit = median.expand_dims(seed=np.arange(seeds)).transpose(..., "seed") * np.exp(noise)
    return jf.stats.Times(hit, hit)


def descent() -> None:
    """Over sizes, widths, condition numbers, scales, steps and levels; then on the easy part, held against the rest."""

    def experiment(step_size, m, n, rank, condition, scale):
        values = jf.data.singular_values(rank, condition, padded_to=4)
        start = jf.starts.Gaussian(rank, scale=scale, padded_to=4)
        return jf.Run(jf.Factorization(values, shape=(m, n)), start, jf.methods.gradient_descent(step_size))

    runs = jf.sweep(
        experiment,
        seeds=30,
        max_steps=8000,
        tolerance=1e-10,
        check_every=4,
        levels=[1e-2, 1e-4, 1e-6, 1e-8],
        step_size=[0.05, 0.1, 0.2],
        m=[8, 30, 100, 400],
        n=[8, 100],
        rank=[2, 3, 4],
        condition=[2.0, 4.0, 8.0],
        scale=[1e-5, 1e-4, 1e-3, 1e-2],
    )
    given = {"sigma_d": 1 / runs.condition, "size": runs.m + runs.n}
    for title, forms in (("all forms", tuple(LawForm)), ("one power", (LawForm.POWER,))):
        began = time.process_time()
        found = jf.stats.fit_law(jf.stats.time_to(runs), given=given, forms=forms)
        print(f"\n{title}, {time.process_time() - began:.1f} s of one core\n{found}")
    # Times that are short and of small problems, and what their law says of the long ones.
    easy = runs.isel(m=slice(0, 3), condition=slice(0, 2), scale=slice(1, None)).isel(level=runs.level.values >= 1e-6)
    sizes = {"sigma_d": 1 / easy.condition, "size": easy.m + easy.n}
    law = jf.stats.fit_law(jf.stats.time_to(easy), given=sizes).nearest
    print(f"\nfrom the easy part: {law}")
    errors = law.against(jf.stats.time_to(runs), given)
    print(f"on all: root mean square {float((errors**2).mean() ** 0.5):.3f}, largest {float(np.abs(errors).max()):.3f}")


def tail() -> None:
    """Of 50,000 starts at each of 16 points."""

    def experiment(step_size, condition):
        problem = jf.Factorization(jf.data.singular_values(2, condition), shape=(30, 30))
        return jf.Run(problem, jf.starts.Gaussian(2, scale=1e-2), jf.methods.gradient_descent(step_size))

    runs = jf.sweep(
        experiment,
        seeds=50_000,
        max_steps=20_000,
        tolerance=1e-2,
        check_every=1,
        step_size=[0.05, 0.1, 0.2, 0.4],
        condition=[1.25, 2.0, 4.0, 8.0],
    )
    for share in (0.1, 0.02):
        arrivals = jf.stats.time_to(runs, 1e-2)
        found = jf.stats.fit_law(arrivals, given={"sigma_r": 1 / runs.condition}, statistic=jf.stats.Tail(share))
        print(f"\nthe last {share:g}: {found}")


def noise() -> None:
    """Points that have nothing to do with each other: how often a law is found."""
    for spread in (0.1, 0.3, 1.0):
        found = 0
        for key in range(40):
            x, y = grid(x=np.geomspace(1, 1000, 8), y=np.geomspace(0.1, 10, 6))
            median = xr.zeros_like(x * y) + np.random.default_rng(key).lognormal(4, spread, (8, 6))
            found += jf.stats.fit_law(scattered(median, 20, 0.1, key)).law is not None
        print(f"medians that scatter by {spread:g}: a law in {found} of 40")


def coverage() -> None:
    """How often what was planted is found, and how often the intervals of its numbers hold the truth."""
    x, y, z = grid(x=np.geomspace(1, 100, 4), y=np.geomspace(1, 10, 3), z=np.geomspace(1e-6, 1e-2, 4))
    rate, scale, level = grid(
        rate=np.geomspace(0.01, 0.2, 4), scale=np.geomspace(1e-6, 1e-2, 5), level=np.geomspace(1e-9, 1e-2, 6)
    )
    balance = np.maximum(np.log(1 / scale) + 0.5 * np.log(1 / level), np.log(30 / level)) / np.log1p(rate)
    for title, median, forms, truth, counts, repeats in (
        ("a power", 20 * x / y + 0 * z, (LawForm.POWER,), [{"x": 1, "y": -1, "1": 20}], (2, 3, 5, 10, 30), 100),
        ("a logarithm", (np.log(1 / z) + 2) / x + 0 * y, (LawForm.LOGARITHM,), [{"z": -1, "1": 2}], (3, 10, 30), 60),
        (
            "a balance",
            balance,
            BALANCE,
            [{"scale": -1, "level": -0.5}, {"level": -1, "1": np.log(30)}],
            (5, 10, 20),
            40,
        ),
    ):
        for seeds in counts:
            found = (
                jf.stats.fit_law(scattered(median, seeds, 0.2, key), forms=forms, error=0.1).nearest
                for key in range(repeats)
            )
            inside = [held for law in found if (held := intervals(law, truth)) is not None]
            all_of_them = np.concatenate([np.array(one, bool) for one in (*inside, [])])
            said = f"{100 * all_of_them.mean():.1f} % of {len(all_of_them)} intervals hold the truth"
            print(f"{title}, {seeds} seeds: found in {len(inside)} of {repeats}; {said}", flush=True)


def intervals(law: jf.stats.Law, truth: list[dict[str, float]]) -> list[bool] | None:
    """Tell of each interval of a law's numbers whether it holds the truth; None for a law of another form."""

    def slopes(piece: dict[str, float]) -> list[float]:
        return [piece.get(name, 0.0) for name in law.features]

    pieces = np.argsort([row[0] + 10 * row[1] for row in law.numbers[:, :-1]]) if len(law.numbers) == len(truth) else []
    wanted = sorted(truth, key=lambda piece: slopes(piece)[0] + 10 * slopes(piece)[1])
    if len(pieces) == 0 or [slopes(piece) for piece in wanted] != law.numbers[pieces, :-1].tolist():
        return None
    inside = []
    for place, piece in zip(pieces, wanted, strict=True):
        for name, value in piece.items():
            one = law.coefficients.isel(piece=place).sel(term=name)
            if one.high > one.low:
                inside.append(bool(one.low <= value <= one.high))
    return inside


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for job in sys.argv[1:] or ("descent", "tail", "noise", "coverage"):
        print(f"\n{job}: {globals()[job].__doc__}", flush=True)
        globals()[job]()
