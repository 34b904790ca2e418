"""Experiment × axes × seeds → one labelled dataset."""

from jaxfact.sweep.parts import Options as Options
from jaxfact.sweep.parts import Part as Part
from jaxfact.sweep.prepared import Prepared as Prepared
from jaxfact.sweep.prepared import prepare as prepare
from jaxfact.sweep.sweeping import sweep as sweep
