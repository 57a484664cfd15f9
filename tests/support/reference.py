"""Independent numpy calculations that the tests compare with. Nothing here calls the package."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import fft, special, stats

Array = np.ndarray


def log_normal(x: Array, loc: Any, scale: Any) -> Array:
    """Log-density of independent normals, summed over the last axis."""
    return stats.norm(loc, scale).logpdf(x).sum(-1)


def log_gaussian(x: Array, mean: Array, covariance: Array) -> float:
    """Log-density of one multivariate normal vector."""
    return float(stats.multivariate_normal(mean, covariance, allow_singular=False).logpdf(x))


def dct_columns(num_bands: int, num_components: int) -> Array:
    """The first orthonormal cosines, (L, K): the rows of scipy's orthonormal DCT-II."""
    return fft.dct(np.eye(num_bands), axis=0, norm="ortho")[:num_components].T


def dct_components(endmembers: Array, num_components: int) -> Array:
    """F_k = d_k 1' * M0, (L, K, P)."""
    columns = dct_columns(len(endmembers), num_components)
    return np.einsum("lk,lp->lkp", columns, endmembers)


def mixed(endmembers: Array, components: Array, abundances: Array, psi: Array) -> Array:
    """(M0 + sum_k F_k diag(psi_k)) a, with that matrix written out.

    abundances (..., P), psi (..., K P) with the component outer; returns (..., L).
    """
    _, num_components, num_endmembers = components.shape
    coefficients = psi.reshape(*psi.shape[:-1], num_components, num_endmembers)
    matrix = endmembers + np.einsum("lkp,...kp->...lp", components, coefficients)
    return np.einsum("...lp,...p->...l", matrix, abundances)


# ------------------------------------------------------------------------- Gaussian chains


def chain_moments(coefficient: Any, step_scale: Array, loc: Array, scale: Array):
    """Joint mean (T+1, D) and covariance (T+1, D, T+1, D) of a chain of independent coordinates.

    ``x_0 ~ N(loc, scale^2)``, ``x_t ~ N(coefficient x_{t-1}, step_scale_t^2)``, step_scale (T, D).
    """
    num_dates, size = step_scale.shape
    coefficient = np.broadcast_to(coefficient, (size,))
    mean = np.zeros((num_dates + 1, size))
    covariance = np.zeros((num_dates + 1, size, num_dates + 1, size))
    for d in range(size):
        # (I - phi shift) x = e
        back = np.eye(num_dates + 1) - coefficient[d] * np.eye(num_dates + 1, k=-1)
        forward = np.linalg.inv(back)
        variance = np.concatenate([[scale[d] ** 2], step_scale[:, d] ** 2])
        mean[:, d] = forward[:, 0] * loc[d]
        covariance[:, d, :, d] = forward @ np.diag(variance) @ forward.T
    return mean, covariance


def condition_chain(
    mean: Array, covariance: Array, matrices: list[Array | None], y: Array, noise_scale: float
):
    """Dense conditioning of a chain on ``y_t = W_t x_t + noise`` for t = 1..T; None is missing.

    Returns the posterior mean (T+1, D), covariance (T+1, D, T+1, D) and the log evidence.
    """
    steps, size = mean.shape
    flat_mean, flat_covariance = mean.ravel(), covariance.reshape(steps * size, -1)
    rows, observed = [], []
    for t, matrix in enumerate(matrices):
        if matrix is not None:
            row = np.zeros((len(matrix), steps, size))
            row[:, t + 1] = matrix
            rows.append(row.reshape(len(matrix), -1))
            observed.append(y[t])
    if not rows:
        return mean, covariance, 0.0
    h, data = np.concatenate(rows), np.concatenate(observed)
    spread = h @ flat_covariance @ h.T + noise_scale**2 * np.eye(len(h))
    gain = np.linalg.solve(spread, h @ flat_covariance).T
    posterior_mean = flat_mean + gain @ (data - h @ flat_mean)
    posterior_covariance = flat_covariance - gain @ h @ flat_covariance
    evidence = log_gaussian(data, h @ flat_mean, spread)
    return (
        posterior_mean.reshape(mean.shape),
        posterior_covariance.reshape(covariance.shape),
        evidence,
    )


def rts_smoother(
    coefficient: Array,
    step_scale: Array,
    loc: Array,
    scale: Array,
    matrices: list[Array | None],
    y: Array,
    noise_scale: float,
):
    """Kalman filter and Rauch-Tung-Striebel smoother; arguments as for the dense calculation.

    In the textbook's covariance form (Särkkä, "Bayesian filtering and smoothing", 2013), forward
    first, while the package filters information backward. Returns means (T+1, D), covariances
    (T+1, D, D) and the log evidence.
    """
    transition, evidence = np.diag(coefficient), 0.0
    means, covariances = [loc], [np.diag(scale**2)]
    predicted = []
    for t, matrix in enumerate(matrices):
        mean = transition @ means[-1]
        covariance = transition @ covariances[-1] @ transition.T + np.diag(step_scale[t] ** 2)
        predicted.append((mean, covariance))
        if matrix is not None:
            spread = matrix @ covariance @ matrix.T + noise_scale**2 * np.eye(len(matrix))
            evidence += log_gaussian(y[t], matrix @ mean, spread)
            gain = np.linalg.solve(spread, matrix @ covariance).T
            mean = mean + gain @ (y[t] - matrix @ mean)
            # Joseph's form keeps the covariance symmetric and positive.
            rest = np.eye(len(mean)) - gain @ matrix
            covariance = rest @ covariance @ rest.T + noise_scale**2 * gain @ gain.T
        means.append(mean)
        covariances.append(covariance)
    for t in range(len(matrices) - 1, -1, -1):
        ahead, spread = predicted[t]
        gain = np.linalg.solve(spread, transition @ covariances[t]).T
        means[t] = means[t] + gain @ (means[t + 1] - ahead)
        covariances[t] = covariances[t] + gain @ (covariances[t + 1] - spread) @ gain.T
    return np.stack(means), np.stack(covariances), evidence


def log_conditionals(values: Array, mean: Array, covariance: Array) -> Array:
    """``log p(x_0), log p(x_t | x_{t-1})`` under a Markov Gaussian given by its joint moments."""
    steps = len(mean)
    result = np.zeros(steps)
    result[0] = log_gaussian(values[0], mean[0], covariance[0, :, 0])
    for t in range(1, steps):
        gain = np.linalg.solve(covariance[t - 1, :, t - 1], covariance[t - 1, :, t]).T
        loc = mean[t] + gain @ (values[t - 1] - mean[t - 1])
        spread = covariance[t, :, t] - gain @ covariance[t - 1, :, t]
        result[t] = log_gaussian(values[t], loc, 0.5 * (spread + spread.T))
    return result


# ------------------------------------------------------------------------- the model's density


def variability_evidence(
    y: Array,
    valid: Array,
    abundances: Array,
    *,
    endmembers: Array,
    components: Array,
    chain: tuple[Array, Array, Array, Array],
    noise_scale: float,
):
    """Exact posterior of one pixel's variability given its abundances, by dense algebra.

    y (T, L), valid (T,), abundances (T, P). Returns what `condition_chain` returns.
    """
    coefficient, step_scale, loc, scale = chain
    matrices, residuals = variability_regression(y, valid, abundances, endmembers, components)
    steps = np.tile(step_scale, (len(y), 1))
    prior = chain_moments(coefficient, steps, loc, scale)
    return condition_chain(*prior, matrices, residuals, noise_scale)


def variability_regression(
    y: Array, valid: Array, abundances: Array, endmembers: Array, components: Array
) -> tuple[list[Array | None], Array]:
    """``y_t - M0 a_t = W_t psi_t + noise`` with W_t = [a_tp F_kp], None where missing."""
    num_bands = len(endmembers)
    matrices = [
        (components * a).reshape(num_bands, -1) if seen else None
        for a, seen in zip(abundances, valid, strict=True)
    ]
    return matrices, y - abundances @ endmembers.T


def softmax(c: Array) -> Array:
    return special.softmax(c, axis=-1)


def log_jump(x: Array, loc: Array, scale: float, jump_scale: float, probability: float) -> Array:
    """``log[(1 - rho) N(x; loc, s^2 I) + rho N(x; loc, S^2 I)]``."""
    return np.logaddexp(
        np.log1p(-probability) + log_normal(x, loc, scale),
        np.log(probability) + log_normal(x, loc, jump_scale),
    )


# ------------------------------------------------------------------------- networks


def lstm(x: Array, weights: dict[str, Array], suffix: str = "") -> Array:
    """Hidden states (T, H) of one direction over (T, input); the order of the gates is i f g o."""
    w, u = weights[f"weight_ih_l0{suffix}"], weights[f"weight_hh_l0{suffix}"]
    bias = weights[f"bias_ih_l0{suffix}"] + weights[f"bias_hh_l0{suffix}"]
    hidden = cell = np.zeros(u.shape[1])
    states = []
    for value in x[::-1] if suffix else x:
        i, f, g, o = np.split(w @ value + u @ hidden + bias, 4)
        cell = special.expit(f) * cell + special.expit(i) * np.tanh(g)
        hidden = special.expit(o) * np.tanh(cell)
        states.append(hidden)
    return np.stack(states[::-1] if suffix else states)


def bilstm(x: Array, weights: dict[str, Array]) -> Array:
    """Eqs. (41)-(43): the mean of both directions, (T, H)."""
    return 0.5 * (lstm(x, weights) + lstm(x, weights, "_reverse"))


def scale_network(c: Array, weights: list[tuple[Array, Array]]) -> Array:
    """sigma_a(c) of eq. (18): a ReLU network with an exponential at the end."""
    hidden = c
    for layer, (weight, bias) in enumerate(weights):
        hidden = np.maximum(hidden, 0) if layer else hidden
        hidden = hidden @ weight.T + bias
    return np.exp(hidden)


# ------------------------------------------------------------------------- optimisation


def simplex_optimality_gap(gram: Array, linear: Array, a: Array) -> float:
    """How far ``a`` can be from optimal in ``1/2 a'Ga - b'a`` on the simplex: the Frank-Wolfe gap.

    It bounds the cost above its minimum, and is zero at the minimiser alone.
    """
    slope = gram @ a - linear
    return float(slope @ a - slope.min())


def central_differences(function: Any, x: Array, step: float) -> Array:
    """Gradient of a scalar function by central differences."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        shifted = []
        for sign in (1, -1):
            moved = x.copy()
            moved[i] += sign * step
            shifted.append(function(moved))
        gradient[i] = (shifted[0] - shifted[1]) / (2 * step)
    return gradient
