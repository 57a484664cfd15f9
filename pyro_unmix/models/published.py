"""Parts with which the program published with the ReDSUNN paper departs from the paper.

`pyro_unmix.methods.redsunn_published.redsunn_published` puts them together; each can stand in an `SGLMM` of one's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyro_unmix.bases.linear import Basis
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.ops.checks import positive, positive_int
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.priors.abundance_walks import NetworkWalk
from pyro_unmix.priors.part import Need


class RawDCT(Basis):
    """Cosines of one amplitude, not normalised: ``d_k(l) = amplitude cos(pi k (2l + 1) / (2L))``.

    Parameters
    ----------
    num_components : int
        K.
    amplitude : float
        The program multiplies columns of amplitude 2 by 0.01 psi.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.models.RawDCT(4).num_components
    4
    """

    def __init__(self, num_components: int = 10, *, amplitude: float = 0.02) -> None:
        super().__init__()
        self.num_components = positive_int(num_components, "num_components")
        self.amplitude = positive(amplitude, "amplitude")

    def angles(self, band: Tensor, component: Tensor) -> Tensor:
        """``k (2l + 1)``, in units of ``pi / (2L)``."""
        return component * (2 * band + 1)

    def components(self, endmembers: Tensor) -> Tensor:
        num_bands = len(endmembers)
        band = torch.arange(num_bands, dtype=endmembers.dtype, device=endmembers.device)
        component = band.new_tensor(range(self.num_components))
        angles = self.angles(band[:, None], component)
        columns = self.amplitude * torch.cos(math.pi / (2 * num_bands) * angles)
        return columns[:, :, None] * endmembers[:, None, :]


class TransposedDCT(RawDCT):
    """The same matrix transposed: ``d_k(l) = amplitude cos(pi (2k + 1) l / (2L))``; no column is constant.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.models.TransposedDCT(4).num_components
    4
    """

    def angles(self, band: Tensor, component: Tensor) -> Tensor:
        return (2 * component + 1) * band


class VarianceWalk(NetworkWalk):
    """``c_t ~ N(c_{t-1}, Delta start_variance exp(net(c_{t-1})) I)`` with net = P - P - 1, ReLU between.

    Eq. (18) with the network's output in a log variance and torch's default initial weights. Delta, the units of time
    before date t, is 1 where the model has no dates.

    Parameters
    ----------
    start_variance : float

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.models.VarianceWalk(), pu.priors.Part)
    True
    """

    def __init__(self, start_variance: float = 0.1) -> None:
        super().__init__()
        self.start_variance = positive(start_variance, "start_variance")

    def setup(self, *, num_endmembers: int, generator: torch.Generator) -> None:
        super().setup(num_endmembers=num_endmembers, generator=generator)
        with seeded(int(torch.randint(2**31, (), generator=generator))):
            self.net = nn.Sequential(
                nn.Linear(num_endmembers, num_endmembers), nn.ReLU(), nn.Linear(num_endmembers, 1)
            )

    def log_scale(self) -> Callable[[Tensor], Tensor]:
        net = self.net
        return lambda c: 0.5 * (math.log(self.start_variance) + net(c).squeeze(-1))


class FirstDateSGLMM(SGLMM):
    """`SGLMM` whose initial distributions are those of the first date: no state before the images.

    ``c_1 ~ N(nu_c, diag(gamma_c)^2)``, ``psi_1 ~ N(nu_psi, diag(gamma_psi)^2)``, the rest as in `SGLMM`. Sites:
    ``c_1 .. c_T``, ``psi_1 .. psi_T``, ``y_1 .. y_T``. Parameters: those of `SGLMM`, whose `dates`, mixing, noises by
    date and prior of M0 it serves as well.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> model = pu.models.FirstDateSGLMM(
    ...     pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2]), basis=pu.Brightness()
    ... )
    >>> isinstance(model, pu.SGLMM)
    True
    """

    first_step = 1
    is_plain = False

    def _check_dates(self, num_dates: int) -> None:
        if Need.SHARED_VARIABILITY in self.needs:
            raise ValueError("FirstDateSGLMM has no variability that pixels share: use SGLMM")
        super()._check_dates(num_dates)
