"""Numerics without a word of the field, that every other room builds on.

Algebra: `simplex` (softmax map, projections of fractions), `small_matrices` (many of them at once), `solvers`
(constrained least squares), `perceptrons` (batched networks).
Distributions that Pyro lacks: `distributions`, `softmax_distributions`, `dirichlet`; `site_noise` draws from noise.
Housekeeping: `checks` (of arguments, with error texts), `declared` (what a class says of its methods), `extras`
(optional libraries), `recipes` (objects rebuilt from the arguments that made them), `seeding`, `threads`,
`engine_lock` (one thread at a time), `progress` (bars), `non_finite` (the error of a fit), `lazy_names` (imported when
asked for).
"""
