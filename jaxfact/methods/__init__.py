"""Methods: optax gradient transformations for pairs of factors; every optax optimiser is one too."""

from jaxfact.choices import listed
from jaxfact.methods.alternating import alternating as alternating
from jaxfact.methods.balancing import add_balancing as add_balancing
from jaxfact.methods.balancing import balanced as balanced
from jaxfact.methods.base import Method as Method
from jaxfact.methods.curvature import curvature_descent as curvature_descent
from jaxfact.methods.descent import gradient_descent as gradient_descent
from jaxfact.methods.noise import PerturbationState as PerturbationState
from jaxfact.methods.noise import add_noise as add_noise
from jaxfact.methods.noise import perturbed as perturbed
from jaxfact.methods.noise import perturbed_in_ball as perturbed_in_ball
from jaxfact.methods.noise import perturbed_on_sphere as perturbed_on_sphere
from jaxfact.methods.resampling import fresh_batch as fresh_batch
from jaxfact.methods.scaling import StartScales as StartScales
from jaxfact.methods.scaling import scale_by_gram as scale_by_gram
from jaxfact.methods.scaling import scale_by_start as scale_by_start
from jaxfact.methods.scaling import scaled_by_start as scaled_by_start
from jaxfact.methods.scaling import scaled_gd as scaled_gd


def __dir__() -> list[str]:
    return listed(globals())
