"""Choose averaging window, spectral basis and rank from the data, by the marginal likelihood."""

from __future__ import annotations

from pyro_unmix.selection.blocks import spread_blocks
from pyro_unmix.selection.marginal import marginal_score
from pyro_unmix.selection.noise import estimate_noise_scale
from pyro_unmix.selection.purity import learn_basis, refine_endmembers
from pyro_unmix.selection.seasonal import choose_season_start, season_share
from pyro_unmix.selection.smooth import SmoothStart, choose_smooth_start, field_correlation
from pyro_unmix.selection.start import RANKS, WINDOWS, Start, choose_start, temporal_correlation

__all__ = [
    "RANKS",
    "WINDOWS",
    "SmoothStart",
    "Start",
    "choose_season_start",
    "choose_smooth_start",
    "choose_start",
    "estimate_noise_scale",
    "field_correlation",
    "learn_basis",
    "marginal_score",
    "refine_endmembers",
    "season_share",
    "spread_blocks",
    "temporal_correlation",
]
