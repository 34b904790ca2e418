"""The reference: `.. public:: jaxfact.methods` documents every public name of a namespace, from its docstring.

What is public is read from where it is declared, `jaxfact/__init__.pyi` and the families' own lists, so that nothing is
listed twice; `.. public:: jaxfact engine sweep` takes the names of these rooms alone. A build that leaves a public name
out fails.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import jaxfact

STUB = Path(jaxfact.__file__).with_suffix(".pyi")
# What jaxtyping makes of a PRNGKeyArray.
KEY = re.compile(r"Key\[[\w.]+, ''\] \| UInt32\[[\w.]+, '2'\] \| UInt32\[[\w.]+, '4'\]")
# What it makes of a ScalarLike, and JAX of an ArrayLike.
_NUMBERS = r"~?[\w.]*bool \| ~?[\w.]*number \| bool \| int \| float \| complex"
SCALAR = re.compile(r"~?[\w.]*Shaped\[[~\w.]+, ''\] \| ~?[\w.]*Shaped\[[~\w.]+, ''\] \| " + _NUMBERS)
ARRAY = re.compile(r"~?[\w.]*Array \| ~?[\w.]*ndarray \| " + _NUMBERS)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive, and what makes plain docstrings and their references readable."""
    app.add_directive("public", Public)
    # Before napoleon, which makes reStructuredText of sections.
    app.connect("autodoc-process-docstring", as_plain_text, priority=100)
    app.connect("autodoc-process-signature", in_short)
    app.connect("autodoc-skip-member", is_no_news)
    app.connect("missing-reference", by_its_public_name)
    app.connect("env-check-consistency", all_are_there)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Public(SphinxDirective):
    """Documents the public names of a namespace, in alphabetical order."""

    required_arguments, optional_arguments, final_argument_whitespace = 1, 1, True

    def run(self) -> list[nodes.Node]:
        """Return what autodoc makes of each name."""
        place, *rooms = " ".join(self.arguments).split()
        lines = [f".. py:currentmodule:: {place}", ""]
        for name, value in names(place, rooms):
            is_function = callable(value) and get_origin(value) is None  # and no type such as Callable[[int], str]
            kind = "class" if inspect.isclass(value) else "function" if is_function else "data"
            lines += [f".. auto{kind}:: {place}.{name}", *["   :members:"] * (kind == "class"), ""]
        parsed = nodes.container()
        self.state.nested_parse(StringList(lines, source=place), self.content_offset, parsed)
        return parsed.children


def names(place: str, rooms: list[str] = []) -> Iterator[tuple[str, Any]]:  # noqa: B006
    """Yield the public names of a namespace that are no namespaces themselves, with what they name."""
    if place == "jaxfact":
        lines = [node for node in ast.parse(STUB.read_text("utf-8")).body if isinstance(node, ast.ImportFrom)]
        listed = {line.names[0].name: (line.module or "").partition(".")[0] for line in lines}
        chosen = [name for name, room in listed.items() if not rooms or room in rooms]
    else:
        chosen = dir(namespace(place))
    for name in sorted(chosen, key=str.lower):
        value = getattr(namespace(place), name)
        if not isinstance(value, ModuleType):
            yield name, value


def namespace(place: str) -> Any:
    """Return a namespace by its public path, which need not be that of a file."""
    found: Any = jaxfact
    for name in place.split(".")[1:]:
        found = getattr(found, name)
    return found


def namespaces(place: str = "jaxfact") -> Iterator[str]:
    """Yield the public path of every namespace."""
    yield place
    for name in jaxfact.__all__ if place == "jaxfact" else dir(namespace(place)):
        if isinstance(getattr(namespace(place), name), ModuleType):
            yield from namespaces(f"{place}.{name}")


def as_plain_text(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Escape what reStructuredText would take for markup: docstrings are text, with code between backticks."""
    for place, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        parts[::2] = [re.sub(r"[\\*|]|_(?=\W|$)", r"\\\g<0>", part) for part in parts[::2]]
        lines[place] = "".join(parts)


def in_short(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Call arrays and keys by the names that everybody knows them by."""

    def shortened(text: str | None) -> str | None:
        if text is None:
            return None
        for pattern, known in ((KEY, "PRNGKeyArray"), (SCALAR, "ScalarLike"), (ARRAY, "ArrayLike")):
            text = pattern.sub(known, text)
        return text.replace("jaxlib._jax.Array", "Array")

    return shortened(signature), shortened(returned)


def is_no_news(app: Sphinx, what: str, name: str, value: object, skip: bool, options: object) -> bool | None:
    """Leave out what Python itself says of the fields of a named tuple."""
    return True if (getattr(value, "__doc__", None) or "").startswith("Alias for field number") else None


def by_its_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Resolve a type of a signature, which is known by the file that it is in."""
    target = homes().get(node.get("reftarget", ""))
    if target is None:
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)  # pyright: ignore


def homes() -> dict[str, str]:
    """Return the public paths of what is public by the paths of the files that define it."""
    found = {}
    for place in namespaces():
        for name, value in names(place):
            home = getattr(value, "__module__", None) or ""
            if home.startswith("jaxfact."):  # and not the Callable of which an alias is made
                found[f"{home}.{getattr(value, '__qualname__', name)}"] = f"{place}.{name}"
    return found


def all_are_there(app: Sphinx, env: BuildEnvironment) -> None:
    """Refuse a reference in which a public name is missing."""
    wanted = {f"{place}.{name}" for place in namespaces() for name, _ in names(place)}
    if missing := sorted(wanted - set(env.domains.python_domain.objects)):
        raise ExtensionError(f"docs/reference does not document {', '.join(missing)}; add a line `.. public::`")
