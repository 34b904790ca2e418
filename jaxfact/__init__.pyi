from . import data, flow, invariants, measures, operators, stats
from .descent import Trajectory, descend, log_steps
from .devices import use_cores
from .experiment import Run
from .factors import Factors, TiedFactor
from .isometry import rip_lower_bound
from .methods import (
    add_balancing,
    add_noise,
    alternating,
    balanced,
    gradient_descent,
    perturbed,
    perturbed_in_ball,
    perturbed_on_sphere,
    scale_by_gram,
    scaled,
)
from .problems.base import Problem
from .problems.compression import compress, expand
from .problems.factorization import Factorization
from .problems.sensing import Sensing
from .problems.tied import Tied
from .resampling import fresh_batch
from .starts import Balanced, Gaussian, Orthogonal, Spectral, Start, ye_du_scale, ye_du_step_size
from .store import open_results, write_results
from .sweep import sweep

__all__ = [
    "Balanced",
    "Factorization",
    "Factors",
    "Gaussian",
    "Orthogonal",
    "Problem",
    "Run",
    "Sensing",
    "Spectral",
    "Start",
    "Tied",
    "TiedFactor",
    "Trajectory",
    "add_balancing",
    "add_noise",
    "alternating",
    "balanced",
    "compress",
    "data",
    "descend",
    "expand",
    "flow",
    "fresh_batch",
    "gradient_descent",
    "invariants",
    "log_steps",
    "measures",
    "open_results",
    "operators",
    "perturbed",
    "perturbed_in_ball",
    "perturbed_on_sphere",
    "rip_lower_bound",
    "scale_by_gram",
    "scaled",
    "stats",
    "sweep",
    "use_cores",
    "write_results",
    "ye_du_scale",
    "ye_du_step_size",
]
