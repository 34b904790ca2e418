"""Nested containers of arrays, as JAX knows them."""

from typing import Any, TypeAlias

PyTree: TypeAlias = Any
"""Any nesting of tuples, lists, dicts and modules with arrays in it; jaxtyping's name is unknown to type checkers."""
