"""`fit`: the one training loop."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuide, AutoNormal

from pyro_unmix.data.cubes import check_bands
from pyro_unmix.data.lazy import as_cubes, is_lazy, without_fill
from pyro_unmix.data.types import GuideProgram, ImagesLike, ModelProgram
from pyro_unmix.guides.base import Guide
from pyro_unmix.infer.batches import FromDisk, InMemory
from pyro_unmix.infer.checkpoints import Checkpoints, as_checkpoints
from pyro_unmix.infer.fit_run import Run
from pyro_unmix.infer.rehearsal import check_call, check_names, rehearse
from pyro_unmix.infer.step import (
    CheckedSVI,
    NonFiniteLossError,
    ObservedPixels,
    Optimiser,
    held_interrupts,
)
from pyro_unmix.infer.stopping import Plan
from pyro_unmix.infer.workers import device_of_worker, join
from pyro_unmix.io.opening import open_images
from pyro_unmix.kernels.sweeps import check_model
from pyro_unmix.models.base import Decode, VariabilityModel, as_module
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.engine_lock import lent
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.autoguides import holds_scene, may_hold_scene
from pyro_unmix.posterior.dates import check_dates, copies
from pyro_unmix.posterior.decoding import decoding_of, need_own_decode
from pyro_unmix.posterior.estimates import PolishedMean, PosteriorMean, as_estimate
from pyro_unmix.posterior.programs import (
    as_tensors,
    loose_params,
    model_dtype_and_device,
    quiet_pyro,
)
from pyro_unmix.posterior.read_out import read_out
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.posterior.tiles import TileReader, lazy_read_out, tiled_read_out

logger = logging.getLogger(__name__)

__all__ = ["NonFiniteLossError", "fit"]


@one_thread()
def fit(
    model: ModelProgram,
    guide: GuideProgram,
    cubes: ImagesLike,
    *,
    num_steps: int | None = None,
    num_epochs: float | None = None,
    batch_size: int = 128,
    learning_rate: float | Callable[[str], float] = 1e-3,
    learning_rate_decay: float = 1.0,
    loss: Any = None,
    estimate: PosteriorMean | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    callback: Callable[[int, float], None] | None = None,
    checkpoint: Checkpoints | str | os.PathLike[str] | None = None,
    memory: float = 2**30,
    maps: bool = True,
    method: str = "fit",
    decode: Decode | None = None,
) -> Unmixing:
    """Learn a model and a guide jointly by stochastic variational inference.

    Maximises the ELBO of eq. (29), estimated on minibatches of pixels and scaled to all pixels that have a valid
    date; it is optimised and reported per observed value (pixel, date and band).

    Parameters
    ----------
    model : module or function
        Generative program, such as `SGLMM`, or any other in Pyro, called as ``model(pixels, valid, *, index=None,
        size=None, features=None)``, see `pyro_unmix.models.Model`; trained in place.
    guide : module or function
        Variational program with the model's latent sites, such as `ConjugateGuide`, or any other, called in the same
        way; trained in place.
    cubes
        Anything that `as_cube_sequence` takes, or files, as `open_images` reads them. A DataArray in chunks
        (`xarray.open_zarr`, `read_sequence(chunks=...)`) is not loaded: see Notes.
    num_steps : int, optional
        Exactly so many steps (0: none, only the read-out).
    num_epochs : float, optional
        The same, in passes over the pixels. Without both, training stops when the ELBO has converged: when the mean
        over the last 50 steps is not above that of the 50 steps before by more than two standard errors of the
        difference, at the latest after `pyro_unmix.infer.stopping.MAX_EPOCHS` epochs.
    batch_size : int
        Pixels per step.
    learning_rate : float or callable
        Of ClippedAdam; a callable is given the parameter's name, such as ``"model.noise.log_scale"``.
    learning_rate_decay : float in (0, 1]
        Factor by which the learning rate has shrunk at the end of the planned steps.
    loss : pyro.infer.ELBO, optional
        Default ``Trace_ELBO()``.
    estimate : PosteriorMean, optional
        How abundances are read out; default ``PosteriorMean()``; ``PlugInMean()``, or ``PolishedMean()``.
    seed : int
        Of batches and draws.
    device : str, optional
        Where to compute; default where the model is.
    progress : bool
        Show a bar with the ELBO and pixels per second.
    callback : callable, optional
        Called as ``callback(step, elbo)`` after every step, with the ELBO per observed value.
    checkpoint : Checkpoints or path, optional
        Folder for checkpoints, a path for ``Checkpoints(path)``. A fit that was killed, called again with the same
        arguments, goes on from the newest one and ends with the same bits as if nothing had happened; one that had
        ended is only read out again. More steps than before prolong it, unless the learning rate decays over them.
    memory : int, or float such as 1e9
        Bytes of spectra that training holds of a DataArray in chunks, a whole number.
    maps : bool
        False: of a DataArray in chunks the maps are not computed but left lazy, as by `Unmixing.predict`; write them
        with `Unmixing.predict_to_zarr` where even maps are too large for memory.
    method : str
        Name on the result.
    decode : callable, optional
        What the latent sites of a model of your own mean: a function of their values by name, (draws, pixels, ...),
        that returns abundances (..., T, P), or a pair with endmembers (..., T, L, P) or (L, P). Default the model's
        method of this name.

    Returns
    -------
    Unmixing
        Also after an interrupt (Ctrl-C), with what was learned by then, and without the sweeps of a `PolishedMean`.

    Raises
    ------
    NonFiniteLossError
        At the first loss or gradient that is not finite, naming the site, its date and pixels, or the parameter. The
        parameters are those that gave the last finite loss.
    ValueError
        If something does not fit together, or a checkpoint is of another model, other settings or other data.
    BlockingIOError
        If another fit, in this process or another one, uses the folder of checkpoints.
    TypeError
        If a program is not called as described, `decode` returns something else, or an argument is of another kind.

    Notes
    -----
    A checkpoint holds the parameters of model and guide, the optimiser, all random generators, the queue of pixels,
    the losses, and what the loss object counts. What a model of your own keeps in plain Python attributes, it does
    not hold: register it as a buffer.

    Programs that are not this package's are tried out on copies before the first step: sites, plates, what `decode`
    returns. A model that is a function computes in the type and on the device of the guide, or in torch's default type
    on the CPU or `device`.

    Under ``torchrun``, or in a process group of `torch.distributed`, all processes train one pair: each must make
    this call with the whole scene and computes its share of every batch, see `pyro_unmix.infer.Workers`. All return
    the same result. The first one shows progress and writes checkpoints; `callback` is called by all of them.

    A DataArray in chunks is read once from end to end, to check it, and then in pools of pixels, as
    `pyro_unmix.infer.batches.FromDisk` describes: batches are of few chunks at a time, so that small chunks mix better,
    and convergence is looked at by whole epochs. Its maps are computed chunk by chunk. If it fits into `memory`,
    training has the bits of the same images loaded. Of several workers, each reads every pool. The result's `cubes` are
    lazy; what needs them (`sample`, `quantile`, `diagnose`) loads them.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.ConjugateGuide(model, correction=False)
    >>> result = pu.fit(model, guide, scene.cubes, num_steps=5, progress=False)
    >>> result
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 5 steps>
    >>> len(result.losses)
    5
    """
    seed = positive_int(seed, "seed", minimum=0)
    cubes = as_cubes(open_images(cubes))
    lazy = is_lazy(cubes)
    plan_of = partial(
        Plan,
        num_steps=num_steps, num_epochs=num_epochs, batch_size=batch_size, decay=learning_rate_decay,
    )  # fmt: skip
    # Settings are refused before anything is read.
    Optimiser(learning_rate, plan_of(cubes.sizes["y"] * cubes.sizes["x"]).decay_per_step)
    num_bytes = _whole(memory)
    _check_maps(maps, lazy)
    loss = Trace_ELBO() if loss is None else loss
    estimate = PosteriorMean() if estimate is None else estimate
    _check_programs(model, guide)
    _check_settings(loss, estimate, callback, model, decode)
    model = as_module(model, guide)
    check_dates(model, guide, cubes)
    if device is not None:
        device = device_of_worker(device)
        model.to(device)
        if hasattr(guide, "to"):
            guide.to(device)
    num_bands = getattr(model, "num_bands", cubes.sizes["wavelength"])
    if cubes.sizes["wavelength"] != num_bands:
        raise ValueError(
            f"the model has {num_bands} bands, the cubes {cubes.sizes['wavelength']}: build the model "
            "from endmembers of the same bands"
        )
    check_bands(getattr(getattr(model, "reference", None), "wavelength", None), cubes)
    keeper = as_checkpoints(checkpoint)
    workers = join(model_dtype_and_device(model)[1])
    progress = progress and workers.is_first
    data: InMemory | FromDisk
    if lazy:
        data = FromDisk(cubes, model, memory=num_bytes, progress=progress)
    else:
        data = InMemory(*as_tensors(cubes, model))
    plan = plan_of(data.num_usable, whole_epochs=data.num_pools > 1)
    with closing(data), quiet_pyro(), seeded(seed, data.device):
        scale = 1.0 / data.num_values
        observed = ObservedPixels(data.num_usable, data.num_pixels)
        _forget_gradients(model, guide)
        svi = CheckedSVI(
            poutine.scale(observed(model), scale=scale),
            poutine.scale(observed(guide), scale=scale),
            Optimiser(learning_rate, plan.decay_per_step),
            loss,
            cubes,
            workers,
        )
        data.shuffle(plan.batch_size, seed)
        run = Run(model, guide, svi, loss, data, plan.settings(seed))
        if not _is_of_this_package(model, guide, decode):
            _rehearse(run, decode, seed, plan.num_steps > 0)
        try:
            with nullcontext() if keeper is None else keeper.held(workers):
                _train(run, plan, keeper, progress, callback)
            data.close()
            if isinstance(estimate, PolishedMean) and plan.cut_short(run.losses):
                # Who stops a fit waits for no sweeps.
                estimate = PosteriorMean(estimate.num_samples)
            store = loose_params(model, guide)
            how: dict[str, Any] = {"estimate": estimate, "seed": seed, "store": store}
            how["decode"] = decode
            if maps:
                read = tiled_read_out if lazy else read_out
                dataset = read(model, guide, cubes, progress=progress, workers=workers, **how)
        except torch.linalg.LinAlgError as error:
            raise svi.failed(f"{_no_posterior(model, guide, run)} ({error})") from error
        if maps and not np.isfinite(dataset["abundances"]).all():
            raise svi.failed("the last step left abundances that are not finite")
    model, guide, decode = copies(model, guide, decode)
    how["decode"] = decode
    if not maps:
        reader = TileReader(model, guide, num_pixels=data.num_pixels, **how)
        dataset = lazy_read_out(reader, cubes)
    if lazy:
        cubes = without_fill(cubes)
    return Unmixing(
        dataset, np.asarray(run.losses), model, guide, cubes, estimate, seed, method, store, decode
    )


def _check_programs(model: ModelProgram, guide: GuideProgram) -> None:
    for name, program in (("model", model), ("guide", guide)):
        if isinstance(program, type) or not callable(program):
            raise TypeError(
                f"{name} must be a Pyro program, such as SGLMM(endmembers) and "
                f"ConjugateGuide(model), got {program!r}"
            )
    if isinstance(model, (Guide, AutoGuide)):
        raise TypeError(
            "expected fit(model, guide, cubes) with a program such as SGLMM(endmembers) for the "
            f"model, got a {type(model).__name__}"
        )
    if isinstance(guide, Guide) and guide.model is not model:
        raise ValueError(
            "the guide was built for another model: build it from the model that is fitted, "
            f"{type(guide).__name__}(model)"
        )
    if isinstance(guide, (AutoNormal, AutoDelta)) and guide.create_plates is None:
        raise ValueError(
            f"{type(guide).__name__} must be told the plate of the pixels: pass create_plates, a "
            "function of the guide's arguments that returns pyro.plate('pixels', size or len(pixels), "
            "subsample=index, dim=-1)"
        )
    check_call(model, guide)
    check_names(model, guide)
    modules = [program for program in (model, guide) if isinstance(program, torch.nn.Module)]
    dtypes = {p.dtype for module in modules for p in module.parameters() if p.is_floating_point()}
    if len(dtypes) > 1:
        raise TypeError(
            f"model and guide must have one floating-point type, got {sorted(map(str, dtypes))}: "
            "call .double() or .float() on both"
        )


def _is_of_this_package(model: ModelProgram, guide: GuideProgram, decode: Decode | None) -> bool:
    """Whether a pair was built to go together, so that nothing need be tried out."""
    return decode is None and isinstance(model, VariabilityModel) and isinstance(guide, Guide)


def _rehearse(run: Run, decode: Decode | None, seed: int, trains: bool) -> None:
    """Try a pair out, and let the pixels of a batch be in order where the guide needs that."""
    workers = run.svi.workers
    run.data.in_order = rehearse(
        run.model, run.guide, decode, run.data, seed, trains=trains, warns=workers.is_first
    )
    if not may_hold_scene(run.guide) or not isinstance(run.data, InMemory):
        return
    # Its vector is of the pixels that it sees first.
    with seeded(seed, run.data.device):
        run.meet_parameters()
    if holds_scene(run.guide) and workers.size > 1:
        raise ValueError(
            f"{type(run.guide).__name__} draws all pixels together, which several processes cannot share: fit it in one"
        )


def _no_posterior(model: ModelProgram, guide: GuideProgram, run: Run) -> str:
    """Why a factorisation failed outside of a step."""
    if run.losses:
        return "the last step left no posterior"
    for name, program in (("model", model), ("guide", guide)):
        for own, value in program.state_dict().items() if hasattr(program, "state_dict") else ():
            if isinstance(value, torch.Tensor) and not torch.isfinite(value).all():
                return f"{name}.{own} is not finite before the first step"
    return "there is no posterior to start from"


def _forget_gradients(*programs: Any) -> None:
    """Drop gradients that somebody left on the parameters: the first step would add to them."""
    for program in programs:
        if isinstance(program, torch.nn.Module):
            program.zero_grad(set_to_none=True)


def _check_settings(
    loss: Any, estimate: Any, callback: Any, model: ModelProgram, decode: Decode | None
) -> None:
    if not hasattr(loss, "loss_and_grads"):
        raise TypeError(f"loss must be an ELBO of Pyro, such as Trace_ELBO(), got {loss!r}")
    as_estimate(estimate)
    if decode is not None and not callable(decode):
        raise TypeError(f"decode must be a function of the latent sites' values, got {decode!r}")
    decoding = decoding_of(model, decode)
    if isinstance(estimate, PolishedMean):
        check_model(model)
        need_own_decode(decoding)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function (step, elbo), got {callback!r}")


def _whole(memory: float) -> int:
    whole = isinstance(memory, (float, np.floating)) and memory.is_integer()
    return positive_int(int(memory) if whole else memory, "memory")


def _check_maps(maps: bool, lazy: bool) -> None:
    if not isinstance(maps, bool):
        raise TypeError(f"maps must be True or False, got {maps!r}")
    if not maps and not lazy:
        raise ValueError(
            "maps=False is for a DataArray in chunks, whose maps can be computed later: pass "
            "cubes.chunk(y=..., x=...), or leave maps=True"
        )


def _train(
    run: Run,
    plan: Plan,
    keeper: Checkpoints | None,
    progress: bool,
    callback: Callable[[int, float], None] | None,
) -> None:
    """Train until the plan is fulfilled or somebody presses Ctrl-C."""
    workers = run.svi.workers
    run.check_workers()
    if not plan.num_steps:
        return
    bar = progress_bar(total=plan.num_steps, shown=progress, desc="fit", unit="step")
    try:
        resumed = keeper is not None and keeper.begin(run, plan.num_steps)
        if not resumed:
            run.begin()
        bar.update(len(run.losses))
        with held_interrupts(workers.any) as release:
            _steps(run, plan, keeper, bar, callback, release)
        run.svi.check_parameters()
        if plan.finished(run.losses) and workers.is_first:
            logger.info("ELBO converged after %d steps", len(run.losses))
    except KeyboardInterrupt:
        if workers.is_first:
            logger.warning("interrupted after %d of %d steps", len(run.losses), plan.num_steps)
        if not run.between_steps:  # a second Ctrl-C, in the middle of a step
            if workers.size > 1:  # the others wait for this one
                raise
            return
    finally:
        bar.close()
    if keeper is not None and run.losses:
        keeper.save(run)


def _steps(
    run: Run,
    plan: Plan,
    keeper: Checkpoints | None,
    bar: Any,
    callback: Callable[[int, float], None] | None,
    release: Callable[[], None],
) -> None:
    started, before = time.perf_counter(), len(run.losses)
    while len(run.losses) < plan.num_steps and not plan.finished(run.losses):
        value = run.step()
        step = len(run.losses)
        if not bar.disable:
            rate = (step - before) * plan.batch_size / (time.perf_counter() - started)
            bar.set_postfix_str(f"ELBO/value {-value:.4f}, {rate:.0f} pixels/s", refresh=False)
            bar.update()
        if callback is not None:
            with lent():
                callback(step - 1, -value)
        if keeper is not None:
            keeper.after_step(run)
        release()
