"""Classical methods beside the probabilistic ones, each returning an `Unmixing`."""

from pyro_unmix.baselines.fcls import fcls

__all__ = ["fcls"]
