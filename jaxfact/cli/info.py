"""The command that says what is installed."""

import sys

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

    from jaxfact.engine.devices import working_devices

    names = ("jax", "jaxlib", "optax", "equinox", "chex", "numpy", "xarray", "zarr")
    print(f"{'jaxfact':<12}{__version__}")
    print("\n".join(f"{name:<12}{version(name)}" for name in names))
    print(f"{'python':<12}{sys.version.split()[0]}")
    print(f"{'backend':<12}{jax.default_backend()}")
    print(f"{'devices':<12}{len(working_devices())} × {working_devices()[0].device_kind}")
    print(f"{'float32':<12}epsilon {np.finfo('f4').eps:.2g}; the default")
    print(f"{'float64':<12}epsilon {np.finfo('f8').eps:.2g}; with --x64")
    print(f"{'products':<12}{jax.config.jax_default_matmul_precision or 'backend default'}")  # pyright: ignore[reportAttributeAccessIssue]
