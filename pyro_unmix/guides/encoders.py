"""Networks that summarise a pixel's whole sequence at every date; guides take one as ``encoder=``."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyro_unmix.guides.base import BiLSTM
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.recipes import Recorded


class Encoder(Recorded, nn.Module):
    """A network (B, T, input_size) -> (B, T, hidden_size) that learns its sizes when a guide takes it.

    A date that is missing comes as zeros.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.guides.GRU(), pu.guides.Encoder)
    True
    """

    #: Whether `forward` takes the times of the dates as its second argument.
    takes_times: ClassVar[bool] = False

    def __init__(self) -> None:  # its own, so that it is remembered how the object was made
        super().__init__()

    def setup(self, input_size: int, hidden_size: int) -> None:
        """Create the parameters for these sizes, from torch's generator as it is."""
        raise NotImplementedError(f"{type(self).__name__} must implement setup()")

    def forward(self, sequence: Tensor) -> Tensor:
        """(B, T, input_size) -> (B, T, hidden_size)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward()")


class GRU(Encoder):
    """Mean of a forward and a backward gated recurrent unit's hidden states.

    Three gates instead of the LSTM's four: a quarter fewer parameters. Glorot-initialised weights, zero biases.

    References
    ----------
    Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.MeanFieldGuide(model, encoder=pu.guides.GRU())
    >>> pu.fit(model, guide, scene.cubes, num_steps=2, progress=False)
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 2 steps>
    """

    def setup(self, input_size: int, hidden_size: int) -> None:
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True, bidirectional=True)
        for name, parameter in self.gru.named_parameters():
            if "weight" in name:
                for gate in parameter.data.chunk(3):
                    nn.init.xavier_uniform_(gate)
            else:
                nn.init.zeros_(parameter)

    def forward(self, sequence: Tensor) -> Tensor:
        forwards, backwards = self.gru(sequence)[0].chunk(2, dim=-1)
        return 0.5 * (forwards + backwards)


class Transformer(Encoder):
    """Self-attention over the dates: every date looks at every other one directly.

    ``h = W_out layers(W_in y_t + position_t)``, with sinusoidal positions that count the dates, or the time between
    them where the model knows it, and layers of attention and of a ReLU network, each behind a normalisation, without
    dropout.

    Parameters
    ----------
    num_layers, num_heads : int
    width : int
        Of the layers; a multiple of twice `num_heads`.

    References
    ----------
    Vaswani et al., "Attention is all you need", NeurIPS 2017; Xiong et al., ICML 2020 (normalisation first).

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.MeanFieldGuide(model, encoder=pu.guides.Transformer(1))
    >>> pu.fit(model, guide, scene.cubes, num_steps=2, progress=False)
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 2 steps>
    """

    takes_times = True

    def __init__(self, num_layers: int = 1, *, num_heads: int = 2, width: int = 32) -> None:
        super().__init__()
        self.num_layers = positive_int(num_layers, "num_layers")
        self.num_heads = positive_int(num_heads, "num_heads")
        self.width = positive_int(width, "width")
        if width % (2 * num_heads):
            raise ValueError(
                f"width must be a multiple of 2 num_heads = {2 * num_heads}, got {width}"
            )

    def setup(self, input_size: int, hidden_size: int) -> None:
        self.enter = nn.Linear(input_size, self.width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.width,
                self.num_heads,
                dim_feedforward=2 * self.width,
                dropout=0.0,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(self.num_layers)
        )
        self.leave = nn.Linear(self.width, hidden_size)

    def forward(self, sequence: Tensor, times: Tensor | None = None) -> Tensor:
        """(B, T, input_size) -> (B, T, hidden_size), at times (T,) in units; without them 0, 1, 2, ..."""
        hidden = self.enter(sequence) + self._positions(sequence, times)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.leave(hidden)

    def _positions(self, sequence: Tensor, times: Tensor | None) -> Tensor:
        """``sin(t w_i), cos(t w_i)`` (T, width), ``w_i = 10000^(-2i / width)``."""
        even = sequence.new_tensor(range(0, self.width, 2))
        rates = torch.exp(-math.log(1e4) * even / self.width)
        if times is None:
            times = sequence.new_tensor(range(sequence.shape[1]))
        angles = times[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def built(encoder: Encoder | None, input_size: int, hidden_size: int) -> nn.Module:
    """A private copy of the user's encoder with its parameters made, or the paper's LSTM."""
    if encoder is None:
        return BiLSTM(input_size, hidden_size)
    if not isinstance(encoder, Encoder):
        raise TypeError(
            "encoder must be an Encoder object such as GRU() or Transformer(), got "
            f"{encoder!r} ({type(encoder).__name__})"
        )
    encoder = copy.deepcopy(encoder)
    encoder.setup(input_size, hidden_size)
    return encoder


def encoded(network: nn.Module, sequence: Tensor, model: Any) -> Tensor:
    """What a network of `built` makes of a sequence (B, T, input_size) at the dates of a model, (B, T, hidden_size).

    Times are in units of the model since its first date, so that even dates are at 0, 1, 2, ...; a network that takes
    no times sees the order of the dates alone.
    """
    if not getattr(network, "takes_times", False):
        return network(sequence)
    days = getattr(model, "days", None)
    times = None if days is None else sequence.new_tensor(days / (model.time_unit or 1.0))
    return network(sequence, times)
