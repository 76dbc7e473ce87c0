"""Many subjects of one model, whose numbers differ from one to the next: mixed effects, by the marginal likelihood."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ..nn import TrainableNumber, Unknown
from ..optim._newton import Equilibrated
from ._models import numbers_of
from ._trajectories import Trajectories
from ._uncertainty import Linearised

# Steps to the most probable effects of a subject.
MOST = 50
# By which a step may make the density worse: solutions jump by as much where the number of steps changes.
JUMP = 1e-6
# Of a difference of two gradients, in the trained numbers.
DIFFERENCE = 1e-3
# Variances below this share of the measured values' mean square are rounding.
SMALLEST = 1e-12
SPREAD = "sd_"


class Mixed(eqx.Module):
    """A model of a population: numbers of `model` are those of its typical subject, and some of them differ from one
    subject to the next by random effects. `mixed` makes it.

    `(y0, ts, args) -> ys` is the typical subject. `subject(effects)` is the model of one.
    """

    model: Any
    spread: dict[str, TrainableNumber]
    error: dict[str, TrainableNumber]
    varies: tuple[str, ...] = eqx.field(static=True)
    transform: Callable | None = eqx.field(static=True)
    observed: Callable | None = eqx.field(static=True)
    failed: float = eqx.field(static=True)

    @property
    def deviations(self) -> Float[Array, " q"]:
        """The standard deviations of effects, in the order of `varies`."""
        return jnp.stack([self.spread[SPREAD + name]() for name in self.varies])

    def __call__(self, y0: Any, ts: Any, args: Any = None) -> Float[Array, "n d"]:
        return self.model(y0, ts, args)

    def subject(self, effects: Float[Array, " q"]) -> Any:
        """The model of a subject with these effects, in the order of `varies`: they are added to the logarithm of a
        positive number, to the logit of the place of one between bounds, and to another number itself.
        """
        moved = dict(zip(self.varies, effects))

        def changed(path, leaf):
            if not isinstance(leaf, TrainableNumber) or (name := str(path[-1].key)) not in moved:
                return leaf
            plain = not leaf.positive and leaf.low is None
            return eqx.tree_at(lambda n: n.raw, leaf, leaf.raw + moved[name] / (leaf.scale if plain else 1))

        return jax.tree_util.tree_map_with_path(
            changed, self.model, is_leaf=lambda leaf: isinstance(leaf, TrainableNumber)
        )


def mixed(
    model: Any,
    spread: Mapping[str, float],
    *,
    additive: Any = None,
    proportional: Any = None,
    transform: Callable | None = None,
    observed: Callable | None = None,
    failed: float = 10.0,
) -> Mixed:
    """The model with random effects, to be trained by `marginal_likelihood`: a nonlinear mixed-effects model
    (Lindstrom & Bates, Biometrics 46, 1990).

    - `model`: `(y0, ts, args) -> ys` with numbers that are `Unknown`, such as a `mechanism`; what tells subjects apart
      otherwise, such as weights and doses, is in `args`.
    - `spread`: which of them differ, and a first guess of the standard deviation of each. Effects are normal and
      independent: a positive number is log-normal, one between bounds logit-normal.
    - `additive`, `proportional`: first guesses of the measurement's error, in units of what is measured and relative to
      the prediction; with both their squares add up. One number for all components, or one for each.
    - `transform`, `observed`, `failed`: as in `trajectory_misfit`.

    In `parameters` the deviations are `sd_` and the name, and `additive` and `proportional` (with `_0`, ... for each
    component). Raises ValueError for names that the model does not have, guesses that are not above 0, and no error.
    """
    known = numbers_of(model)
    if not spread or (absent := [n for n in spread if n not in known]):
        wrong = f"no unknown '{absent[0]}'" if spread else "nothing that differs"
        raise ValueError(f"mixed: {wrong}; the unknown numbers of the model are {', '.join(known) or 'none'}")
    error = _errors("additive", additive) | _errors("proportional", proportional)
    if not error:
        raise ValueError("mixed: give the measurement's error, additive=, proportional= or both")
    made = {SPREAD + n: _positive(f"the spread of '{n}'", s) for n, s in spread.items()}
    return Mixed(model, made, error, tuple(spread), transform, observed, failed)


def _errors(name: str, guess: Any) -> dict[str, TrainableNumber]:
    if guess is None:
        return {}
    if np.ndim(guess) == 0:
        return {name: _positive(name, guess)}
    return {f"{name}_{i}": _positive(name, g) for i, g in enumerate(guess)}


def _positive(name: str, guess: float) -> TrainableNumber:
    if not (np.isfinite(guess) and guess > 0):
        raise ValueError(f"mixed: the first guess of {name} must be above 0, got {guess}")
    return Unknown(float(guess), positive=True).trainable()


def marginal_likelihood(model: Mixed, batch: Trajectories) -> Float[Array, ""]:
    """A loss: -2 log of the likelihood of what was measured, with the effects of each subject integrated out.

    The integral is Laplace's, with the expected second derivatives at the most probable effects: the first-order
    conditional method with interaction (Wang, J. Pharmacokinet. Pharmacodyn. 34, 2007), whose objective in NONMEM
    leaves out the constant of N log(2 pi) for N values. It is exact where the model is linear in the effects and the
    error additive. Estimates are of maximum likelihood, those of the spreads not restricted.

    Subjects differ in the number of their times, values that are missing and schedules, in one compiled program. The
    gradient goes forward, so that optimisers such as `sciml.optim.self_scaled_bfgs` in double precision may be used on
    right-hand sides of at most 32 trained numbers, or with `Steps(forward=True)`.

    Raises ValueError as `trajectory_misfit` where prediction and measurement differ in shape.
    """
    return jnp.sum(_terms(model, jax.tree.map(jnp.asarray, batch)))


def random_effects(model: Mixed, data: Trajectories) -> tuple[np.ndarray, np.ndarray]:
    """The most probable effects (k, q) of each subject, in the order of `model.varies`, and their standard deviations
    given the population.
    """
    found, deviations = _modes(model, data)
    return np.asarray(found), np.asarray(deviations)


def individual(model: Mixed, data: Trajectories) -> Float[Array, "k n d"]:
    """The states of each subject with its most probable effects, at all times."""
    return _of_subjects(model, _modes(model, data)[0], *jax.tree.map(jnp.asarray, data[:3]))


def information(model: Mixed, data: Trajectories, *, sandwich: bool = False) -> Linearised:
    """The covariance of all trained numbers of a population at its largest likelihood, for `standard_errors` and
    `bands`: the inverse of the observed information R, half the second derivatives of `marginal_likelihood`, by
    differences of gradients; with `sandwich` R^-1 S R^-1, S the sum over subjects of the squares of their scores, which
    does not rely on the distributions that were assumed (White, Econometrica 50, 1982) and is NONMEM's.

    Raises ValueError where R is not positive definite: the likelihood is not at its largest, or does not determine a
    number.
    """
    vector, restore = ravel_pytree(eqx.filter(model, eqx.is_inexact_array))
    fixed = eqx.filter(model, eqx.is_inexact_array, inverse=True)
    data = jax.tree.map(jnp.asarray, data)
    scores = lambda v: _values_and_gradients(eqx.combine(restore(jnp.asarray(v)), fixed), data)[1]  # noqa: E731
    start = np.asarray(vector, float)
    moved = DIFFERENCE * np.eye(start.size)
    rows = [np.asarray(scores(start + m) - scores(start - m), float).sum(axis=0) / (4 * DIFFERENCE) for m in moved]
    matrix = (np.stack(rows) + np.stack(rows).T) / 2
    if not (np.isfinite(matrix).all() and np.linalg.eigvalsh(matrix)[0] > 0):
        raise ValueError(
            "information: the likelihood is not at its largest, or does not determine all numbers; train on, or take a "
            "random effect or a parameter away"
        )
    if sandwich:
        # Half of the gradient of -2 log L.
        each = np.asarray(scores(start), float) / 2
        matrix = matrix @ np.linalg.inv(each.T @ each) @ matrix
    return Linearised(model, Equilibrated(np.linalg.cholesky((matrix + matrix.T) / 2).T), 1.0)


class _Local(NamedTuple):
    """Of one subject at some effects: -log of the joint density, its gradient, its expected second derivatives, and
    -2 log of the marginal likelihood by Laplace's integral there.
    """

    joint: Any
    gradient: Any
    curvature: Any
    marginal: Any


def _local(z: Float[Array, " q"], model: Mixed, data: Trajectories, smallest: Any) -> _Local:
    """`z`: effects over their standard deviations."""

    def predictions(z):
        made, reached = _predicted(z, model, data)
        return made, (made, reached)

    slopes, (predicted, reached) = jax.jacfwd(predictions, has_aux=True)(z)
    known = jnp.isfinite(data.ys)
    target = jnp.where(known, data.ys, 1.0)
    target = target if model.transform is None else model.transform(target)
    slopes = jnp.where(reached[..., None], slopes, 0.0)
    additive, proportional = (_error_of(model, n, data.ys.shape[1]) for n in ("additive", "proportional"))
    variance = jnp.where(reached, additive**2 + (proportional * predicted) ** 2, 1.0) + smallest
    # Of half of the logarithm of the variance.
    relative = (proportional**2 * predicted / variance)[..., None] * slopes
    residual = jnp.where(reached, (target - predicted) / jnp.sqrt(variance), model.failed)
    pulls = slopes / jnp.sqrt(variance)[..., None]
    count = lambda values: jnp.where(known.reshape(known.shape + (1,) * (values.ndim - 2)), values, 0.0)  # noqa: E731
    residual, pulls, relative, logarithms = map(count, (residual, pulls, relative, jnp.log(variance)))
    joint = (jnp.sum(residual**2) + jnp.sum(logarithms) + jnp.sum(z**2)) / 2
    # Where missing, the derivative of the logarithm is zero already.
    gradient = z + jnp.einsum("nm,nmq->q", 1 - residual**2, relative) - jnp.einsum("nm,nmq->q", residual, pulls)
    squares = jnp.einsum("nmp,nmq->pq", pulls, pulls) + 2 * jnp.einsum("nmp,nmq->pq", relative, relative)
    curvature = jnp.eye(z.size) + squares
    constant = jnp.sum(known) * np.log(2 * np.pi)
    return _Local(joint, gradient, curvature, 2 * joint + jnp.linalg.slogdet(curvature)[1] + constant)


def _predicted(z, model: Mixed, data: Trajectories):
    """What is measured of a subject (n, m), and where its solution reached."""
    states = model.subject(model.deviations * z)(data.y0, data.ts, data.args)
    reached = jnp.all(jnp.isfinite(states), axis=-1, keepdims=True)
    states = jnp.where(reached, states, 1.0)
    made = states if model.observed is None else jax.vmap(model.observed)(states)
    if made.shape != data.ys.shape:
        raise ValueError(
            f"the model predicts values of shape {made.shape}, measured ones have {data.ys.shape}; say with observed= "
            "what is measured of a state"
        )
    return made if model.transform is None else model.transform(made), jnp.broadcast_to(reached, made.shape)


def _error_of(model: Mixed, name: str, components: int):
    """The error by component."""
    if name in model.error:
        return jnp.broadcast_to(model.error[name](), (components,))
    if f"{name}_0" not in model.error:
        return jnp.zeros(components)
    found = [model.error[n]() for i in range(components) if (n := f"{name}_{i}") in model.error]
    if len(found) != components or f"{name}_{components}" in model.error:
        raise ValueError(f"mixed: give {name}= as one number or one for each of {components} measured components")
    return jnp.stack(found)


def _mode(model: Mixed, data: Trajectories, smallest: Any) -> tuple[Float[Array, " q"], _Local]:
    """The most probable effects over their deviations, by Fisher's scoring with Levenberg-Marquardt's damping."""

    def step(carry):
        z, here, damping, _, count = carry
        system = here.curvature + damping * jnp.diag(jnp.diag(here.curvature))
        change = -jnp.linalg.solve(system, here.gradient)
        there = _local(z + change, model, data, smallest)
        better = there.joint <= here.joint + JUMP * (1 + jnp.abs(here.joint))
        z, here = jax.tree.map(lambda a, b: jnp.where(better, a, b), (z + change, there), (z, here))
        left = jnp.where(better, jnp.vdot(here.gradient, jnp.linalg.solve(here.curvature, here.gradient)), jnp.inf)
        return z, here, jnp.where(better, damping / 10, jnp.maximum(10 * damping, 1e-3)), left, count + 1

    def unfinished(carry):
        return (carry[3] > jnp.finfo(z.dtype).eps) & (carry[4] < MOST)

    z = jnp.zeros(len(model.varies), data.ts.dtype)
    # The first step does not move, so that the model is compiled once.
    infinite = jnp.full((), jnp.inf, z.dtype)
    nothing = _Local(infinite, z, jnp.eye(z.size, dtype=z.dtype), infinite)
    found = jax.lax.while_loop(unfinished, step, (z, nothing, jnp.zeros((), z.dtype), infinite, 0))
    return found[0], found[1]


@eqx.filter_jit
def _modes(model: Mixed, data: Trajectories):
    data = jax.tree.map(jnp.asarray, data)
    smallest, spreads = _smallest(model, data), model.deviations

    def of_subject(one):
        z, there = _mode(model, one, smallest)
        return spreads * z, spreads * jnp.sqrt(jnp.diag(jnp.linalg.inv(there.curvature)))

    return jax.vmap(of_subject)(data)


def _smallest(model: Mixed, data: Trajectories):
    known = jnp.isfinite(data.ys)
    values = jnp.where(known, data.ys, 1.0)
    values = jnp.where(known, values if model.transform is None else model.transform(values), 0.0)
    return SMALLEST * jnp.sum(values**2) / jnp.maximum(jnp.sum(known), 1)


@eqx.filter_jit
def _of_subjects(model: Mixed, effects, y0, ts, args):
    return jax.vmap(lambda e, *inputs: model.subject(e)(*inputs))(effects, y0, ts, args)


@eqx.filter_custom_jvp
def _terms(model: Mixed, data: Trajectories) -> Float[Array, " k"]:
    """-2 log of the likelihood of each subject."""
    return _values(model, data)


@eqx.filter_jit
def _values(model: Mixed, data: Trajectories):
    smallest = _smallest(model, data)
    return jax.vmap(lambda one: _mode(model, one, smallest)[1].marginal)(data)


@_terms.def_jvp
def _terms_jvp(primals, tangents):
    values, gradients = _values_and_gradients(*primals)
    numbers = eqx.filter(primals[0], eqx.is_inexact_array)
    # None where a number is not differentiated by.
    moving = jax.tree.map(lambda n, t: jnp.zeros_like(n) if t is None else t, numbers, tangents[0])
    return values, gradients @ ravel_pytree(moving)[0]


@eqx.filter_jit
def _values_and_gradients(model: Mixed, data: Trajectories):
    """The terms (k,) and their derivatives by the trained numbers (k, p), with those of the most probable effects by
    the implicit function theorem.
    """
    trained, fixed = eqx.partition(model, eqx.is_inexact_array)
    vector, restore = ravel_pytree(trained)
    smallest, size = _smallest(model, data), len(model.varies)

    def of_subject(one):
        z, there = _mode(model, one, smallest)

        def at(both):
            local = _local(both[:size], eqx.combine(restore(both[size:]), fixed), one, smallest)
            return jnp.append(local.gradient, local.marginal)

        slopes = jax.jacfwd(at)(jnp.concatenate([z, vector]))
        moved = -jnp.linalg.solve(slopes[:size, :size], slopes[:size, size:])
        return there.marginal, slopes[size, size:] + slopes[size, :size] @ moved

    return jax.vmap(of_subject)(data)
