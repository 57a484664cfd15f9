"""A fit tried out before its first step: what is missing or does not fit together is said then.

Everything runs on copies: parameters that are made at the first call, and random numbers, are left to the fit.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.util import check_site_shape
from torch import Tensor, nn

from pyro_unmix.data.types import GuideProgram, ModelProgram
from pyro_unmix.infer.batches import InMemory, PixelSource
from pyro_unmix.models.base import CALL, PIXELS, Decode
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.posterior.autoguides import holds_pixels, holds_scene, may_hold_scene, needs_plate
from pyro_unmix.posterior.dates import copies
from pyro_unmix.posterior.decoding import decoding_of, in_pixels, is_latent_site, name_of
from pyro_unmix.posterior.programs import prepare, quiet_pyro
from pyro_unmix.posterior.read_out import surveyed

logger = logging.getLogger(__name__)

_PLATE = "pyro.plate('pixels', size or len(valid), subsample=index, dim=-1)"


def check_call(model: ModelProgram, guide: GuideProgram) -> None:
    """Raise TypeError unless both programs can be called as `fit` calls them."""
    for what, program in (("model", model), ("guide", guide)):
        called = program.forward if isinstance(program, nn.Module) else program
        try:
            signature = inspect.signature(called)
        except (TypeError, ValueError):  # of a handler, say: the call will tell
            continue
        try:
            signature.bind(None, None, index=None, size=None, features=None)
        except TypeError as error:
            raise TypeError(
                f"the {what} is called as {what}{CALL}, and {name_of(program)}{signature} does not allow that "
                f"({error}): give it these arguments"
            ) from error


def check_names(model: ModelProgram, guide: GuideProgram) -> None:
    """Raise ValueError if two modules of Pyro would share a parameter because they have one name, or none."""
    if not (isinstance(model, PyroModule) and isinstance(guide, PyroModule)):
        return
    if model._pyro_name != guide._pyro_name:
        return
    ours = dict(model.named_parameters())
    both = [k for k, v in guide.named_parameters() if k in ours and ours[k] is not v]
    if both:
        raise ValueError(
            f"model and guide both have a parameter {both[0]!r}, which Pyro would take for one: give the guide "
            "another name, super().__init__('guide')"
        )


def rehearse(
    model: ModelProgram,
    guide: GuideProgram,
    decode: Decode | None,
    data: PixelSource,
    seed: int,
    *,
    trains: bool = True,
    warns: bool = True,
) -> bool:
    """Run both programs on a batch, compare their sites, and decode a draw of the guide.

    Parameters
    ----------
    model, guide
        As they are trained.
    decode : callable, optional
        As `fit` was given it.
    data : PixelSource
        Shuffled.
    seed : int
    trains : bool
        Whether there will be a step.
    warns : bool
        Whether to log what is odd.

    Returns
    -------
    bool
        Whether the pixels of a batch must follow each other as in the scene: Pyro takes the parameters of the pixels by
        their numbers only where these are fewer than all.

    Raises
    ------
    TypeError, ValueError
        If something is missing or does not fit together.
    """
    index, pixels, valid = data.some()
    # Never in the order in which a plate without numbers would take them, but for guides that draw all together.
    order = index.argsort(descending=not may_hold_scene(guide))
    index, pixels, valid = index[order], pixels[order], valid[order]
    size = data.num_pixels
    is_whole = len(index) == size and isinstance(data, InMemory)
    originals, (model, guide, decode) = (model, guide), copies(model, guide, decode)
    _give_back_models(originals[1], guide)
    with quiet_pyro(), torch.no_grad(), seeded(seed, pixels.device):
        features = prepare(guide, pixels, valid, index)
        known = {"index": index, "size": size, "features": features}
        drawn = poutine.trace(guide).get_trace(pixels, valid, **known)
        if needs_plate(guide):
            raise ValueError(
                f"{type(guide).__name__} must be told the plate of the pixels: pass create_plates, a function of the "
                f"guide's arguments that returns {_PLATE}"
            )
        if holds_scene(guide) and not is_whole:
            _refuse_batches(guide, data, len(index))
        alone = poutine.trace(model).get_trace(pixels, valid, **known)
        _check_sites(model, guide, alone, drawn)
        joint = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(pixels, valid, **known)
        for what, trace in (("model", alone), ("guide", drawn), ("model", joint)):
            _check_plates(what, trace, index, size)
        surveyed(decoding_of(model, decode), guide, pixels, valid, index, size)
        if trains:
            _check_parameters((model, guide), originals, [alone, drawn], warns)
    return holds_pixels(guide, drawn.nodes)


def _give_back_models(original: Any, copied: Any) -> None:
    """Let copies of Pyro's autoguides know the models of the originals, which they look at when first called."""
    if isinstance(original, nn.Module):
        for old, new in zip(original.modules(), copied.modules(), strict=True):
            if getattr(old, "_model", None) is not None and getattr(new, "_model", None) is None:
                new._model = old._model


def _refuse_batches(guide: GuideProgram, data: PixelSource, batch: int) -> None:
    usable = data.num_usable
    ask = f"batch_size={usable} or more" if usable == data.num_pixels else "images without them"
    raise ValueError(
        f"{type(guide).__name__} has one vector of the latent values of all pixels, and must see all {data.num_pixels} "
        f"at every step, of which {usable} have a date and a batch has {batch}: pass {ask}, loaded into memory, or use "
        "AutoNormal(model, create_plates=...)"
    )


def _check_sites(model: ModelProgram, guide: GuideProgram, joint: Any, drawn: Any) -> None:
    """Raise ValueError unless model and guide have the same latent sites, and the model observes something."""
    ours = {
        name: site
        for name, site in joint.nodes.items()
        if is_latent_site(site) and not site["infer"].get("enumerate")
    }
    theirs = {
        name: site
        for name, site in drawn.nodes.items()
        if is_latent_site(site) and not site["infer"].get("is_auxiliary")
    }
    missing = [name for name in ours if name not in theirs]
    extra = [name for name in theirs if name not in joint.nodes]
    if missing or extra:
        parts = [f"does not draw {', '.join(missing)}"] if missing else []
        parts += [f"draws {', '.join(extra)}, which the model does not have"] if extra else []
        raise ValueError(
            f"the guide {name_of(guide)} {' and '.join(parts)}: it must have the latent sites of the model "
            f"{name_of(model)}, {sorted(ours)}, under the same names"
        )
    for name, site in ours.items():
        shapes = tuple(site["fn"].event_shape), tuple(theirs[name]["fn"].event_shape)
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"site {name!r} has the event shape {shapes[0]} in the model and {shapes[1]} in the guide: use "
                f".to_event({len(shapes[0])}) on the guide's distribution"
            )
        if in_pixels(site) != in_pixels(theirs[name]):
            inside, outside = ("model", "guide")[:: 1 if in_pixels(site) else -1]
            raise ValueError(
                f"site {name!r} is in the plate of the pixels in the {inside} and outside in the {outside}: draw it in "
                f"both inside of {_PLATE}, or in both outside"
            )
    if not any(site["is_observed"] for site in joint.nodes.values() if site["type"] == "sample"):
        raise ValueError(
            f"the model {name_of(model)} observes nothing: give the sites of the images obs=pixels[:, t]"
        )


def _check_parameters(
    programs: tuple[Any, Any], originals: tuple[Any, Any], traces: list[Any], warns: bool
) -> None:
    """Raise ValueError if there is nothing to train; warn of a module whose parameters Pyro does not know."""
    met = {
        id(site["value"].unconstrained())
        for trace in traces
        for site in trace.nodes.values()
        if site["type"] == "param"
    }
    if not met:
        raise ValueError(
            "neither model nor guide has a parameter in Pyro's store, so there is nothing to train: use pyro.param, "
            "derive from PyroModule, or call pyro.module(name, self) in a module of torch; or pass num_steps=0"
        )
    for what, *both in zip(("model", "guide"), programs, originals, strict=True):
        # Pyro's guides have run the original of the model, not its copy.
        modules = [program for program in both if isinstance(program, nn.Module)]
        names = dict(pair for module in modules for pair in module.named_parameters())
        known = any(id(value) in met for module in modules for value in module.parameters())
        if warns and names and not known:
            logger.warning(
                "no parameter of the %s is trained (%s): derive it from PyroModule, or call pyro.module(name, self) "
                "in it",
                what, ", ".join(list(names)[:3]),
            )  # fmt: skip


def _check_plates(what: str, trace: Any, index: Tensor, size: int) -> None:
    """Raise ValueError unless the pixels' plate is that of these pixels of the scene, and sites have their shapes."""
    sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
    frames = [f for site in sites for f in site["cond_indep_stack"] if f.name == PIXELS]
    if not frames and what == "model":
        raise ValueError(
            f"the model must hold its pixels in {_PLATE}, and has no plate of this name"
        )
    for frame in frames:
        if frame.dim != -1:
            raise ValueError(
                f"the pixels' plate must be at dim -1, is at {frame.dim}: use {_PLATE}"
            )
        chosen = trace.nodes.get(PIXELS, {"value": None})["value"]
        rows = torch.arange(frame.size) if chosen is None else torch.as_tensor(chosen).cpu()
        if (frame.full_size or frame.size) != size or not torch.equal(rows, index.cpu()):
            raise ValueError(
                f"the pixels' plate of the {what} must have the size of the scene, {size}, and as subsample the "
                f"numbers of the batch: use {_PLATE}"
            )
    trace.compute_log_prob()
    depth = max([1, *(-f.dim for site in sites for f in site["cond_indep_stack"] if f.dim)])
    for site in sites:
        if "log_prob" in site:
            check_site_shape(site, depth)
