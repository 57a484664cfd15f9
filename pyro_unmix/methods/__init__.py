"""Whole methods, one file each: ``method(cubes, num_endmembers, endmembers=..., seed=..., progress=...) -> Unmixing``.

Trained by `fit`: `unmix` (ours), `redsunn` (the paper's), `redsunn_published` (the paper's program), `idnet` (one
image, nonlinear), `hbun` (hierarchical Bayes). By `sample`: `unmix_by_chains` (everything unknown in the chain). By
other means: `fcls`, `online_unmixing`, `kalman_em`, which share `classical`. `arguments` is what all of them take.
"""

from pyro_unmix.methods.fcls import fcls
from pyro_unmix.methods.hbun import hbun
from pyro_unmix.methods.idnet import idnet
from pyro_unmix.methods.kalman_em import kalman_em
from pyro_unmix.methods.online_unmixing import online_unmixing
from pyro_unmix.methods.redsunn import redsunn
from pyro_unmix.methods.redsunn_published import redsunn_published
from pyro_unmix.methods.unmix import unmix
from pyro_unmix.methods.unmix_by_chains import unmix_by_chains

__all__ = [
    "fcls",
    "hbun",
    "idnet",
    "kalman_em",
    "online_unmixing",
    "redsunn",
    "redsunn_published",
    "unmix",
    "unmix_by_chains",
]
