"""Markov kernels over what a model does not know, given the rest.

`sweeps` moves softmax states and variability in turn and leaves the model's posterior as it is; `collapsed` moves
states alone, in a likelihood that has the variability integrated out once. Both build on `block_moves`, which has
the block moves; `observations` is the likelihood that they look at.
"""
