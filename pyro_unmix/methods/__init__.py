"""Whole methods, one file each: ``method(cubes, num_endmembers, endmembers=..., seed=..., progress=...) -> Unmixing``.

Trained by `fit`: `unmix` (ours), `redsunn` (the paper's), `redsunn_published` (the paper's program), `idnet` (one
image, nonlinear), `hbun` (hierarchical Bayes). By `sample`: `unmix_by_chains` (everything unknown in the chain). By
other means: `fcls` and `nnls`, `minimum_volume`, `online_unmixing`, `kalman_em`, which share `classical`; and with
single spectra of a library `mesma`, `monte_carlo_sma`, `sparse_regression`, which share `members`. `arguments` is what
all of them take, `weights` those of bands. `unmixer` has scikit-learn's ``fit`` and ``transform`` for tables of
spectra.
"""

from pyro_unmix.methods.fcls import fcls
from pyro_unmix.methods.hbun import hbun
from pyro_unmix.methods.idnet import idnet
from pyro_unmix.methods.kalman_em import kalman_em
from pyro_unmix.methods.mesma import mesma
from pyro_unmix.methods.minimum_volume import minimum_volume
from pyro_unmix.methods.monte_carlo_sma import monte_carlo_sma
from pyro_unmix.methods.nnls import nnls
from pyro_unmix.methods.online_unmixing import online_unmixing
from pyro_unmix.methods.redsunn import redsunn
from pyro_unmix.methods.redsunn_published import redsunn_published
from pyro_unmix.methods.sparse_regression import sparse_regression
from pyro_unmix.methods.unmix import unmix
from pyro_unmix.methods.unmix_by_chains import unmix_by_chains

__all__ = [
    "fcls",
    "hbun",
    "idnet",
    "kalman_em",
    "mesma",
    "minimum_volume",
    "monte_carlo_sma",
    "nnls",
    "online_unmixing",
    "redsunn",
    "redsunn_published",
    "sparse_regression",
    "unmix",
    "unmix_by_chains",
]
