"""The accessor `runs.jaxfact` of a sweep's dataset: its statistics and figures, there once this is loaded."""

from jaxfact.accessor.registered import Runs as Runs
