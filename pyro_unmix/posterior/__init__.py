"""What users read out of an inference: the posterior as labelled maps.

`result` is `Unmixing`, whose methods end in: `read_out` (means and draws of every pixel, by an `estimates` object; how
`programs` are run, and what `decoding` makes of their sites; `autoguides` whose parameters belong to pixels),
`intervals` (draws, quantiles, credible intervals), `spectra` (endmembers and reconstructions of one date), `residuals`
(what these leave), `measurements` (what would be measured), `dates` (forecast and interpolation), `tiles` and
`tile_store` (scenes larger than memory), `evidence` (whether the posterior can be trusted), `comparison` (of fits),
`saving`, `files`
and `arviz`; `looks` are pictures and pages.
"""

from pyro_unmix.posterior.comparison import compare
from pyro_unmix.posterior.estimates import PlugInMean, PolishedMean, PosteriorMean
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.posterior.spectra import degree_of_nonlinearity

__all__ = [
    "PlugInMean",
    "PolishedMean",
    "PosteriorMean",
    "Unmixing",
    "compare",
    "degree_of_nonlinearity",
]
