"""Simulated sequences with known abundances and endmembers.

`scene` is what all are; they are made of `maps` of abundances and of `signatures` of `materials`. `scaled` and
`bundle` are the paper's, `from_model` draws from a model, `smooth` is a hard one.

Two scenes follow Sec. VI-A of Borsoi et al., "Online multitemporal hyperspectral unmixing with
recurrent neural networks" (ReDSUNN), and one draws from a state-space model itself. All obey the
linear mixing model with endmembers of their own at each pixel n and date t, eq. (1):

    y_nt = M_nt a_nt + r_nt,   a_nt >= 0,   1' a_nt = 1.
"""

from __future__ import annotations

from pyro_unmix.simulate.bundle import bundle_scene
from pyro_unmix.simulate.from_model import StateSpaceModel, state_space
from pyro_unmix.simulate.scaled import scaled_scene
from pyro_unmix.simulate.scene import Scene
from pyro_unmix.simulate.signatures import library
from pyro_unmix.simulate.smooth import smooth_scene

__all__ = [
    "Scene",
    "StateSpaceModel",
    "bundle_scene",
    "library",
    "scaled_scene",
    "smooth_scene",
    "state_space",
]
