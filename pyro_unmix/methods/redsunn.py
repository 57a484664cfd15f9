"""The ReDSUNN paper's method in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from pyro_unmix.bases.linear import DCT
from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.guides import BiLSTMGuide
from pyro_unmix.infer.fit import fit
from pyro_unmix.infer.settings import FitSettings
from pyro_unmix.methods.arguments import check_settings, counted_bands, judged, materials
from pyro_unmix.models import SGLMM
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.read_out import PlugInMean
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.priors import (
    RandomWalk,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Passes over the pixels of `redsunn`, as in its paper.
NUM_EPOCHS = 30.0


@one_thread()
def redsunn(
    cubes: ImagesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | None = None,
    num_basis: int = 10,
    sigma_psi: float = 1e-5**0.5,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
    num_steps: int | None = None,
    num_epochs: float | None = None,
    **settings: Unpack[FitSettings],
) -> Unmixing:
    """ReDSUNN as its paper describes it: model, guide, settings and read-out.

    `SGLMM` with its defaults, `BiLSTMGuide`, all of theta = {M0, sigma_r, sigma_a, nu_0, gamma_0} learned jointly with
    phi by the ELBO, Adam at 1e-3, batches of 128, 30 epochs, abundances by Algorithm 1 (means fed forward).

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes; or files, as `open_images` reads them.
    num_endmembers : int, optional
        P. May be left out if `endmembers` are given.
    endmembers : array (L, P) or library, optional
        Initial M0; default VCA on the spectra of all dates.
    num_basis : int
        K; no more than there are bands.
    sigma_psi : float
        Std (not variance) of the variability's steps.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
    progress : bool
    num_steps, num_epochs : optional
        How long to train, as in `fit`; default 30 epochs.
    **settings
        Passed on to `fit`.

    Returns
    -------
    Unmixing

    References
    ----------
    Borsoi, Imbiriba, Closas, IEEE TIP 32, 2023, Sec. V and VI.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> pu.redsunn(scene.cubes, num_endmembers=3, num_steps=5, progress=False)
    <Unmixing by redsunn (time: 2, y: 10, x: 10, endmember: 3), 5 steps>
    """
    seed = check_settings(seed, settings)
    cubes, endmembers = counted_bands(cubes, endmembers, ignore)
    cubes = as_cube_sequence(cubes)
    endmembers, num_endmembers = materials(cubes, num_endmembers, endmembers, seed)
    num_basis = min(positive_int(num_basis, "num_basis"), cubes.sizes["wavelength"])
    model = SGLMM(
        endmembers, basis=DCT(num_basis), variability_prior=RandomWalk(sigma_psi), seed=seed
    )
    guide = BiLSTMGuide(model, seed=seed)
    if num_epochs is None and num_steps is None:
        num_epochs = NUM_EPOCHS
    how: FitSettings = {"estimate": PlugInMean(), "method": "redsunn", **settings}
    return judged(fit(
        model, guide, cubes,
        num_steps=num_steps, num_epochs=num_epochs, seed=seed, progress=progress, **how,
    ))  # fmt: skip
