"""The methods that others compare with, each a function that returns an `Unmixing`."""

from pyro_unmix.baselines.fcls import fcls
from pyro_unmix.baselines.hbun import hbun
from pyro_unmix.baselines.kalman_em import kalman_em
from pyro_unmix.baselines.online import online_unmixing

__all__ = ["fcls", "hbun", "kalman_em", "online_unmixing"]
