"""Whether chains have settled: R-hat and effective sample size of what spectra share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_unmix.infer.between_chains import effective_size, split_r_hat
from pyro_unmix.models.library_mixing import LibraryMixing

if TYPE_CHECKING:
    from pyro_unmix.infer.sampled import Sampled


def checks_of(result: Sampled) -> xr.Dataset:
    """What `Sampled.diagnose` returns: of groups of chains that are compared, the largest R-hat and the least size."""
    worst: dict[str, tuple[Any, Any]] = {}
    for group in _compared(result).values():
        for name in group[0]:
            least = min(len(draws[name]) for draws in group)  # of one that was interrupted
            values = torch.stack([draws[name][-least:].cpu() for draws in group]).double()
            r_hat, size = split_r_hat(values).numpy(), effective_size(values).numpy()
            before = worst.get(name, (r_hat, size))
            worst[name] = np.fmax(before[0], r_hat), np.fmin(before[1], size)
    found = {
        f"{of}{name}": value if name else ("endmember", value)
        for name, values in worst.items()
        for of, value in zip(("r_hat", "ess"), values, strict=True)
    }
    return xr.Dataset(found, coords={"endmember": result.dataset["endmember"]})


def _compared(result: Sampled) -> dict[Any, list[dict[str, Tensor]]]:
    """Draws by the end of the names of their checks, of chains that are to agree: of one program, but no library."""
    assert result.orders is not None
    together: dict[Any, list[dict[str, Tensor]]] = {}
    for number, (chain, order) in enumerate(zip(result.chains, result.orders, strict=True)):
        draws = {"_noise": chain.stacked("noise_variance")}
        if "concentration" in chain.shared[0]:
            draws["_concentration"] = chain.stacked("concentration")
        library = isinstance(chain.model, LibraryMixing)
        if not library:
            draws[""] = chain.stacked("endmembers").mean(-2)[:, list(order)]
        together.setdefault(number if library else id(chain.model), []).append(draws)
    return together
