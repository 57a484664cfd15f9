"""The engine of Markov chains: everything that a program does not know, drawn in turn."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from pyro_unmix.data.cubes import as_cube_sequence, to_pixels
from pyro_unmix.infer.chain_run import ChainRun, run_chains
from pyro_unmix.infer.chains import Chain
from pyro_unmix.infer.checkpoints import Checkpoints, as_checkpoints
from pyro_unmix.infer.programs import PROGRAMS
from pyro_unmix.infer.sampled import Sampled
from pyro_unmix.infer.stacking import log_predictive, share_of_kept, stacking_weights
from pyro_unmix.infer.workers import device_of_worker
from pyro_unmix.io.opening import open_images
from pyro_unmix.kernels import Kernel
from pyro_unmix.models.library_mixing import LibraryMixing
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.start.extraction import match_endmembers

logger = logging.getLogger(__name__)

NUM_HELD_OUT = 500


@one_thread()
def sample(
    model: SimplexMixing | LibraryMixing | Sequence[SimplexMixing] | Sequence[LibraryMixing],
    cubes: Any,
    *,
    num_rounds: int = 100,
    num_chains: int = 1,
    num_spectra: int = 2000,
    num_held_out: int = NUM_HELD_OUT,
    num_kept: int = 16,
    num_samples: int = 48,
    num_warmup: int = 4,
    shrink: float = 0.1,
    kernels: Sequence[Kernel] | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    checkpoint: Checkpoints | str | os.PathLike[str] | None = None,
) -> Sampled:
    """The posterior of a program, or of several, by Markov chains over everything that it does not know.

    What all spectra share is drawn by chains on random spectra, of its own for every chain: what is misfit is not
    independent from spectrum to spectrum, so that more of them would only make the chains surer of the same error (as
    in bagged posteriors). Chains do not mix between modes; they are weighted by how well they predict spectra that none
    has seen (`stacking_weights`); those of a library, which all start alike, weigh the same. Then all spectra, block
    by block: abundances given the shared draws.

    Parameters
    ----------
    model : SimplexMixing or LibraryMixing, or sequence of either
        Several, such as about endmembers of several extractions, each get `num_chains` chains.
    cubes
        Anything that `as_cube_sequence` takes, reflectance; or files, as `open_images` reads them.
    num_rounds : int
        Of every chain; shared draws are kept from the second half.
    num_chains : int
        Per model.
    num_spectra : int
        Spectra that a chain sees.
    num_held_out : int
        Spectra that no chain sees, behind the weights; none is held out of chains of a library.
    num_kept : int
        Shared draws that a chain keeps.
    num_samples : int
        Draws of every spectrum behind mean and standard deviation, of all chains together.
    num_warmup : int
        Rounds of the kernels before the first of them.
    shrink : float
        See `stacking_weights`.
    kernels : sequence of Kernel, optional
        A round; default all that a program has, such as `kernels.ROUND`. Without `EllipticalEndmembers` the endmembers
        stay where they start.
    seed : int
    device : str, optional
        Where to compute; default where the model is.
    progress : bool
        Show bars.
    checkpoint : Checkpoints or path, optional
        Folder for checkpoints, a path for ``Checkpoints(path)``; rounds of all chains count. Chains that were killed,
        called again with the same arguments, go on from the newest one and end with the same bits as if nothing had
        happened; those that had ended are only read out again. Of one model, more chains than before prolong it.

    Returns
    -------
    Sampled
        Also after an interrupt (Ctrl-C): of the chains that are done, and of the one under way if it had kept four
        draws, or all that it is to keep.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, there are too few observed spectra, or a checkpoint is of another model,
        other settings or other data.
    BlockingIOError
        If another call, in this process or another one, uses the folder of checkpoints.
    KeyboardInterrupt
        After an interrupt that comes before there are draws enough for a result.

    Notes
    -----
    A checkpoint holds the state of the chain under way, its stream of random numbers, what all chains kept, and what
    kernels count in plain attributes, or give by a ``state_dict`` of their own. The read-out is not in it: it begins
    anew. `num_samples`, `num_warmup` and `shrink`, which come after the chains, may differ.

    References
    ----------
    Huggins, Miller, "Reproducible model selection using bagged posteriors", Bayesian Analysis 18(1), 2023; Yao,
    Vehtari, Gelman, JMLR 23, 2022.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> model = pu.models.SimplexMixing(np.array([[0.1, 0.5], [0.2, 0.4], [0.2, 0.3]]), rank=1)
    >>> images = model.simulate(30, seed=1)["pixels"].numpy().clip(0, 1).reshape(1, 5, 6, 3)
    >>> result = pu.sample(
    ...     model, images, num_rounds=8, num_spectra=20, num_held_out=5, progress=False
    ... )
    >>> result.abundances.sizes["endmember"]
    2
    """
    known: tuple[Any, ...] = tuple(PROGRAMS)
    models: list[Any] = [model] if isinstance(model, known) else list(model)
    if len({type(m) for m in models}) != 1 or not isinstance(models[0], known):
        names = " or ".join(kind.__name__ for kind in PROGRAMS)
        raise TypeError(f"expected a {names}, or a sequence of one of these, got {model!r}")
    seed = positive_int(seed, "seed", minimum=0)
    num_rounds = positive_int(num_rounds, "num_rounds", minimum=4)
    num_held_out = positive_int(num_held_out, "num_held_out")
    num_chains = positive_int(num_chains, "num_chains")
    num_kept = positive_int(num_kept, "num_kept")
    num_samples = positive_int(num_samples, "num_samples", minimum=2)
    num_warmup = positive_int(num_warmup, "num_warmup", minimum=0)
    keeper = as_checkpoints(checkpoint)
    in_range(shrink, "shrink", low=0)
    sequence = as_cube_sequence(open_images(cubes))
    num_spectra = positive_int(num_spectra, "num_spectra", minimum=2)
    if sequence.sizes["wavelength"] != models[0].num_bands:
        raise ValueError(
            f"the model has {models[0].num_bands} bands, the images {sequence.sizes['wavelength']}: "
            "give the model endmembers at the bands of the images"
        )
    library = isinstance(models[0], LibraryMixing)
    if library and any(not models[0].has_library_of(m) for m in models):
        raise ValueError(
            "several LibraryMixing must hold the same spectra with the same labels, in the same order: make one "
            "library of them (data.merge_libraries) and one program"
        )
    if device is not None:
        for each in models:
            each.to(device_of_worker(device))
    seen, held_out = split_spectra(sequence, 0 if library else num_held_out, seed)
    run = ChainRun.of_random_spectra(
        [each for each in models for _ in range(num_chains)], seen, num_spectra, [seed, 2], num_rounds,
        num_kept=num_kept, kernels=kernels,
    )  # fmt: skip
    with progress_bar(total=run.total, shown=progress, desc="sample", unit="round") as bar:
        run_chains(run, keeper, bar)
    chains = run.chains_so_far()
    if not chains:
        raise KeyboardInterrupt("the chains were interrupted before they had draws for a result")
    if run.num_done < run.total:
        logger.warning(
            "the result is of %d of %d chains, of the last with %d of %d draws",
            len(chains), len(run.models), len(chains[-1].shared), run.num_draws,
        )  # fmt: skip
    weights = _weights(chains, held_out, shrink, seed)
    logger.info("weights of the chains: %s", np.round(weights, 3).tolist())
    result = Sampled(
        xr.Dataset(),
        model=chains[int(weights.argmax())].model,
        cubes=sequence,
        seed=seed,
        method="sample",
        chains=tuple(chains),
        weights=weights,
        orders=_orders(chains, weights),
        num_samples=num_samples,
        num_warmup=num_warmup,
    )
    return result.read_out(progress=progress)


def split_spectra(
    cubes: xr.DataArray, num_held_out: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Observed spectra (n, L) that chains may see, and those that none does, in random order."""
    positive_int(num_held_out, "num_held_out", minimum=0)
    pixels, valid = to_pixels(cubes)
    spectra = pixels[valid]
    if len(spectra) < 4:
        raise ValueError(f"expected at least 4 observed spectra, got {len(spectra)}")
    order = np.random.default_rng([seed, 1]).permutation(len(spectra))
    count = min(num_held_out, len(spectra) // 2)
    return spectra[order[count:]], spectra[order[:count]]


def _weights(chains: Sequence[Chain], held_out: np.ndarray, shrink: float, seed: int) -> np.ndarray:
    if len(chains) == 1:
        return np.ones(1)
    if isinstance(chains[0].model, LibraryMixing):
        return np.full(len(chains), 1 / len(chains))  # chains of one library start alike
    found = []
    for chain in chains:
        values = torch.as_tensor(held_out.astype(np.float64), device=chain.model.device)
        found.append(log_predictive(chain, values, seed=seed).cpu())
    densities = torch.stack(found)
    kept = torch.tensor([chain.model.kept for chain in chains])
    if kept.all() or not kept.any():
        return stacking_weights(densities, shrink=shrink).numpy()
    weights = torch.full((len(chains),), 1 / int(kept.sum()), dtype=torch.float64)
    weights[~kept] = stacking_weights(densities[~kept], shrink=shrink)
    num_bands = chains[0].model.num_bands
    share = share_of_kept(densities[~kept], weights[~kept], densities[kept], num_bands)
    logger.info(
        "%.0f %% of the weight is of chains that keep the spectra of pure pixels, or those given, and leave the "
        "residual outside of them", 100 * share,
    )  # fmt: skip
    return (weights * torch.where(kept, share, 1 - share)).numpy()


def _orders(chains: Sequence[Chain], weights: np.ndarray) -> np.ndarray:
    """The materials of every chain in the order of those of the chain that weighs most, by spectral angle."""
    if isinstance(chains[0].model, LibraryMixing):  # whose classes have names
        return np.tile(np.arange(chains[0].model.num_endmembers), (len(chains), 1))
    means = [chain.stacked("endmembers").mean(0).cpu().numpy() for chain in chains]
    best = means[int(weights.argmax())]
    return np.stack([match_endmembers(mean, best) for mean in means])
