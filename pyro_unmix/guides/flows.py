"""Normalising flows in place of a Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_unmix.guides.families import Family, White, fixed_noise
from pyro_unmix.ops.checks import in_range, positive_int

_LOG_2PI = math.log(2 * math.pi)
_LEAST = 1e-3  # width and height of a bin, as a share of the interval; slope at a knot
#: Where softplus is 1 - 1e-3, so that parameters of zero are a slope of one.
_UNIT_SLOPE = math.log(math.expm1(1 - _LEAST))


class SplineFlow(Family):
    """A normalising flow: layers of monotone splines, coordinate by coordinate, and of linear maps.

    ``x = A_R s_R(... A_1 s_1(noise) + b_1 ...) + b_R``, s_r rational-quadratic splines (the identity outside of
    [-bound, bound]), A_r triangular with a positive diagonal, lower and upper in turn. All numbers of a layer are
    parameters of the pixel and date.

    Parameters
    ----------
    num_layers : int
        R.
    num_bins : int
        Of every spline.
    bound : float
        In standard deviations.

    References
    ----------
    Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows", NeurIPS 2019.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.MeanFieldGuide(model, family=pu.guides.SplineFlow(1))
    >>> pu.fit(model, guide, scene.cubes, num_steps=2, progress=False)
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 2 steps>
    """

    def __init__(self, num_layers: int = 2, *, num_bins: int = 6, bound: float = 4.0) -> None:
        super().__init__()
        self.num_layers = positive_int(num_layers, "num_layers")
        self.num_bins = positive_int(num_bins, "num_bins", minimum=2)
        self.bound = in_range(bound, "bound", low=0, open_low=True)

    def num_parameters(self, size: int) -> int:
        # widths, heights and inner slopes of the bins; shift and scale; below the diagonal
        return self.num_layers * (size * (3 * self.num_bins + 1) + size * (size - 1) // 2)

    def white(self, parameters: Tensor, size: int) -> FlowedNormal:
        return FlowedNormal(parameters, size, self)


class FlowedNormal(White):
    """What a `SplineFlow` makes of standard-normal noise.

    Parameters
    ----------
    parameters : Tensor, shape (..., num_parameters)
    size : int
        D.
    family : SplineFlow
    """

    def __init__(self, parameters: Tensor, size: int, family: SplineFlow) -> None:
        self.parameters, self.size, self.family = parameters, size, family
        super().__init__(parameters.shape[:-1], torch.Size([size]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """By fixed draws: a flow of several layers has none in closed form."""
        noise = fixed_noise(len(self.batch_shape), self.size, self.parameters)
        return self._forwards(noise)[0].mean(0)

    def _layers(self) -> list[_Coupling]:
        chunks = self.parameters.chunk(self.family.num_layers, dim=-1)
        return [
            _Coupling(c, self.size, self.family, lower=i % 2 == 0) for i, c in enumerate(chunks)
        ]

    def _forwards(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """x, and its log-density."""
        shape = torch.broadcast_shapes(noise.shape, self.batch_shape + self.event_shape)
        x = noise.expand(shape)
        log_prob = -0.5 * (x.square().sum(-1) + self.size * _LOG_2PI)
        for layer in self._layers():
            x, log_slopes = layer.forwards(x)
            log_prob = log_prob - log_slopes
        return x, log_prob

    def from_noise(self, noise: Tensor) -> Tensor:
        self._last = self._forwards(noise)
        return self._last[0]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            return self._last[1]
        shape = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        x, log_slopes = value.expand(shape), torch.zeros(())
        for layer in reversed(self._layers()):
            x, more = layer.backwards(x)
            log_slopes = log_slopes + more
        return -0.5 * (x.square().sum(-1) + self.size * _LOG_2PI) - log_slopes


class _Coupling:
    """``x -> A s(x) + b``."""

    def __init__(self, parameters: Tensor, size: int, family: SplineFlow, lower: bool) -> None:
        bins, self.lower = family.num_bins, lower
        below = size * (size - 1) // 2
        by_coordinate = parameters[..., below:].unflatten(-1, (size, 3 * bins + 1))
        widths, heights, rest = by_coordinate.split([bins, bins, bins + 1], dim=-1)
        self.splines = Splines(widths, heights, rest[..., 2:], family.bound)
        self.shift, self.log_scale = rest[..., 0], rest[..., 1]
        self.matrix = torch.diag_embed(self.log_scale.exp())
        rows, columns = torch.tril_indices(size, size, -1, device=parameters.device)
        if not lower:
            rows, columns = columns, rows
        self.matrix[..., rows, columns] = parameters[..., :below]

    def forwards(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The result, and the log-determinant of its slopes."""
        bent, log_slopes = self.splines.forwards(x)
        moved = (self.matrix @ bent.unsqueeze(-1)).squeeze(-1) + self.shift
        return moved, (log_slopes + self.log_scale).sum(-1)

    def backwards(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where `forwards` came from, and the log-determinant of its slopes."""
        bent = torch.linalg.solve_triangular(
            self.matrix, (x - self.shift).unsqueeze(-1), upper=not self.lower
        )
        origin, log_slopes = self.splines.backwards(bent.squeeze(-1))
        return origin, (self.log_scale + log_slopes).sum(-1)


class Splines:
    """Monotone rational-quadratic splines, the identity outside of [-bound, bound]; zeros make the identity inside.

    Parameters
    ----------
    widths, heights : Tensor, shape (..., D, bins)
        Of the bins, as logits.
    slopes : Tensor, shape (..., D, bins - 1)
        At the inner knots, before a softplus; at the outer ones slopes are one.
    bound : float

    References
    ----------
    Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows", NeurIPS 2019, eqs. (4)-(8).
    """

    def __init__(self, widths: Tensor, heights: Tensor, slopes: Tensor, bound: float) -> None:
        self.bound = bound
        inner = _LEAST + torch.nn.functional.softplus(slopes + _UNIT_SLOPE)
        inner = torch.nn.functional.pad(inner, (1, 1), value=1.0)
        self.knots = torch.stack([_knots(widths, bound), _knots(heights, bound), inner], dim=-2)

    def _bins(self, x: Tensor, axis: int) -> tuple[Tensor, ...]:
        """Of the bin of every number: place, height and slope at its left, width, rise, slope at its right."""
        inner = self.knots[..., axis, 1:-1]
        # Which bin needs no gradient.
        index = (x.detach().unsqueeze(-1) >= inner.detach()).sum(-1)[..., None, None]
        knots = self.knots.expand(*x.shape, *self.knots.shape[-2:])
        index = index.expand(*x.shape, 3, 1)
        left, right = (knots.gather(-1, i).squeeze(-1) for i in (index, index + 1))
        width, rise = (right - left)[..., :2].unbind(-1)
        return (*left.unbind(-1), width, rise, right[..., 2])

    def forwards(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The splines' values at x (..., D), and the logarithms of their slopes there."""
        inside = x.clamp(-self.bound, self.bound)
        left, low, slope, width, rise, next_slope = self._bins(inside, 0)
        t, mean = (inside - left) / width, rise / width
        product = t * (1 - t)
        below = mean + (slope + next_slope - 2 * mean) * product
        value = low + rise * (mean * t.square() + slope * product) / below
        return value + (x - inside), _log_slope(t, mean, slope, next_slope)

    def backwards(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Where the splines have these values, and the logarithms of their slopes there."""
        inside = value.clamp(-self.bound, self.bound)
        left, low, slope, width, rise, next_slope = self._bins(inside, 1)
        above, mean = inside - low, rise / width
        bend = above * (slope + next_slope - 2 * mean)
        a, b, c = rise * (mean - slope) + bend, rise * slope - bend, -mean * above
        # the form of a quadratic's root that does not cancel; rounding can make its root negative
        t = -2 * c / (b + (b.square() - 4 * a * c).clamp(min=0).sqrt())
        return left + t * width + (value - inside), _log_slope(t, mean, slope, next_slope)


def _knots(logits: Tensor, bound: float) -> Tensor:
    """Knots from -bound to bound, bins as wide as the logits say, (..., bins + 1)."""
    bins = logits.shape[-1]
    shares = _LEAST + (1 - bins * _LEAST) * torch.softmax(logits, -1)
    inner = bound * (2 * shares[..., :-1].cumsum(-1) - 1)
    ends = torch.full_like(inner[..., :1], bound)
    return torch.cat([-ends, inner, ends], dim=-1)


def _log_slope(t: Tensor, mean: Tensor, slope: Tensor, next_slope: Tensor) -> Tensor:
    """Logarithm of a spline's slope at the share t of a bin of that mean slope and slopes at its ends."""
    product = t * (1 - t)
    above = next_slope * t.square() + 2 * mean * product + slope * (1 - t).square()
    below = mean + (slope + next_slope - 2 * mean) * product
    return 2 * mean.log() + above.log() - 2 * below.log()
