"""Where runs begin: random and spectral starts, and the published scales."""

from jaxfact.choices import listed
from jaxfact.starts.random import Balanced as Balanced
from jaxfact.starts.random import Gaussian as Gaussian
from jaxfact.starts.random import NormedGaussian as NormedGaussian
from jaxfact.starts.random import Orthogonal as Orthogonal
from jaxfact.starts.random import Spectral as Spectral
from jaxfact.starts.random import Sphere as Sphere
from jaxfact.starts.random import Start as Start
from jaxfact.starts.random import ye_du_scale as ye_du_scale
from jaxfact.starts.random import ye_du_step_size as ye_du_step_size
from jaxfact.starts.spectral import ColumnSpace as ColumnSpace
from jaxfact.starts.spectral import ProjectedGradient as ProjectedGradient
from jaxfact.starts.spectral import ward_kolda as ward_kolda


def __dir__() -> list[str]:
    return listed(globals())
