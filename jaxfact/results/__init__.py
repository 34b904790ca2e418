"""What a sweep's dataset is: its labels, its statistics, its files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
