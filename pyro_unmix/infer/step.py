"""One step of stochastic variational inference: objective, optimiser, batches, and what to say when it fails."""

from __future__ import annotations

import inspect
import logging
import math
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import ELBO, SVI, Trace_ELBO
from pyro.optim import PyroOptim
from pyro.optim.clipped_adam import ClippedAdam
from pyro.params.param_store import normalize_param_name
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_unmix.infer.trace_elbo import loss_and_grads
from pyro_unmix.infer.workers import Workers
from pyro_unmix.ops.checks import in_range
from pyro_unmix.ops.non_finite import NonFiniteLossError

logger = logging.getLogger(__name__)

_ADVICE = "lower learning_rate, or look at the data and the priors' scales"
#: Any Pyro program, function or module.
Program = Callable[..., Any]
_NUM_NAMED = 3  # pixels that an error names


class CheckedSVI(SVI):
    """SVI that looks at the loss before it moves a parameter, and moves them in a fixed order.

    Parameters
    ----------
    model, guide, optim, loss
        Of `pyro.infer.SVI`.
    cubes : DataArray, optional
        The scene, in whose terms a failure is described.
    workers : Workers, optional
        Those that make the step together; default this process alone.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: PyroOptim,
        loss: ELBO,
        cubes: xr.DataArray | None = None,
        workers: Workers | None = None,
    ) -> None:
        super().__init__(model, guide, optim, loss)
        if type(loss) is Trace_ELBO:
            self.loss_and_grads = partial(loss_and_grads, loss)
        self.cubes = cubes
        self.workers = Workers() if workers is None else workers
        # Every parameter, and its value when the loss was last finite.
        self._params: dict[str, Tensor] = {}
        self._good: list[Tensor] = []

    def step(self, *args: Any, weight: float = 1.0, **kwargs: Any) -> float:
        """One step on a batch, or on this worker's share of one, which is `weight` of it; the loss of the batch."""
        random_state = torch.random.get_rng_state()
        with _Parameters() as met:
            try:
                loss = float(self.loss_and_grads(self.model, self.guide, *args, **kwargs))
            except torch.linalg.LinAlgError:  # from factors of what is not finite
                loss = math.nan
        params = dict(sorted(met.params.items()))
        whole = self.workers.average(loss, weight)
        if not math.isfinite(whole):
            self.check_parameters()
            torch.random.set_rng_state(random_state)
            raise self.failed(f"the loss became {whole}{self._blame(loss, args, kwargs)}")
        self.workers.average_gradients(params.values(), weight)
        self._keep(params)
        self.optim(params.values())
        for value in params.values():
            value.grad = None
        return whole

    def meet_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Run both programs once, so that parameters which are made at the first call exist."""
        with torch.no_grad():
            guide = poutine.trace(self.guide).get_trace(*args, **kwargs)
            poutine.replay(self.model, trace=guide)(*args, **kwargs)

    def failed(self, reason: str) -> NonFiniteLossError:
        """The error to raise; the last good parameters are back."""
        self._restore()
        return NonFiniteLossError(f"{reason}; {_ADVICE}")

    def _blame(self, loss: float, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Which site is to blame, of the first worker that has one."""
        blame = ""
        if not math.isfinite(loss):
            blame = _describe_failure(self.model, self.guide, args, kwargs, self.cubes)
        return self.workers.first_of(blame)

    def check_parameters(self) -> None:
        """Raise if the last step left a parameter that is not finite: its gradient was not."""
        for name, value in self._params.items():
            if not torch.isfinite(value).all():
                name = name.replace("$$$", ".")
                raise self.failed(f"the gradient of parameter {name!r} is not finite")

    @torch.no_grad()
    def _keep(self, params: dict[str, Tensor]) -> None:
        """Remember the values of all parameters."""
        same = params.keys() == self._params.keys()
        if same and all(value is self._params[name] for name, value in params.items()):
            torch._foreach_copy_(self._good, list(params.values()))
        else:
            self._params, self._good = params, [value.clone() for value in params.values()]

    def _restore(self) -> None:
        with torch.no_grad():
            for value, good in zip(self._params.values(), self._good, strict=True):
                value.copy_(good)
                value.grad = None


class _Parameters(Messenger):
    """Collects the parameters that programs meet, by name and unconstrained."""

    def __init__(self) -> None:
        super().__init__()
        self.params: dict[str, Tensor] = {}

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        self.params[msg["name"]] = msg["value"].unconstrained()


class _LightAdam(ClippedAdam):
    """Without the decorator by which torch keeps its compiler away: it imports it, for a second in every process."""

    add_param_group = inspect.unwrap(ClippedAdam.add_param_group)
    load_state_dict = inspect.unwrap(ClippedAdam.load_state_dict)
    state_dict = inspect.unwrap(ClippedAdam.state_dict)


class Optimiser(PyroOptim):
    """ClippedAdam as one object for all parameters; `PyroOptim` makes one for each.

    Parameters
    ----------
    learning_rate : float or callable
        One rate, or a rate by the parameter's name.
    decay : float
        Factor per step.
    """

    def __init__(self, learning_rate: float | Callable[[str], float], decay: float) -> None:
        if callable(learning_rate):
            rate = learning_rate
            super().__init__(ClippedAdam, lambda name: {"lr": rate(name), "lrd": decay})
        else:
            constant = in_range(learning_rate, "learning_rate", 0.0, open_low=True)
            super().__init__(ClippedAdam, {"lr": constant, "lrd": decay})
        self._adam: ClippedAdam | None = None

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Move the parameters along their gradients."""
        for value in params:
            if value not in self.optim_objs:
                self._add(value)
        if self._adam is not None:
            self._adam.step()

    def _add(self, value: Tensor) -> None:
        group = {"params": [value], **self._get_optim_args(value)}
        if self._adam is None:
            self._adam = _LightAdam([group])
        else:
            self._adam.add_param_group(group)
        self.optim_objs[value] = self._adam

    def rate(self, name: str) -> float | None:
        """The learning rate at the start, of a parameter by its name in the param store, if it has one."""
        if not callable(self.pt_optim_args):
            return self.pt_optim_args["lr"]
        try:
            return self.pt_optim_args(normalize_param_name(name))["lr"]
        except (KeyError, ValueError):  # the name is another model's
            return None

    def state(self) -> dict[str, Any]:
        """Names of the parameters in the order in which they were met, and ClippedAdam's state."""
        store = pyro.get_param_store()
        names = [store.param_name(value) for value in self.optim_objs]
        return {"names": names, "adam": {} if self._adam is None else self._adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; the param store must hold the parameters."""
        params = pyro.get_param_store().get_state()["params"]
        for name in state["names"]:
            self._add(params[name])
        if self._adam is not None:
            self._adam.load_state_dict(state["adam"])


class Batches:
    """Endless batches of equal size; every pixel comes once before any comes again.

    Parameters
    ----------
    usable : Tensor of int
        Numbers of the pixels that take part.
    batch_size : int
    seed : int
    """

    def __init__(self, usable: Tensor, batch_size: int, seed: int) -> None:
        self.usable, self.batch_size = usable, batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._queue = torch.empty(0, dtype=torch.long)

    def __next__(self) -> Tensor:
        while len(self._queue) < self.batch_size:
            order = torch.randperm(len(self.usable), generator=self._generator)
            self._queue = torch.cat([self._queue, order])
        batch, self._queue = self._queue[: self.batch_size], self._queue[self.batch_size :]
        return self.usable[batch.to(self.usable.device)]

    def state(self) -> dict[str, Tensor]:
        """Which pixels come next, and the generator of the order after them."""
        # A clone: a view would be saved with all that it is a view of.
        return {"queue": self._queue.clone(), "generator": self._generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._queue = state["queue"]
        self._generator.set_state(state["generator"])


class ObservedPixels(Messenger):
    """Scales a plate of all pixels to the number of those that batches are taken from.

    A plate must have the size of the scene, because parameters and known abundances of a pixel have its number. The
    pixels without any date are in no batch, so that each of the others stands for too many.

    Parameters
    ----------
    num_observed, total : int
    """

    def __init__(self, num_observed: int, total: int) -> None:
        super().__init__()
        self.num_observed, self.total = num_observed, total

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        frames = [f for f in msg["cond_indep_stack"] if f.dim == -1]
        if self.num_observed < self.total and any(f.full_size == self.total for f in frames):
            msg["scale"] = msg["scale"] * (self.num_observed / self.total)


@contextmanager
def held_interrupts(
    agreed: Callable[[bool], bool] = bool,
) -> Iterator[Callable[[], None]]:
    """Ctrl-C waits for the next call of the function that this yields; a second Ctrl-C does not wait.

    A step that is broken off halfway would leave some parameters moved and others not.

    Parameters
    ----------
    agreed : callable
        Whether to stop, given whether Ctrl-C was pressed here; several workers stop after the same step.
    """
    pending: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if pending:
            raise KeyboardInterrupt
        pending.append(number)

    def release() -> None:
        if agreed(bool(pending)):
            raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    # A handler that somebody else has set stays.
    plain = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if plain:
        signal.signal(signal.SIGINT, note)
    try:
        yield release
    finally:
        if plain:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _describe_failure(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    cubes: xr.DataArray | None,
) -> str:
    """Which site is to blame, at which date and pixels, by running both programs once more."""
    with torch.no_grad():
        guide_sites = _sites(guide, args, kwargs)
        replayed = poutine.replay(model, trace=guide_sites)
        for program, sites in (("guide", guide_sites), ("model", _sites(replayed, args, kwargs))):
            for name, site in sites.nodes.items():
                if site["type"] != "sample":
                    continue
                bad, what = _not_finite(site)
                if bad.any():
                    where = _where(name, site, bad, kwargs.get("index"), cubes)
                    return f": site {name!r} of the {program} {what}{where}"
    return ", in this draw only"


def _not_finite(site: Any) -> tuple[Tensor, str]:
    """Where in its batch a site's value, or else its density, is not finite."""
    value, event = site["value"], getattr(site["fn"], "event_dim", 0)
    bad = ~torch.isfinite(value)
    bad = bad.flatten(bad.dim() - event).any(-1) if event else bad
    if bad.any():
        return bad, "is not finite"
    bad = ~torch.isfinite(site["fn"].log_prob(value))
    mask = site["mask"]  # what is masked does not count
    if mask is not None:
        bad = bad & torch.as_tensor(mask, device=bad.device)
    return bad, "has a density that is not finite"


def _where(
    name: str, site: Any, bad: Tensor, index: Tensor | None, cubes: xr.DataArray | None
) -> str:
    """Date and pixels of a failure, as far as the site has them."""
    if cubes is None:
        return ""
    parts = []
    # By contract there is one site per quantity and date, and its name ends in the date.
    number = re.search(r"_(\d+)$", name)
    if number and 1 <= int(number[1]) <= cubes.sizes["time"]:
        date, num_dates = int(number[1]), cubes.sizes["time"]
        parts.append(f"at date {date} of {num_dates}{_date(cubes, date - 1)}")
    in_plate = any(f.dim == -1 and f.name == "pixels" for f in site["cond_indep_stack"])
    if in_plate and index is not None and bad.dim() and bad.shape[-1] == len(index):
        failed = index[bad.reshape(-1, len(index)).any(0)].sort().values.tolist()
        width = cubes.sizes["x"]
        named = ", ".join(str(divmod(pixel, width)) for pixel in failed[:_NUM_NAMED])
        more = f" and {len(failed) - _NUM_NAMED} more" if len(failed) > _NUM_NAMED else ""
        parts.append(f"in pixels (y, x) {named}{more} of {len(index)} in the batch")
    return ", ".join(["", *parts])


def _date(cubes: xr.DataArray, position: int) -> str:
    if "time" not in cubes.coords:
        return ""
    date = cubes["time"].to_numpy()[position]
    return f" ({np.datetime_as_string(date, 'auto') if date.dtype.kind == 'M' else date})"


def _sites(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    """The program's trace, as far as it runs."""
    with poutine.trace() as capture:
        try:
            program(*args, **kwargs)
        except torch.linalg.LinAlgError as error:
            logger.warning("%s", str(error).splitlines()[0])
    return capture.trace
