"""Classical methods beside the probabilistic ones, each returning an `Unmixing`."""

from pyro_unmix.baselines.fcls import fcls
from pyro_unmix.baselines.kalman_em import kalman_em
from pyro_unmix.baselines.online import online_unmixing

__all__ = ["fcls", "kalman_em", "online_unmixing"]
