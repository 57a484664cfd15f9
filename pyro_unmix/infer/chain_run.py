"""Chains in progress, one after the other: their rounds, and the state from which a later call goes on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.infer.chains import Chain, after_round, kept_rounds, random_spectra
from pyro_unmix.infer.checkpoints import Checkpoints
from pyro_unmix.infer.fingerprint import attributes, describe, describe_program, differences, same
from pyro_unmix.infer.programs import program_of
from pyro_unmix.infer.saved_chains import shared_draws
from pyro_unmix.infer.step import held_interrupts
from pyro_unmix.infer.workers import Workers
from pyro_unmix.kernels import Kernel, Spectra
from pyro_unmix.ops.checks import finite_array

logger = logging.getLogger(__name__)

#: Shared draws without which a chain that was broken off counts for nothing: two in each half, for its R-hat.
LEAST_DRAWS = 4


class ChainRun:
    """Chains of programs of one kind, one after the other: everything that the next round depends on.

    A round makes a new state and changes none, so that chains are what they were when one is broken off; only the
    stream of random numbers has moved on then.

    Parameters
    ----------
    models : sequence
        Of every chain its program, at whose start it begins.
    spectra_of : callable
        The spectra of the chain of a number, with its stream of random numbers: always the same ones.
    num_rounds, num_kept : int
        Of every chain.
    kernels : sequence of Kernel, optional
        A round; default that of the programs.
    settings : dict
        What else a round depends on; numbers and text.
    data : callable
        What two scenes must have in common to be the same one. Called where there are checkpoints.

    Attributes
    ----------
    chains : list of Chain
        Those that are done.
    round : int
        Of the chain under way.
    """

    engine = "sample"
    noun = "run of chains"
    unit = "rounds"
    planned = "num_rounds of all chains"

    def __init__(
        self,
        models: Sequence[Any],
        spectra_of: Callable[[int], Spectra],
        num_rounds: int,
        *,
        num_kept: int,
        kernels: Sequence[Kernel] | None = None,
        settings: Mapping[str, Any],
        data: Callable[[], dict[str, Any]],
    ) -> None:
        self.models, self.spectra_of = list(models), spectra_of
        self.program = program_of(self.models[0])
        self.kernels = list(self.program.kernels if kernels is None else kernels)
        self.num_rounds, self.num_kept = num_rounds, num_kept
        self.settings, self.data = dict(settings), cache(data)
        self.workers = Workers()  # every process by itself
        self.chains: list[Chain] = []
        self.round = 0
        #: False while a round is under way: nothing may be saved then.
        self.between_rounds = True
        self._keep = frozenset(kept_rounds(num_rounds, num_kept).tolist())
        self._before = [attributes(kernel) for kernel in self.kernels]
        self._forget()

    def _forget(self) -> None:
        """Be between two chains."""
        self.spectra: Spectra | None = None
        self.current: Any = None
        self.shared: list[dict[str, Tensor]] = []
        self.round = 0

    @classmethod
    def of_random_spectra(
        cls,
        models: Sequence[Any],
        seen: np.ndarray,
        num_spectra: int,
        seeds: Sequence[int],
        num_rounds: int,
        **how: Any,
    ) -> ChainRun:
        """Chains each of which sees spectra of its own among (n, L), by the seeds and its number."""

        def spectra_of(number: int) -> Spectra:
            return random_spectra(models[number], seen, num_spectra, [*seeds, number])

        settings = {"num_spectra": num_spectra, "seeds": list(seeds)}
        return cls(
            models, spectra_of, num_rounds, settings=settings, data=lambda: described(seen), **how
        )

    @property
    def total(self) -> int:
        """Rounds of all chains together."""
        return len(self.models) * self.num_rounds

    @property
    def num_draws(self) -> int:
        """Draws that a chain keeps."""
        return len(self._keep)

    @property
    def num_done(self) -> int:
        """Rounds so far."""
        return len(self.chains) * self.num_rounds + self.round

    def step(self) -> None:
        """One round of the chain under way, or the first of the next one."""
        self.between_rounds = False
        if self.spectra is None:
            self._begin()
        assert self.spectra is not None
        self.current = after_round(self.current, self.spectra, self.kernels)
        self.round += 1
        if self.round in self._keep:
            self.shared.append(self.current.shared())
        if self.round == self.num_rounds:
            self.check_numbers()  # once in a chain: an accelerator does not look at every factor
            done = Chain(self.spectra.model, tuple(self.shared))
            self._forget()  # before, so that an interrupt in between does not count it twice
            self.chains.append(done)
        self.between_rounds = True

    def _begin(self) -> None:
        self.spectra = self.spectra_of(len(self.chains))
        self.current = self.program.start(self.spectra.model, self.spectra.values)

    def chains_so_far(self) -> list[Chain]:
        """The chains that are done, and the one that was broken off where it kept draws enough."""
        least = min(LEAST_DRAWS, self.num_draws)
        if self.spectra is None or len(self.shared) < least:
            return list(self.chains)
        return [*self.chains, Chain(self.spectra.model, tuple(self.shared))]

    # ------------------------------------------------------------------ out and in

    def check_numbers(self) -> None:
        """Raise an ArithmeticError where the chain under way is not finite, which is neither kept nor a result."""
        if bad := self.not_finite():
            raise ArithmeticError(
                f"{bad} holds NaN or infinity: a covariance had no factor, look for spectra or endmembers that are far "
                "from reflectances"
            )

    def not_finite(self) -> str:
        """What of the chain under way is not finite."""
        if self.current is None:
            return ""
        for name, value in _values(self.current).items():
            if value is not None and not torch.isfinite(value).all():
                return f"{name} of chain {len(self.chains)} after round {self.round}"
        return ""

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and text from which `restore` goes on with the same bits."""
        under_way: dict[str, Any] = {}
        if self.spectra is not None:
            under_way = {
                "state": _values(self.current),
                "random": self.spectra.generator.get_state(),
                "draws": self.shared,
            }
        counted = self._counted()
        return {
            "fingerprint": self._fingerprint(counted),
            "rounds": self.num_done,
            "chains": [list(chain.shared) for chain in self.chains],
            "under way": under_way,
            "counted": counted,
            "kernels": [
                kernel.state_dict() if hasattr(kernel, "state_dict") else {}
                for kernel in self.kernels
            ],
        }

    def fault(self, state: dict[str, Any], number: int) -> str:
        """What is wrong with the number of rounds of a state."""
        rounds = state.get("rounds")
        if isinstance(rounds, int) and rounds == number:
            return ""
        found = rounds if isinstance(rounds, int) else "none"
        return f"expected chains after {number} rounds, as its name says, got {found}"

    def check(self, state: dict[str, Any]) -> list[str]:
        """How these chains differ from those whose state it is; nothing if they may go on from there."""
        return list(differences(state["fingerprint"], self._fingerprint(state["counted"])))

    def hint(self, different: list[str]) -> str:
        """What to know besides about differences."""
        if not any(sentence.startswith("settings.num_rounds") for sentence in different):
            return ""
        return (
            ". (Draws are kept from the second half of num_rounds: a chain cannot go on for longer)"
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, after `check`."""
        done, number = divmod(state["rounds"], self.num_rounds)
        if len(state["chains"]) != done or bool(state["under way"]) != bool(number):
            raise RuntimeError("the chains are not those of so many rounds")
        for kernel, counted, own in zip(
            self.kernels, state["counted"], state["kernels"], strict=True
        ):
            for name, value in counted.items():
                setattr(kernel, name, value)
            if own:
                kernel.load_state_dict(own)  # type: ignore[attr-defined]
        self.chains = [
            Chain(model, self._draws(model, kept, self.num_draws))
            for model, kept in zip(self.models, state["chains"], strict=False)
        ]
        self._forget()
        if not number:
            return
        under_way = state["under way"]
        self._begin()
        assert self.spectra is not None
        self.current = _with_values(self.current, under_way["state"])
        self.spectra.generator.set_state(under_way["random"])
        num_kept = sum(kept <= number for kept in self._keep)
        self.shared = list(self._draws(self.spectra.model, under_way["draws"], num_kept))
        self.round = number

    @staticmethod
    def _draws(model: Any, kept: Sequence[Any], count: int) -> tuple[dict[str, Tensor], ...]:
        """Draws as they were kept, which are laid out as they were: products of them differ by rounding else."""
        if len(kept) != count:
            raise RuntimeError(f"expected {count} draws of a chain, got {len(kept)}")
        names = program_of(model).shared
        if kept:
            stacked = {n: torch.stack([draw[n] for draw in kept]).numpy() for n in names}
            shared_draws(model, {n: finite_array(drawn, n) for n, drawn in stacked.items()})
        return tuple({n: draw[n].to(model.device) for n in names} for draw in kept)

    def _counted(self) -> list[dict[str, Any]]:
        """What kernels count themselves, such as how often they were called."""
        return [
            {k: v for k, v in attributes(kernel).items() if not same(v, before.get(k))}
            for kernel, before in zip(self.kernels, self._before, strict=True)
        ]

    def _fingerprint(self, counted: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What must not differ, without what kernels count themselves."""
        known = list({id(model): model for model in self.models}.values())
        programs = {f"{n}": describe_program(model, model) for n, model in enumerate(known)}
        kernels = {}
        for n, kernel in enumerate(self.kernels):
            own = counted[n] if n < len(counted) else {}
            kernels[f"{n}"] = {k: v for k, v in describe(kernel).items() if k not in own}
        return {
            "models": programs,
            "settings": {
                **self.settings,
                # Of one program, more chains are those before and others; of several, chains belong to other ones.
                **({} if len(known) == 1 else {"num_chains": len(self.models) // len(known)}),
                "num_rounds": self.num_rounds,
                "num_kept": self.num_kept,
                "kernels": kernels,
                "device": self.models[0].device.type,
            },
            "data": self.data(),
        }


def run_chains(run: ChainRun, keeper: Checkpoints | None, bar: Any) -> bool:
    """Run all chains, or until somebody presses Ctrl-C; whether nobody did. `bar` is told every round."""
    with nullcontext() if keeper is None else keeper.held(run.workers):
        # Outside of the try: what is half restored must neither be saved nor be a result.
        if keeper is not None and keeper.begin(run, run.total):
            bar.update(run.num_done)
        try:
            with held_interrupts() as release:
                while run.num_done < run.total:
                    run.step()
                    bar.update()
                    if keeper is not None:
                        keeper.after_step(run)
                    release()
            undisturbed = True
        except KeyboardInterrupt:
            undisturbed = False
            logger.warning("interrupted after %d of %d rounds", run.num_done, run.total)
        if keeper is not None and run.num_done and run.between_rounds:
            keeper.save(run)
    return undisturbed


def described(values: np.ndarray) -> dict[str, Any]:
    """What two sets of spectra must have in common to be the same ones."""
    digest = hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=16).hexdigest()
    return {"shape": list(values.shape), "dtype": str(values.dtype), "values (hash)": digest}


def _values(state: Any) -> dict[str, Tensor | None]:
    return {field.name: getattr(state, field.name) for field in fields(state)}


def _with_values(start: Any, saved: Mapping[str, Tensor | None]) -> Any:
    """A state of other values, of the kinds and shapes that it has at the start; r is not there then."""
    values = {}
    for name, first in _values(start).items():
        value = saved[name]
        if first is not None and (
            value is None or value.shape != first.shape or value.dtype != first.dtype
        ):
            raise RuntimeError(f"{name} is none of these chains")
        values[name] = None if value is None else value.to(start.abundances.device)
    return start.having(**values)
