"""The engines: `fit` trains a model and a guide by stochastic variational inference, `sample` runs Markov chains.

Of `fit`: `step` is one checked step of it and the optimiser; `batches` where its spectra come from, in memory or from
disk; `stopping` how long it runs; `fit_run` its state; `rehearsal` tries a fit out before its first step; `workers` how
several processes share it. Objectives: `trace_elbo` (Pyro's, without draws of what a guide integrates out),
`weighted_elbo` (a divergence that counts less at first), `self_supervised` (IDNet's). Of `sample`: `chains` is one
chain over what all spectra share, and draws of what single spectra have given that; `chain_run` several of them under
way; `stacking` weighs chains that do not mix; `sampled` is the result, `chain_checks` whether it has settled. Of both:
`checkpoints` is how they survive a kill, and `fingerprint` what two calls must share for that; `settings` spells out
their keywords.
"""

from pyro_unmix.infer.checkpoints import Checkpoints
from pyro_unmix.infer.fit import fit
from pyro_unmix.infer.sample import sample
from pyro_unmix.infer.sampled import Sampled
from pyro_unmix.infer.self_supervised import SelfSupervisedELBO
from pyro_unmix.infer.stacking import log_predictive, stacking_weights
from pyro_unmix.infer.weighted_elbo import Ramp, WeightedELBO
from pyro_unmix.infer.workers import Workers
from pyro_unmix.ops.non_finite import NonFiniteLossError

__all__ = [
    "Checkpoints",
    "NonFiniteLossError",
    "Ramp",
    "Sampled",
    "SelfSupervisedELBO",
    "WeightedELBO",
    "Workers",
    "fit",
    "log_predictive",
    "sample",
    "stacking_weights",
]
