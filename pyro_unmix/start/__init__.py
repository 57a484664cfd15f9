"""What an engine starts from, all of it from the images alone.

`extraction` finds endmembers (VCA, N-FINDR, over windows) and matches them; `bundles` pure pixels; `num_endmembers` how
many there are. `choice` picks window, endmembers, basis and rank by the `marginal` likelihood, with `purity`
(neighbourhoods that are pure) and `noise`; `blocks` serves scenes larger than memory, `several_starts` chains.
`seasons` and `field` (with `field_fit`) look for variability that pixels share, and `field_estimate` uses it;
`interactions` for nonlinear mixing; `misfit` for errors larger than the model's.
"""

from pyro_unmix.start.blocks import spread_blocks
from pyro_unmix.start.bundles import extract_bundles
from pyro_unmix.start.choice import RANKS, WINDOWS, Start, choose_start, temporal_correlation
from pyro_unmix.start.extraction import extract_endmembers, match_endmembers, nfindr, vca
from pyro_unmix.start.field import (
    MIN_SHARE,
    SmoothStart,
    choose_smooth_start,
    field_coefficient,
    field_correlation,
    may_share_variability,
    shares_variability,
)
from pyro_unmix.start.field_estimate import FieldEstimate, estimate_field
from pyro_unmix.start.interactions import choose_mixing
from pyro_unmix.start.marginal import marginal_score
from pyro_unmix.start.misfit import misfit_factor
from pyro_unmix.start.noise import estimate_noise_scale
from pyro_unmix.start.num_endmembers import estimate_num_endmembers, hysime, virtual_dimensionality
from pyro_unmix.start.purity import learn_basis, refine_endmembers
from pyro_unmix.start.seasons import choose_season_start, season_share

__all__ = [
    "MIN_SHARE",
    "RANKS",
    "WINDOWS",
    "FieldEstimate",
    "SmoothStart",
    "Start",
    "choose_mixing",
    "choose_season_start",
    "choose_smooth_start",
    "choose_start",
    "estimate_field",
    "estimate_noise_scale",
    "estimate_num_endmembers",
    "extract_bundles",
    "extract_endmembers",
    "field_coefficient",
    "field_correlation",
    "hysime",
    "learn_basis",
    "marginal_score",
    "match_endmembers",
    "may_share_variability",
    "misfit_factor",
    "nfindr",
    "refine_endmembers",
    "season_share",
    "shares_variability",
    "spread_blocks",
    "temporal_correlation",
    "vca",
    "virtual_dimensionality",
]
