"""Numbers worth recording, each a function of a problem and its factors; `record=` takes them or their names."""

from jaxfact.choices import listed
from jaxfact.measures import invariants as invariants
from jaxfact.measures.alignment import invertible_distance as invertible_distance
from jaxfact.measures.alignment import procrustes_distance as procrustes_distance
from jaxfact.measures.alignment import scaled_invertible_distance as scaled_invertible_distance
from jaxfact.measures.base import Label as Label
from jaxfact.measures.base import Measure as Measure
from jaxfact.measures.base import measure as measure
from jaxfact.measures.entrywise import HeldOut as HeldOut
from jaxfact.measures.entrywise import incoherence as incoherence
from jaxfact.measures.entrywise import spread as spread
from jaxfact.measures.isometry import rip_lower_bound as rip_lower_bound
from jaxfact.measures.product import distance as distance
from jaxfact.measures.product import energy as energy
from jaxfact.measures.product import excess as excess
from jaxfact.measures.product import gradient_norm as gradient_norm
from jaxfact.measures.product import imbalance as imbalance
from jaxfact.measures.product import loss as loss
from jaxfact.measures.product import misfit as misfit
from jaxfact.measures.product import singular_values as singular_values
from jaxfact.measures.saddles import Saddle as Saddle
from jaxfact.measures.saddles import saddle as saddle
from jaxfact.measures.sharpness import curvatures as curvatures
from jaxfact.measures.sharpness import relative_sharpness as relative_sharpness
from jaxfact.measures.sharpness import sharpness as sharpness
from jaxfact.measures.sharpness import stability as stability
from jaxfact.measures.subspaces import MovingSignal as MovingSignal
from jaxfact.measures.subspaces import PairSignal as PairSignal
from jaxfact.measures.subspaces import Rows as Rows
from jaxfact.measures.subspaces import Signal as Signal
from jaxfact.measures.subspaces import largest_row as largest_row
from jaxfact.measures.subspaces import moving_signal as moving_signal
from jaxfact.measures.subspaces import rise_times as rise_times
from jaxfact.measures.subspaces import rows as rows
from jaxfact.measures.subspaces import signal as signal
from jaxfact.measures.ye_du import YeDu as YeDu
from jaxfact.measures.ye_du import ye_du as ye_du
from jaxfact.measures.ye_du import ye_du_constant as ye_du_constant


def __dir__() -> list[str]:
    return listed(globals(), "invariants")
