"""The engine: `fit` trains a model and a guide by stochastic variational inference.

`fit` is the loop; `step` one checked step of it and the optimiser; `batches` where its spectra come from, in memory or
from disk; `stopping` how long it runs; `checkpoints` how it survives a kill, and `fingerprint` what two fits must share
for that; `workers` how several processes share it. Objectives: `trace_elbo` (Pyro's, without draws of what a guide
integrates out), `weighted_elbo` (a divergence that counts less at first), `self_supervised` (IDNet's).
"""

from pyro_unmix.infer.checkpoints import Checkpoints
from pyro_unmix.infer.fit import fit
from pyro_unmix.infer.self_supervised import SelfSupervisedELBO
from pyro_unmix.infer.step import NonFiniteLossError
from pyro_unmix.infer.weighted_elbo import Ramp, WeightedELBO
from pyro_unmix.infer.workers import Workers

__all__ = [
    "Checkpoints",
    "NonFiniteLossError",
    "Ramp",
    "SelfSupervisedELBO",
    "WeightedELBO",
    "Workers",
    "fit",
]
