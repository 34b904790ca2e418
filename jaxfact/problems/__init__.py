"""Low-rank matrix problems, and what they are made of."""

from jaxfact.problems import operators as operators
