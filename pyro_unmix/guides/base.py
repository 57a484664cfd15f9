"""What every guide of this package shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_unmix.data.types import ModelProgram
from pyro_unmix.models.base import Model
from pyro_unmix.ops.recipes import Recorded
from pyro_unmix.priors.part import Need

#: ``noise(site, size)`` gives standard-normal draws (S, 1, size).
SiteNoise = Callable[[str, int], Tensor]


class Guide(Recorded, PyroModule):
    """Approximate posterior of a model, a Pyro program with the model's latent sites.

    A guide is called like its model. It holds the model unregistered: the model's parameters are not the guide's.
    Every parameter is made in ``__init__`` from `seed`, without touching the global random state.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> isinstance(pu.ConjugateGuide(model), pu.guides.Guide)
    True
    """

    #: Of what a model may need (`SGLMM.needs`), what this kind of guide can serve.
    serves: ClassVar[frozenset[Need]] = frozenset()
    #: Whether it needs a model of sequences, such as `SGLMM`.
    of_sequences: ClassVar[bool] = True

    def __init__(self, model: ModelProgram) -> None:
        super().__init__("guide")
        if not isinstance(model, Model) and (
            isinstance(model, type) or not hasattr(model, "design")
        ):
            raise TypeError(
                f"{type(self).__name__} is built from its model, such as SGLMM(endmembers), got "
                f"{model!r}"
            )
        if self.of_sequences and not hasattr(model, "num_components"):
            raise TypeError(
                f"{type(self).__name__} is a guide of SGLMM, got {type(model).__name__}: use "
                "TwoStreamGuide(model) for IDNet"
            )
        self._held = (model,)  # inside a tuple, so that it does not become a submodule
        self.check_served()
        prior: Any = getattr(model, "variability_prior", None)
        self.has_field = Need.SHARED_VARIABILITY in getattr(prior, "needs", ())
        if self.has_field:
            loc, log_scale = prior.field_start()
            self.field_loc, self.field_log_scale = nn.Parameter(loc), nn.Parameter(log_scale)

    def check_served(self) -> None:
        """Raise ValueError if the model has a part that this kind of guide cannot serve."""
        model = self.model
        asks = model if hasattr(model, "needs") else getattr(model, "noise", None)
        needs: frozenset[Need] = getattr(asks, "needs", frozenset())
        if missing := sorted(need.value for need in needs - self.serves):
            raise ValueError(
                f"{type(self).__name__} cannot serve {' and '.join(missing)}: use "
                "BiLSTMGuide(model) or MeanFieldGuide(model), which can, or another part of the "
                "model"
            )

    @property
    def model(self) -> Any:
        """The model this guide was built for."""
        return self._held[0]

    def add_innovations(self) -> None:
        """Have the prior's law for innovations of ``field`` that came after the guide was built."""
        more = self.model.variability_prior.num_innovations - len(self.field_loc)
        for name in ("field_loc", "field_log_scale"):
            values = getattr(self, name).detach()
            setattr(self, name, nn.Parameter(torch.cat([values, values.new_zeros(more)])))

    def sample_offsets(self, index: Tensor | None) -> Tensor | None:
        """Draw the site ``field`` where the variability has one, of independent Gaussians; call it outside the plate.

        Returns
        -------
        Tensor or None
            What the field adds to ``psi`` at the pixels, (..., B, T, K P).
        """
        if not self.has_field:
            return None
        scale = self.field_log_scale.exp()
        field = pyro.sample("field", dist.Normal(self.field_loc, scale).to_event(1))
        return self.model.variability_prior.offsets(field, index)

    def mean_offsets(self, index: Tensor | None) -> Tensor | None:
        """`sample_offsets` at the mean of the field."""
        if not self.has_field:
            return None
        return self.model.variability_prior.offsets(self.field_loc, index)

    def prepare(
        self, pixels: Tensor, valid: Tensor, *, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What depends on the data alone, computed once per fit; first axis pixels, whose numbers are `index`."""
        return {}

    def draw(
        self, pixels: Tensor, valid: Tensor, features: Mapping[str, Tensor], noise: SiteNoise
    ) -> tuple[Tensor, Tensor] | None:
        """Posterior draws from given noise, where a guide can do better than running its program.

        Parameters
        ----------
        noise : callable
            ``noise(site, size)`` gives standard-normal draws of shape (S, 1, size), the same for every pixel.

        Returns
        -------
        tuple or None
            Abundances (S, B, T, P) and the posterior mean of the variability (B, T, K, P).
        """
        return None


class BiLSTM(nn.Module):
    """Mean of a forward and a backward LSTM's hidden states, equations (41)-(43).

    Glorot-initialised weights, zero biases. (torch has a second bias per gate: 8 H parameters more than Table I.)

    Parameters
    ----------
    input_size, hidden_size : int
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True, bidirectional=True)
        for name, parameter in self.lstm.named_parameters():
            if "weight" in name:
                for gate in parameter.data.chunk(4):
                    nn.init.xavier_uniform_(gate)
            else:
                nn.init.zeros_(parameter)

    def forward(self, sequence: Tensor) -> Tensor:
        """(B, T, input_size) -> (B, T, hidden_size)."""
        hidden = self.lstm(sequence)[0]
        forwards, backwards = hidden.chunk(2, dim=-1)
        return 0.5 * (forwards + backwards)


def glorot(rows: int, columns: int) -> nn.Parameter:
    """A Glorot-uniform matrix parameter."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, columns)))
