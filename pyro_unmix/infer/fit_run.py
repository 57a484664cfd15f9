"""A fit in progress: its steps, and the state from which a later call goes on with the same bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_unmix.infer.batches import FromDisk, InMemory
from pyro_unmix.infer.fingerprint import attributes, describe, describe_program, differences, same
from pyro_unmix.infer.step import CheckedSVI
from pyro_unmix.infer.workers import Workers
from pyro_unmix.posterior.dates import copies
from pyro_unmix.posterior.programs import loose_params, prepare


@dataclass
class Run:
    """A fit in progress: everything that its next step depends on.

    Parameters
    ----------
    model, guide : the pair that is trained
    svi : CheckedSVI
    loss : pyro.infer.ELBO
        The objective of `svi`.
    data : InMemory or FromDisk
        Shuffled.
    settings : dict
        What else a step depends on; numbers and text.
    losses : list of float
        Of the steps so far.
    """

    model: Any
    guide: Any
    svi: CheckedSVI
    loss: Any
    data: InMemory | FromDisk
    settings: dict[str, Any]
    losses: list[float] = field(default_factory=list)

    engine = "fit"
    noun = "fit"
    unit = "steps"
    planned = "num_steps"

    def __post_init__(self) -> None:
        #: False while a step is under way: nothing may be saved then.
        self.between_steps = True
        self._loss_before = attributes(self.loss)

    def prepare(self) -> None:
        """Let the guide's features be those of the parameters of the moment, which are kept for `state`."""
        self._start = {name: _clones(part) for name, part in self._modules()}
        guide = self.guide
        if isinstance(self.data, FromDisk) and hasattr(guide, "prepare"):
            guide = copies(self.model, guide)[1]  # pools are prepared later, and alike
        self.data.prepare(partial(self._features, guide))

    def _features(
        self, guide: Any, pixels: Tensor, valid: Tensor, index: Tensor
    ) -> dict[str, Tensor]:
        """The guide's features of some pixels, of which every worker computes a part."""
        total, workers = len(pixels), self.svi.workers
        rows = workers.rows(total)
        count = rows.stop - rows.start
        if not count:  # more workers than pixels
            rows = slice(0, 1)
        mine = prepare(guide, pixels[rows], valid[rows], index[rows])
        return workers.gathered({k: v[:count] for k, v in mine.items()}, total)

    def begin(self) -> None:
        """Prepare the first step: all workers with the parameters of the first one."""
        workers = self.workers
        if workers.size == 1:
            self.prepare()
            return
        workers.copy_first(tensor for _, part in self._modules() for tensor in _tensors(part))
        self.prepare()
        random_state = _random_state(self.data.device)
        self.meet_parameters()
        _set_random_state(random_state, self.data.device)
        store = pyro.get_param_store().get_state()["params"]
        workers.copy_first(store[name] for name in sorted(store))

    def check_workers(self) -> None:
        """Raise a ValueError where workers were given different things."""
        if self.svi.workers.size > 1:
            alike = {"data": self.data.description(), "settings": self.settings}
            self.svi.workers.check_alike(alike)

    def meet_parameters(self) -> None:
        """Make the parameters that a program makes at its first call, of a whole batch."""
        args, kwargs = self._batch(self.data.example())
        self.svi.meet_parameters(*args, **kwargs)

    def step(self) -> float:
        """One step on the next batch; its loss."""
        self.between_steps = False
        share = self.svi.workers.share(self.data.draw())
        args, kwargs = self._batch(share.index)
        with self.svi.workers.noise(share, args[0]):
            self.losses.append(self.svi.step(*args, weight=share.weight, **kwargs))
        self.between_steps = True
        return self.losses[-1]

    def _batch(self, index: Tensor) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        pixels, valid, features = self.data.rows(index)
        return (pixels, valid), {
            "index": index,
            "size": self.data.num_pixels,
            "features": features,
        }

    def _modules(self) -> list[tuple[str, nn.Module]]:
        pairs = (("model", self.model), ("guide", self.guide))
        return [(name, part) for name, part in pairs if isinstance(part, nn.Module)]

    # ------------------------------------------------------------------ out and in

    @property
    def workers(self) -> Workers:
        """Who trains together."""
        return self.svi.workers

    @property
    def num_done(self) -> int:
        """Steps so far."""
        return len(self.losses)

    def check_numbers(self) -> None:
        """Raise where parameters are not finite, which are never kept."""
        self.svi.check_parameters()

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and text from which `restore` goes on with the same bits."""
        loss, now = self.loss, attributes(self.loss)
        counted = {k: v for k, v in now.items() if not same(v, self._loss_before.get(k))}
        optimiser = self.svi.optim.state()
        return {
            "fingerprint": self._fingerprint(optimiser["names"], counted),
            "start": self._start,
            **{name: dict(part.state_dict()) for name, part in self._modules()},
            "loose": loose_params(self.model, self.guide)["params"],
            "optimiser": optimiser,
            "batches": self.data.state(),
            "random": _random_state(self.data.device),
            "counted": counted,
            "loss": loss.state_dict() if hasattr(loss, "state_dict") else {},
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }

    def fault(self, state: dict[str, Any], number: int) -> str:
        """What is wrong with the losses of a state after so many steps."""
        losses = state.get("losses")
        steps = losses.numel() if isinstance(losses, Tensor) and losses.dim() == 1 else None
        if not isinstance(losses, Tensor) or steps != number:
            found = "none" if steps is None else steps
            return f"expected the losses of {number} steps, as its name says, got {found}"
        return "" if torch.isfinite(losses).all() else "losses hold NaN or infinity"

    def not_finite(self) -> str:
        """The name of trained numbers that are not, once they are where they belong."""
        found = [(f"{n}.{k}", v) for n, part in self._modules() for k, v in part.named_parameters()]
        found += list(loose_params(self.model, self.guide)["params"].items())
        return next((name for name, value in found if not torch.isfinite(value).all()), "")

    def hint(self, different: list[str]) -> str:
        """What to know besides about differences."""
        if not any(sentence.startswith("settings.num_steps") for sentence in different):
            return ""
        return ". (The learning rate decays over num_steps: only with learning_rate_decay=1 can a fit go on for longer)"

    def check(self, state: dict[str, Any]) -> list[str]:
        """How this fit differs from the one whose state it is; nothing if it may go on from there."""
        saved = state["fingerprint"]
        now = self._fingerprint(state["optimiser"]["names"], state["counted"])
        for name, _ in self._modules():
            # Parameters that are made at the first call may not be there yet.
            known = now[name].get("parameters")
            if known is None:  # a function
                continue
            later = saved.get(name, {}).get("parameters", {})
            now[name]["parameters"] = {
                **{k: v for k, v in later.items() if k not in known},
                **known,
            }
        return list(differences(saved, now))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, after `check`."""
        for name, part in self._modules():
            part.load_state_dict(state["start"][name], strict=False)
        self.prepare()  # with the parameters of the start: the features of the first run
        self._start = state["start"]
        self.data.restore(state["batches"])
        self.meet_parameters()
        for name, part in self._modules():
            part.load_state_dict(state[name])
        self._restore_loose(state["loose"])
        self.svi.optim.restore(state["optimiser"])
        for name, value in state["counted"].items():
            setattr(self.loss, name, value)
        if state["loss"]:
            self.loss.load_state_dict(state["loss"])
        self.losses[:] = state["losses"].tolist()
        _set_random_state(state["random"], self.data.device)

    def _restore_loose(self, saved: dict[str, Tensor]) -> None:
        loose = pyro.get_param_store().get_state()["params"]
        for name, value in saved.items():
            if name not in loose or loose[name].shape != value.shape:
                raise ValueError(
                    f"the checkpoint has a parameter {name!r} of shape {tuple(value.shape)}, which "
                    "the guide does not have: pass the same guide, or another folder"
                )
            loose[name].data.copy_(value)

    def _fingerprint(self, names: list[str], counted: dict[str, Any]) -> dict[str, Any]:
        """What must not differ; `names` of trained parameters, `counted` what the loss changes itself."""
        loss = describe(self.loss)
        rates = {name.replace("$$$", "."): self.svi.optim.rate(name) for name in names}
        return {
            "model": describe_program(self.model, self.model),
            "guide": describe_program(self.guide, self.model),
            "settings": {
                **self.settings,
                "learning_rate": rates,
                "loss": {k: v for k, v in loss.items() if k not in counted},
                "device": self.data.device.type,
            },
            "data": self.data.description(),
        }


def _tensors(part: nn.Module) -> list[Tensor]:
    return [value for value in part.state_dict().values() if isinstance(value, Tensor)]


def _clones(part: nn.Module) -> dict[str, Any]:
    return {
        k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in part.state_dict().items()
    }


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
