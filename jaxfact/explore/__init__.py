"""The live explorer: one app, in a notebook and as a page of this machine."""

from jaxfact.explore.explorer import Explorer as Explorer
from jaxfact.explore.explorer import explore as explore
