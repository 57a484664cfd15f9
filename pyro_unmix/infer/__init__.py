"""Engines: how the posterior of a program is found.

- `sample`: Markov chains over everything that a `SimplexMixing` does not know
- `chains`: one chain over what all spectra share, and draws of what single spectra have given that
- `stacking`: weights of chains that do not mix, by their predictive density of other spectra
- `sampled`: the result, whose pixels are drawn anew, block by block, from what the chains hold
"""

from pyro_unmix.infer.sample import sample
from pyro_unmix.infer.sampled import Sampled
from pyro_unmix.infer.stacking import log_predictive, stacking_weights

__all__ = ["Sampled", "log_predictive", "sample", "stacking_weights"]
