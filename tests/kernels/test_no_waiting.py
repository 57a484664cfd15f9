"""Rounds of chains do not make the host wait for an accelerator, and leave nothing on the host.

There is none to try it on here: instead, what a round asks for is looked at, and it is run on torch's device without
numbers, where nothing can be read.
"""

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any

import pytest
import torch
from chain_cases import CUBES, MODELS, draw, simplex
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_unmix.infer.programs import program_of
from pyro_unmix.kernels import Spectra
from pyro_unmix.methods.unmix_by_chains import unmix_by_chains
from pyro_unmix.models import LibraryMixing, SimplexMixing
from pyro_unmix.ops import factors

VALUES = torch.as_tensor(CUBES.values.reshape(-1, 4)[1:]).double()
#: Operations that hand numbers to the host, or make tensors whose size depends on numbers.
WAITS = ("local_scalar_dense", "nonzero", "check_errors", "masked_select", "unique", "aten.equal")
#: One that makes a tensor of numbers of Python, which have to be sent.
SENDS = ("lift_fresh",)
PROGRAMS = {"simplex": simplex, "library": MODELS["library"]}


class Watch(TorchDispatchMode):
    """Counts what the host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(function)
        indices = args[1] if name.startswith("aten.index") and len(args) > 1 else ()
        masks = isinstance(indices, (list, tuple)) and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices
        )
        if masks or any(word in name for word in (*WAITS, *SENDS)):
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def forbid(patch: pytest.MonkeyPatch) -> None:
    """What copies a tensor to the host is no operation for tensors that are there."""

    def copied(*_: Any, **__: Any) -> None:
        raise AssertionError("copied to the host")

    for name in ("cpu", "numpy", "tolist", "__array__"):
        patch.setattr(torch.Tensor, name, copied)


@pytest.fixture(params=sorted(PROGRAMS))
def model(request: pytest.FixtureRequest) -> Any:
    return PROGRAMS[request.param]()


def states(model: Any, num_rounds: int = 2) -> list[Any]:
    program = program_of(model)
    spectra = Spectra(model, VALUES, torch.Generator().manual_seed(0))
    found = [program.start(model, VALUES)]
    with torch.no_grad():
        for kernel in (*program.kernels, *program.own_kernels) * num_rounds:
            found.append(kernel(found[-1], spectra))
    return found


def test_no_kernel_waits(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = states(model)
    monkeypatch.setattr(factors, "looks", lambda matrix: False)  # as on an accelerator
    program = program_of(model)
    state, spectra = expected[0], Spectra(model, VALUES, torch.Generator().manual_seed(0))
    with torch.no_grad(), monkeypatch.context() as patch:
        forbid(patch)
        for number, kernel in enumerate((*program.kernels, *program.own_kernels) * 2, start=1):
            with Watch() as watch:
                state = kernel(state, spectra)
            assert not watch.seen, kernel
            # and the draws are those of the host, but for the order in which factors are laid out
            for name, value in vars(expected[number]).items():
                if value is not None:
                    torch.testing.assert_close(vars(state)[name], value, rtol=1e-9, atol=1e-11)


def test_waiting_is_seen() -> None:
    value = torch.arange(3.0)
    for waits in (
        lambda: float(value[0]), lambda: bool(value[0] > 1), lambda: value[value > 1], lambda: value.nonzero(),
        lambda: torch.linalg.inv(torch.eye(2)), lambda: torch.tensor([1, 2]),
        lambda: torch.linalg.cholesky(torch.eye(2)), lambda: value[[0, 2]],
    ):  # fmt: skip
        with Watch() as watch:
            waits()
        assert watch.seen, waits
    with Watch() as watch:
        value.sort().values.cumsum(0)[:1]
    assert not watch.seen


def test_a_round_reads_no_number_and_mixes_no_devices(model: Any) -> None:
    program = program_of(model)
    state = program.start(model, VALUES).to(torch.device("meta"))
    spectra = Spectra(model.to("meta"), VALUES.to("meta"), None)  # type: ignore[arg-type]
    with torch.no_grad():
        for kernel in (*program.kernels, *program.own_kernels):
            state = kernel(state, spectra)
            held = [value for value in vars(state).values() if value is not None]
            assert {value.device.type for value in held} == {"meta"}, kernel
    expected = program.start(
        PROGRAMS["library" if hasattr(model, "spectra") else "simplex"](), VALUES
    )
    for name, value in vars(expected).items():
        assert value is None or vars(state)[name].shape == value.shape, name


# ---------------------------------------------------------------- factors that fail


def test_a_matrix_without_a_factor_is_an_error_here_and_nan_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = torch.tensor([[4.0, 2.0], [2.0, 2.0]])
    both = torch.stack([good, -good, torch.zeros(2, 2)])
    right = torch.tensor([1.0, 2.0])
    for function in (factors.cholesky, factors.inverse):
        with pytest.raises(torch.linalg.LinAlgError):
            function(both)
    with pytest.raises(torch.linalg.LinAlgError):
        factors.solved(both[2], right)
    here = factors.cholesky(good), factors.inverse(good), factors.solved(good, right)
    monkeypatch.setattr(factors, "looks", lambda matrix: False)
    drawn, inverse = factors.cholesky(both), factors.inverse(both)
    assert drawn.isnan().flatten(1).any(1).tolist() == [False, True, True]
    assert inverse.isnan().flatten(1).all(1).tolist() == [False, False, True]
    assert factors.solved(both[2], right).isnan().all()
    there = drawn[0], inverse[0], factors.solved(good, right)
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one, other)


def test_a_failure_that_nobody_looked_at_ends_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "looks", lambda matrix: False)
    bad = simplex()
    spoilt = lambda state, spectra: state.having(noise_variance=-state.noise_variance)  # noqa: E731
    kernels = [spoilt, *program_of(bad).kernels]
    with pytest.raises(ArithmeticError, match="of chain 0 after round 8 holds NaN or infinity"):
        draw(models=bad, kernels=kernels)


# ---------------------------------------------------------------- device=


@pytest.mark.parametrize("kind", [SimplexMixing, LibraryMixing])
def test_programs_are_sent_to_the_device(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def to(self: Any, device: Any) -> Any:
        sent.append((type(self), torch.device(device)))
        return self

    monkeypatch.setattr(kind, "to", to)
    name = "simplex" if kind is SimplexMixing else "library"
    with_device = draw(name, device="cuda")  # which the programs are told, and do not go to
    assert sent == [(kind, torch.device("cuda"))] * (2 if kind is SimplexMixing else 1)
    draw(name)
    assert len(sent) <= 2
    assert torch.equal(
        with_device.chains[0].stacked("noise_variance"),
        draw(name, device=None).chains[0].stacked("noise_variance"),
    )


def test_the_short_chains_are_sent_too(monkeypatch: pytest.MonkeyPatch) -> None:
    chains = importlib.import_module("pyro_unmix.methods.unmix_by_chains")
    several, sent = chains.several_starts, []
    monkeypatch.setattr(chains, "_SHORT", 2)
    monkeypatch.setattr(chains, "several_starts", lambda *a, **k: several(*a, **k)[:2])
    monkeypatch.setattr(SimplexMixing, "to", lambda self, device: sent.append(device) or self)
    few = {"num_rounds": 4, "num_spectra": 20, "num_held_out": 5, "num_samples": 4}
    unmix_by_chains(CUBES, 3, device="cuda", progress=False, **few)
    assert (
        len(sent) == 2 + 2 + 4
    )  # short chains, chains, and `sample` those and the ones that keep endmembers
