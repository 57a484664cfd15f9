"""A guide of whole scenes: independent normals of all latent values of a `PerturbedLinear`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoNormal, init_to_median

from pyro_unmix.models.perturbed import PerturbedLinear
from pyro_unmix.ops.recipes import Recorded


class SceneMeanField(Recorded, AutoNormal):
    """Independent normals of all latent values of a `PerturbedLinear`: Pyro's `AutoNormal`.

    Made whole by the constructor, so that a result with it can be saved.

    Parameters
    ----------
    model : PerturbedLinear
    init_loc_fn : callable, optional
        Pyro's; by default the medians of the prior.
    create_plates : callable, optional
        By default those of the model.
    init_scale : float
        Std at the start, narrow enough for reflectances.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.models.PerturbedLinear(scene.reference_endmembers, scene.cubes)
    >>> guide = pu.guides.SceneMeanField(model)
    >>> isinstance(guide, pu.guides.SceneMeanField)
    True
    """

    unrecorded = frozenset({"init_loc_fn", "create_plates"})

    def __init__(
        self,
        model: PerturbedLinear,
        *,
        init_loc_fn: Callable[..., Any] = init_to_median,
        create_plates: Callable[..., Any] | None = None,
        init_scale: float = 0.01,
    ) -> None:
        super().__init__(
            model,
            init_loc_fn=init_loc_fn,
            create_plates=model.plates if create_plates is None else create_plates,
            init_scale=init_scale,
        )
        valid = torch.ones_like(model.first_band, dtype=torch.bool)
        pixels = model.first_band[..., None].expand(*valid.shape, model.num_bands)
        with pyro.get_param_store().scope(), torch.random.fork_rng(), torch.no_grad():
            self._setup_prototype(pixels, valid)
