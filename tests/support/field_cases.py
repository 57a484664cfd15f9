"""A model with a field of variability, and pixels for it."""

import numpy as np
import torch

from pyro_unmix.bases import DCT
from pyro_unmix.models import SGLMM
from pyro_unmix.priors import SmoothVariability

SHAPE = (3, 5, 6)  # dates, rows, columns
NUM_PIXELS = 30


def field_model(**settings):
    rng = np.random.default_rng(0)
    prior = SmoothVariability(SHAPE, **{"length": 2.0, "scale": 0.7, **settings})
    return SGLMM(rng.uniform(0.2, 0.8, (8, 2)), basis=DCT(2), variability_prior=prior)


def field_pixels():
    rng = np.random.default_rng(1)
    pixels = torch.tensor(rng.uniform(0.2, 0.8, (NUM_PIXELS, 3, 8)), dtype=torch.float32)
    valid = torch.ones(NUM_PIXELS, 3, dtype=torch.bool)
    valid[4, 1] = valid[7] = False
    return pixels, valid
