"""Gradient flow, the limit of small steps: integrated for any problem, and where it has a closed form."""

from jaxfact.choices import listed
from jaxfact.flow.closed import balanced_flow as balanced_flow
from jaxfact.flow.closed import logistic_mode as logistic_mode
from jaxfact.flow.integrated import gradient_flow as gradient_flow
from jaxfact.flow.integrated import sensing_perturbation as sensing_perturbation


def __dir__() -> list[str]:
    return listed(globals())
