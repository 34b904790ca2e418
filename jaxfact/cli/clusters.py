"""Which cluster a command means: an address, this machine, or what a file says."""

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jaxfact.inputs import problem_with

_GIVE = "give local, the address of a scheduler, or a .yaml file with module, class, kwargs, and scale or adapt"


@contextmanager
def client_of(given: str | None) -> Iterator[Any]:
    """Yield a client of the cluster that is meant, None for none; one that was started for it ends with the block.

    Raises ValueError where there is none.
    """
    if given is None:
        yield None
        return
    try:
        import dask.config  # pyright: ignore[reportMissingImports]
        import distributed  # pyright: ignore[reportMissingImports]

        from jaxfact.engine.devices import cores
    except ImportError:
        needed, instead = "the package distributed is missing", "pip install 'jaxfact[cluster]' installs it"
        raise problem_with("--cluster", given, needed, instead) from None
    # That a scheduler has gone is said in one line, and its client would add a traceback.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    with ExitStack() as opened:
        place: Any = given
        if given == "local":
            # A worker that dies twice within a quarter of a minute would be given up, and not started again.
            opened.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": "24 hours"}))
            place = opened.enter_context(
                distributed.LocalCluster(cores(), threads_per_worker=1, dashboard_address=":0")
            )
        elif given.endswith((".yaml", ".yml")):
            place = opened.enter_context(_described(Path(given)))
        try:
            client: Any = distributed.Client(place, timeout="30s")
        except (OSError, ValueError, TimeoutError) as error:
            raise problem_with("--cluster", given, f"cannot be reached ({error})", _GIVE) from None
        print(f"jaxfact: cluster {client.scheduler.address}, {client.dashboard_link}", file=sys.stderr)
        yield opened.enter_context(client)


def _described(file: Path) -> Any:
    """Return the cluster that a file describes, started, with as many workers as it says."""
    import yaml  # which comes with distributed

    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
        kind = getattr(importlib.import_module(said["module"]), said["class"])
        kwargs, scale, adapt = (dict(said.get(name) or {}) for name in ("kwargs", "scale", "adapt"))
        cluster = kind(**kwargs)
    except (OSError, AttributeError, ImportError, KeyError, TypeError, yaml.YAMLError) as error:
        said = f"does not describe a cluster ({type(error).__name__}: {error})"
        raise problem_with("--cluster", file, said, _GIVE) from None
    if scale:
        cluster.scale(**scale)
    if adapt:
        cluster.adapt(**adapt)
    return cluster
