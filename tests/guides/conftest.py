"""What both tests of the ELBO with the variability integrated out change in the package."""

from __future__ import annotations

import pytest
import torch
from integrated_cases import by_dates

from pyro_unmix.guides.conjugate.markov_normal import MarkovNormal


@pytest.fixture
def noise_of_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain draws what the sites of its dates would draw, one after the other, in any precision the same."""
    draw = torch.randn
    monkeypatch.setattr(
        torch, "randn", lambda *a, dtype=None, **k: draw(*a, **k).to(dtype or torch.float)
    )
    monkeypatch.setattr(MarkovNormal, "rsample", by_dates)
