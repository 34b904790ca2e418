"""What a measure is: a number worth recording, a function of a problem and a pair of factors."""

from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree

Measure = Callable[[Any, Any], PyTree]
