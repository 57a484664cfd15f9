"""Perceptrons, one for each material at once: batched weights instead of a loop over materials."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MaterialPerceptron(nn.Module):
    """P perceptrons of the same sizes, side by side: ``x <- relu(x W_kp + b_kp)``, the last layer without ReLU.

    Weights and biases start uniform within ``1 / sqrt(inputs)``, as torch's linear layers do.

    Parameters
    ----------
    num_materials : int
        P.
    sizes : sequence of int
        Inputs, hidden layers, outputs.
    generator : torch.Generator, optional
        Of the initial weights; default torch's own.
    """

    def __init__(
        self, num_materials: int, sizes: Sequence[int], generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.num_materials, self.sizes = num_materials, tuple(sizes)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            bound = inputs**-0.5
            for parameters, rows in ((self.weights, inputs), (self.biases, 1)):
                values = torch.empty(num_materials, rows, outputs)
                parameters.append(nn.Parameter(values.uniform_(-bound, bound, generator=generator)))

    def forward(self, x: Tensor) -> Tensor:
        """(..., P, inputs) -> (..., P, outputs)."""
        lead = x.shape[:-2]
        x = x.reshape(-1, *x.shape[-2:]).transpose(0, 1)  # one matrix product per material
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if layer < last:
                x = x.relu()
        return x.transpose(0, 1).reshape(*lead, self.num_materials, self.sizes[-1])


def perceptron(sizes: Sequence[int], generator: torch.Generator | None = None) -> nn.Sequential:
    """An ordinary perceptron: linear layers with ReLU between them, started as torch does.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden layers, outputs.
    generator : torch.Generator, optional
        Of the initial weights; default torch's own.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
