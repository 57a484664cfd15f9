"""Scores of an unmixing against the truth, as the evaluation programs of the ReDSUNN paper compute them.

`scores` are the single ones, `matched` all at once; `reading` makes arrays of estimates and truths. `agreement` needs
no truth: results side by side.

Arrays have the dates first. DataArrays are put in the order (time, y, x, wavelength, endmember) by
the names of their dimensions, so that theirs may be any. Endmembers are compared by position: match
them first (`pyro_unmix.start.extraction.match_endmembers`), or use `score`, which does. Whatever the
truth does not know (NaN) is left out; an estimate must be finite wherever the truth is.
"""

from __future__ import annotations

from pyro_unmix.metrics.agreement import side_by_side
from pyro_unmix.metrics.matched import score
from pyro_unmix.metrics.scores import (
    coverage,
    nrmse_abundances,
    nrmse_endmembers,
    nrmse_reconstruction,
    rmse_abundances,
    sam_endmembers,
)

__all__ = [
    "coverage",
    "nrmse_abundances",
    "nrmse_endmembers",
    "nrmse_reconstruction",
    "rmse_abundances",
    "sam_endmembers",
    "score",
    "side_by_side",
]
