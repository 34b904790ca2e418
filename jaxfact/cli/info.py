"""The command that says what is installed."""

import sys

import typer

from jaxfact.cli import terminal
from jaxfact.cli.register import command
from jaxfact.version import __version__


@command(place=90)
def info() -> None:
    """Print versions, devices and precision.

    Example: jaxfact info
    """
    terminal.configure(x64=False)
    from importlib.metadata import version

    import jax
    import numpy as np

    names = ("jax", "jaxlib", "optax", "equinox", "chex", "numpy", "xarray", "zarr")
    typer.echo(f"{'jaxfact':<12}{__version__}")
    typer.echo("\n".join(f"{name:<12}{version(name)}" for name in names))
    typer.echo(f"{'python':<12}{sys.version.split()[0]}")
    typer.echo(f"{'backend':<12}{jax.default_backend()}")
    typer.echo(f"{'devices':<12}{len(jax.local_devices())} × {jax.local_devices()[0].device_kind}")
    typer.echo(f"{'float32':<12}epsilon {np.finfo('f4').eps:.2g}; the default")
    typer.echo(f"{'float64':<12}epsilon {np.finfo('f8').eps:.2g}; with --x64")
    typer.echo(f"{'products':<12}{jax.config.jax_default_matmul_precision or 'backend default'}")  # pyright: ignore[reportAttributeAccessIssue]
