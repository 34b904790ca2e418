"""Learning by gradient through runs: schedules and numbers over many starts, and the start from which a run is worst"""

from jaxfact.choices import listed
from jaxfact.tuning.judging import Arrival as Arrival
from jaxfact.tuning.judging import Constant as Constant
from jaxfact.tuning.judging import best_constant as best_constant
from jaxfact.tuning.learned import Learned as Learned
from jaxfact.tuning.learning import learn as learn
from jaxfact.tuning.objectives import Growth as Growth
from jaxfact.tuning.objectives import LogDistance as LogDistance
from jaxfact.tuning.objectives import Objective as Objective
from jaxfact.tuning.objectives import Peak as Peak
from jaxfact.tuning.objectives import Time as Time
from jaxfact.tuning.parametrisations import Exponential as Exponential
from jaxfact.tuning.parametrisations import Free as Free
from jaxfact.tuning.parametrisations import Number as Number
from jaxfact.tuning.parametrisations import Parametrisation as Parametrisation
from jaxfact.tuning.parametrisations import Piecewise as Piecewise
from jaxfact.tuning.worst import WorstStart as WorstStart
from jaxfact.tuning.worst import worst_start as worst_start


def __dir__() -> list[str]:
    return listed(globals())
