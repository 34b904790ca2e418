"""What reading text costs beside pandas: a million ratings, a table, one line of a million fields.

pandas' read_csv alone only reads columns; a list becomes a matrix, as here, by its pivot. A line of a million fields
needs at most six times its size in memory.
"""

import argparse
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from jaxfact import data


def seconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def compared(name: str, ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> None:
    """Print medians of alternating rounds."""
    rounds = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    own, other = (statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"{name:<34} {own:8.3f} s   pandas {other:8.3f} s   ratio {own / other:.2f}")


def ratings(count: int) -> pd.DataFrame:
    """Distinct pairs of 6000 users and 4000 films with a rating and a time, as MovieLens has them."""
    rng = np.random.default_rng(0)
    cells = rng.choice(6000 * 4000, count, replace=False)
    times = 978_300_000 + rng.integers(0, 10**7, count)
    stars = rng.integers(1, 11, count) / 2
    return pd.DataFrame({"userId": cells // 4000 + 1, "movieId": cells % 4000 + 1, "rating": stars, "timestamp": times})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare_all(Path(folder), options.lines, options.repeats)


def compare_all(folder: Path, count: int, repeats: int) -> None:
    frame = ratings(count)
    frame.to_csv(folder / "ratings.csv", index=False)
    frame.to_csv(folder / "u.data", sep="\t", index=False, header=False)
    text = frame.assign(userId="u" + frame.userId.astype(str), movieId="film " + frame.movieId.astype(str))
    text.to_csv(folder / "text.csv", index=False)
    (folder / "ratings.dat").write_text((folder / "u.data").read_text().replace("\t", "::"))
    for name, separator in (("ratings.csv", ","), ("u.data", "\t"), ("text.csv", ",")):
        path = folder / name
        plain = {"sep": separator, "header": None if name == "u.data" else 0}
        compared(name, lambda: data.read(path), lambda: pd.read_csv(path, **plain), repeats)  # noqa: B023
    pivoted = lambda: pd.read_csv(folder / "ratings.csv").pivot(index="userId", columns="movieId", values="rating")  # noqa: E731
    compared("ratings.csv, beside its pivot", lambda: data.read(folder / "ratings.csv"), pivoted, repeats)
    theirs = lambda: pd.read_csv(folder / "u.data", sep="\t", header=None)  # noqa: E731
    compared("ratings.dat, beside u.data", lambda: data.read(folder / "ratings.dat"), theirs, repeats)
    table = pd.DataFrame(np.random.default_rng(1).normal(size=(1000, 1000)))
    table.to_csv(folder / "table.csv")
    theirs = lambda: pd.read_csv(folder / "table.csv", index_col=0)  # noqa: E731
    compared("1000×1000, 17 digits, named", lambda: data.read(folder / "table.csv"), theirs, repeats)
    line = folder / "line.csv"
    line.write_text(",".join(map(str, np.arange(1_000_000) % 1000 / 8)) + "\n")
    print(f"{'a line of a million fields':<34} {seconds(lambda: data.read(line)):8.3f} s")
    tracemalloc.start()
    data.read(line)
    print(f"{'its memory over its size':<34} {tracemalloc.get_traced_memory()[1] / line.stat().st_size:8.1f}")


if __name__ == "__main__":
    main()
