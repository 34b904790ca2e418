from . import alignment, data, entrywise, export, flow, invariants, measures, operators, presets, stats, subspaces
from .descent import Trajectory, descend, log_steps
from .devices import use_cores
from .entrywise import HeldOut
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
    scale_by_start,
    scaled,
    scaled_by_start,
)
from .numpy_script import numpy_script
from .phase import phase_diagram
from .problems.base import Problem
from .problems.completion import Completion
from .problems.compression import compress, expand
from .problems.drawn import random_target
from .problems.factorization import Factorization
from .problems.sensing import Sensing
from .problems.tied import Tied
from .replay import Replay, replay
from .resampling import fresh_batch
from .spectral import ColumnSpace, ProjectedGradient, ward_kolda
from .starts import Balanced, Gaussian, NormedGaussian, Orthogonal, Spectral, Start, ye_du_scale, ye_du_step_size
from .status import Status, status
from .store import open_results, write_results
from .stored import StoreError
from .sweep import sweep

__all__ = [
    "Balanced",
    "ColumnSpace",
    "Completion",
    "Factorization",
    "Factors",
    "Gaussian",
    "HeldOut",
    "NormedGaussian",
    "Orthogonal",
    "Problem",
    "ProjectedGradient",
    "Replay",
    "Run",
    "Sensing",
    "StoreError",
    "Spectral",
    "Start",
    "Status",
    "Tied",
    "TiedFactor",
    "Trajectory",
    "add_balancing",
    "add_noise",
    "alignment",
    "alternating",
    "balanced",
    "compress",
    "data",
    "descend",
    "entrywise",
    "expand",
    "export",
    "flow",
    "fresh_batch",
    "gradient_descent",
    "invariants",
    "log_steps",
    "measures",
    "numpy_script",
    "open_results",
    "operators",
    "perturbed",
    "perturbed_in_ball",
    "perturbed_on_sphere",
    "phase_diagram",
    "presets",
    "random_target",
    "replay",
    "rip_lower_bound",
    "scale_by_gram",
    "scale_by_start",
    "scaled",
    "scaled_by_start",
    "stats",
    "status",
    "subspaces",
    "sweep",
    "use_cores",
    "ward_kolda",
    "write_results",
    "ye_du_scale",
    "ye_du_step_size",
]
