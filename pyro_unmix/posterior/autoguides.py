"""Guides whose parameters belong to the pixels that they were fitted to, as those of Pyro's autoguides do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from pyro.infer.autoguide.guides import AutoContinuous

from pyro_unmix.data.types import GuideProgram
from pyro_unmix.posterior.decoding import in_pixels, name_of


def may_hold_scene(guide: GuideProgram) -> bool:
    """Whether `holds_scene` can turn out to be true."""
    return any(isinstance(part, AutoContinuous) for part in _parts(guide))


def holds_scene(guide: GuideProgram) -> bool:
    """Whether a guide has one vector of the latent values of all pixels, so that it can only draw them together.

    Known once the guide has been called.
    """
    return any(
        isinstance(part, AutoContinuous) and any(map(in_pixels, _prototype(part)))
        for part in _parts(guide)
    )


def holds_pixels(guide: GuideProgram, nodes: Any) -> bool:
    """Whether a guide with these nodes in its trace has parameters of every pixel, by its number in the plate."""
    return holds_scene(guide) or any(
        site["type"] == "param" and site["kwargs"].get("event_dim") is not None and in_pixels(site)
        for site in nodes.values()
    )


def needs_plate(guide: GuideProgram) -> bool:
    """Whether one of Pyro's guides would make a plate of the pixels itself, which knows nothing of batches.

    Known once the guide has been called.
    """
    return (
        isinstance(guide, AutoGuide)
        and guide.create_plates is None
        and not holds_scene(guide)
        and any(map(in_pixels, (site for part in _parts(guide) for site in _prototype(part))))
    )


def check_by_pixel(guide: GuideProgram, what: str) -> None:
    """Raise ValueError if a guide can only draw all pixels together."""
    if holds_scene(guide):
        raise ValueError(
            f".{what}() runs model and guide on some pixels at a time, and {name_of(guide)} draws those of the whole "
            "scene together: fit AutoNormal(model, create_plates=...), or a guide of your own"
        )


def _parts(guide: GuideProgram) -> Iterator[AutoGuide]:
    modules = guide.modules() if isinstance(guide, torch.nn.Module) else ()
    return (module for module in modules if isinstance(module, AutoGuide))


def _prototype(part: AutoGuide) -> Iterator[Any]:
    trace = part.prototype_trace
    return iter(()) if trace is None else (site for _, site in trace.iter_stochastic_nodes())
