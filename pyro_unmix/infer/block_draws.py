"""Draws of single spectra under all chains of a result, block by block, moved apart as the chains are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.data.cubes import to_pixels
from pyro_unmix.infer.between_chains import shares, spread_apart, widening
from pyro_unmix.infer.chains import BLOCK, draw_own
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.solvers import project_simplex

if TYPE_CHECKING:
    from pyro_unmix.infer.sampled import Sampled


class Drawn(NamedTuple):
    """Draws of the abundances (D, B, P) of a block, and mean fractions (B, S) of the spectra of a library, if any, NaN
    where nothing was observed."""

    abundances: Tensor
    fractions: Tensor

    def at(self, places: np.ndarray) -> Drawn:
        """Of the spectra at these places."""
        return Drawn(self.abundances[:, places], self.fractions[places])


def blocks_of(
    result: Sampled, num_samples: int, seed: int, progress: bool = False
) -> Iterator[Drawn]:
    """Draws of one block of the pixel-dates, in the order (pixel, date), after the other."""
    pixels, valid = to_pixels(result.images())
    values, observed = pixels.reshape(-1, pixels.shape[-1]), valid.ravel()
    sources = nearest_dates(valid).ravel()
    num_dates = valid.shape[1]
    size = max(BLOCK // num_dates, 1) * num_dates  # whole pixels
    bar = progress_bar(total=len(values), shown=progress, desc="read out", unit="spectrum")
    for block, first in enumerate(range(0, len(values), size)):
        part = slice(first, first + size)
        drawn = _block(result, values[part], observed[part], num_samples, (seed, block))
        if result.field is not None:
            drawn = drawn._replace(abundances=result.field.about(drawn.abundances, part))
        yield drawn.at(sources[part] - first)
        bar.update(len(values[part]))
    bar.close()


def _block(
    result: Sampled,
    values: np.ndarray,
    observed: np.ndarray,
    num_samples: int,
    seeds: tuple[int, int],
) -> Drawn:
    assert result.weights is not None and result.orders is not None
    device = result.chains[0].model.device
    filled = np.where(observed[:, None], values, 0.0).astype(np.float64)
    spectra = torch.as_tensor(filled, device=device)
    missing = torch.as_tensor(~observed, device=device)
    parts, fractions = [], []
    counts = shares(result.weights, num_samples)
    for number, (chain, count, order) in enumerate(
        zip(result.chains, counts, result.orders, strict=True)
    ):
        if not count:
            parts.append(spectra.new_empty(0, len(spectra), len(order)))
            continue
        state = np.random.SeedSequence([*seeds, number]).generate_state(1, np.uint64)[0]
        generator = torch.Generator(device).manual_seed(int(state) % 2**63)
        drawn, of_library = draw_own(
            chain, spectra, int(count), num_warmup=result.num_warmup, generator=generator
        )
        fractions.append(of_library.float() * (int(count) / num_samples))
        shape = tuple(drawn.shape[:-1])
        prior = chain.model.prior_abundances(chain.shared[-1], shape, generator)
        parts.append(torch.where(missing.unsqueeze(-1), prior, drawn)[..., list(order)])
    moved = []
    for starts in result.kinds_of_starts(counts):
        together = [torch.cat([parts[n] for n in own]) for own in starts]
        moved.append(spread_apart(together, widening(result.start_weights(starts))))
    of_library = torch.stack(fractions).sum(0)
    of_library[missing] = torch.nan
    return Drawn(project_simplex(torch.cat(moved)), of_library)


def nearest_dates(valid: np.ndarray) -> np.ndarray:
    """Where (pixel, date) is filled from, in one row: the observed date that is nearest by its place, else itself."""
    num_dates = valid.shape[1]
    dates = np.arange(num_dates)
    apart = np.abs(np.subtract.outer(dates, dates)) + np.where(valid, 0, 2 * num_dates)[:, None]
    nearest = np.where(valid.any(1, keepdims=True), apart.argmin(-1), dates)
    return nearest + num_dates * np.arange(len(valid))[:, None]
