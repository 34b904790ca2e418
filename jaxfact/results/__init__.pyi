from . import export as export
from . import stats as stats
