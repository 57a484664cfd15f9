"""How fitted programs are run: on tensors, in a store of their own, from noise that is the same for every pixel."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_unmix.data.cubes import to_pixels
from pyro_unmix.data.types import GuideProgram, ModelProgram
from pyro_unmix.models.base import PIXELS
from pyro_unmix.ops.site_noise import draw_from_normals


class FixedNoise(Messenger):
    """Latent sites are computed from given standard-normal noise, the same for every pixel."""

    def __init__(self, noise: Any) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_latent(msg):
            msg["value"] = _from_noise(msg["fn"], msg["name"], self.noise)


class OneDraw(Messenger):
    """Latent sites are computed from the noise of one draw, without an axis for it, the same for every pixel.

    Parameters
    ----------
    noise : callable
        As `Noise`.
    draw : int
        Its number.
    """

    def __init__(self, noise: Callable[[str, int], Tensor], draw: int) -> None:
        super().__init__()
        self.noise, self.draw = noise, draw

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_latent(msg):
            msg["value"] = self.value(msg)
            if msg["value"] is None:
                raise TypeError(
                    f"site {msg['name']!r} of the guide is {type(msg['fn']).__name__}, which cannot be drawn as a "
                    "function of normal noise: use a continuous distribution with rsample and icdf, or give it a "
                    "from_noise(noise) method"
                )

    def value(self, msg: dict[str, Any]) -> Tensor | None:
        """The draw of a site, if there is a way to make it."""
        dims = {frame.dim for frame in msg["cond_indep_stack"] if frame.name == PIXELS}
        batch = msg["fn"].batch_shape
        lead = tuple(1 if i - len(batch) in dims else n for i, n in enumerate(batch))

        def normals(shape: tuple[int, ...], part: str) -> Tensor:
            whole = (*lead, *shape)
            return self.noise(msg["name"] + part, int(np.prod(whole)))[self.draw].reshape(whole)

        return draw_from_normals(msg["fn"], normals)


def is_latent(msg: Any) -> bool:
    """Whether a message of Pyro is of a latent site that has no value yet."""
    if msg["is_observed"] or msg["value"] is not None or msg["type"] != "sample":
        return False
    return not site_is_subsample(msg)


def value_from_noise(fn: Any, noise: Callable[[], Tensor]) -> Tensor | None:
    """The draw that `fn.rsample` makes of standard-normal noise; None where no way to make it is known.

    Parameters
    ----------
    fn : distribution
    noise : callable
        Gives noise that broadcasts to a draw of `fn`; only called where `fn` is random.
    """
    if hasattr(fn, "from_noise"):
        return fn.from_noise(noise())
    base = fn.base_dist if isinstance(fn, dist.Independent) else fn
    while isinstance(base, (dist.Independent, dist.ExpandedDistribution)):
        base = base.base_dist
    if isinstance(base, dist.Delta):
        return fn.mean
    if isinstance(base, dist.Normal):
        return base.loc + noise() * base.scale
    if isinstance(base, dist.MultivariateNormal):
        step = base.scale_tril @ noise().unsqueeze(-1)
        return base.loc + step.squeeze(-1)
    return None


def _from_noise(fn: Any, name: str, noise: Any) -> Tensor:
    """A draw of `fn` as a function of noise; see `Noise` in the guides."""
    size = int(np.prod(fn.event_shape)) if fn.event_shape else 1

    def draws() -> Tensor:
        found = noise(name, size)
        return found if fn.event_shape or hasattr(fn, "from_noise") else found.squeeze(-1)

    value = value_from_noise(fn, draws)
    if value is None:
        kind = fn.base_dist if isinstance(fn, dist.Independent) else fn
        raise TypeError(
            f"site {name!r} of the guide is {type(kind).__name__}, which cannot be drawn with common "
            "noise: use Normal, MultivariateNormal, PrecisionNormal or Delta, or give the distribution "
            "a from_noise(noise) method"
        )
    return value


class CommonNoise:
    """Standard-normal draws per site, from a seed, in antithetic pairs; the same for every pixel.

    Parameters
    ----------
    num_samples : int
    seed : int
    like : Tensor
        Whose dtype and device the draws have.
    """

    def __init__(self, num_samples: int, seed: int, like: Tensor) -> None:
        self.num_samples, self.seed, self.like = num_samples, seed, like

    def __call__(self, site: str, size: int) -> Tensor:
        """Draws (S, 1, size)."""
        seed = np.random.SeedSequence([self.seed, zlib.crc32(site.encode())])
        half = np.random.default_rng(seed).standard_normal(((self.num_samples + 1) // 2, size))
        draws = np.stack([half, -half], axis=1).reshape(-1, 1, size)[: self.num_samples]
        return torch.as_tensor(draws, dtype=self.like.dtype, device=self.like.device)


ParamStore = Mapping[str, Mapping[str, Any]]


@contextmanager
def quiet_pyro(store: ParamStore | None = None) -> Iterator[None]:
    """A scope that leaves no parameter in the store and validates nothing; it starts with those of `store`."""
    state = {name: dict(values) for name, values in (store or _NO_PARAMS).items()}
    with pyro.get_param_store().scope(cast(Any, state)), pyro.validation_enabled(False):
        yield


_NO_PARAMS: ParamStore = {"params": {}, "constraints": {}}


def loose_params(*programs: Any) -> ParamStore:
    """What the store holds besides the parameters of modules: those of plain functions, copied."""
    modules = [program for program in programs if isinstance(program, torch.nn.Module)]
    owned = {id(parameter) for module in modules for parameter in module.parameters()}
    state = pyro.get_param_store().get_state()
    loose = {
        name: value.detach().clone().requires_grad_()
        for name, value in state["params"].items()
        if id(value) not in owned
    }
    return {"params": loose, "constraints": {n: state["constraints"][n] for n in loose}}


def model_dtype_and_device(model: Any) -> tuple[torch.dtype, torch.device]:
    """Where the model's first floating-point tensor lives."""
    tensors = [*model.parameters(), *model.buffers()]
    first = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
    return first.dtype, first.device


def as_tensors(cubes: xr.DataArray, model: ModelProgram) -> tuple[Tensor, Tensor]:
    """Pixels (N, T, L) and validity (N, T) in the model's dtype and on its device."""
    dtype, device = model_dtype_and_device(model)
    pixels, valid = to_pixels(cubes)
    return torch.from_numpy(pixels).to(device, dtype), torch.from_numpy(valid).to(device)


def prepare(
    guide: GuideProgram, pixels: Tensor, valid: Tensor, index: Tensor | None = None
) -> dict[str, Tensor]:
    """The guide's data-dependent features, where it has any; `index` holds the pixels' numbers in the scene."""
    if not hasattr(guide, "prepare"):
        return {}
    takes_index = "index" in inspect.signature(guide.prepare).parameters
    features = guide.prepare(pixels, valid, **({"index": index} if takes_index else {}))
    return {name: torch.as_tensor(value) for name, value in features.items()}
