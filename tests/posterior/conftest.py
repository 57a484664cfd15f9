"""Results of two pairs of model and guide, trained once."""

from __future__ import annotations

import pytest
from result_cases import PAIRS, fitted, ours, paper

from pyro_unmix import Unmixing
from pyro_unmix.posterior import PlugInMean


@pytest.fixture(scope="session")
def results() -> dict[str, Unmixing]:
    return {
        "paper": fitted(paper, estimate=PlugInMean()),
        "ours": fitted(ours),
    }


@pytest.fixture(params=PAIRS)
def result(request: pytest.FixtureRequest, results: dict[str, Unmixing]) -> Unmixing:
    return results[request.param]
