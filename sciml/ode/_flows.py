"""Densities as images of the normal one under an ordinary differential equation: likelihood and flow matching."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..nn import mlp
from ..nn._layers import require_positive
from ._inputs import Table
from ._models import ODE, Network
from ._steps import AbstractSteps, Steps, integrate


class Flow(eqx.Module):
    """A continuous normalising flow: a standard normal vector at t = 0 moves to a sample of the density at t = 1, by
    the right-hand side of `model` (Chen et al., NeurIPS 2018; Grathwohl et al., FFJORD, arXiv 1810.01367).

    It is called as its model, `(y0, ts, args) -> ys`. For a density that depends on something, `args` are the vector of
    what it depends on; the right-hand side gets it as a function of time that is constant.

    `log_density` and `sample` are of one vector (d,); `jax.vmap` for several. Scale data to a size near one.
    """

    model: ODE
    size: int = eqx.field(static=True)

    def __call__(self, y0: Any, ts: Any, args: Any = None) -> Float[Array, "n d"]:
        return self.model(y0, ts, _constant(args))

    def velocity(self, t: Any, y: Float[Array, " d"], args: Any = None) -> Float[Array, " d"]:
        """The right-hand side."""
        return self.model.field(t, y, _constant(args))

    def sample(self, key: Array, args: Any = None) -> Float[Array, " d"]:
        """A sample; NaN where the solution failed."""
        return self(jax.random.normal(key, (self.size,)), jnp.arange(2.0), args)[-1]

    def log_density(self, y: Any, args: Any = None, directions: Any = None) -> Float[Array, ""]:
        """The logarithm of the density at `y` (d,): of the normal one at the beginning of its path, less the integral
        of the divergence along it (FFJORD, equation 3). NaN where the solution failed, and no gradient is.

        The divergence costs d derivatives along directions. With `directions` (p, d), random vectors whose covariance
        is the identity, it costs p; its estimate (Hutchinson's) is right in the mean, the density's logarithm too.
        """
        y = jnp.asarray(y)
        y = y.astype(jnp.result_type(y, float))
        if y.shape != (self.size,):
            raise ValueError(f"expected a vector ({self.size},), got {y.shape}; use jax.vmap for several")
        along = jnp.eye(self.size, dtype=y.dtype) if directions is None else directions / np.sqrt(len(directions))
        whole = jnp.concatenate([y, jnp.zeros(1, y.dtype)])
        backward = _Backward(self.model.field)
        end = integrate(backward, whole, jnp.arange(2.0), (along, _constant(args)), self.model.steps)[-1]
        reached = jnp.all(jnp.isfinite(end))
        end = jnp.where(reached, end, 0)
        normal = -0.5 * (jnp.sum(end[:-1] ** 2) + self.size * np.log(2 * np.pi))
        return jnp.where(reached, normal + end[-1], jnp.nan)


class _Backward(eqx.Module):
    """Of a vector and minus the integral of the divergence behind it, by s = 1 - t."""

    field: Callable

    def __call__(self, s, whole, everything):
        along, args = everything
        velocity, push = jax.linearize(lambda y: self.field(1 - s, y, args), whole[:-1])
        divergence = jnp.sum(jax.vmap(push)(along) * along)
        return -jnp.concatenate([velocity, divergence[None]]).astype(whole.dtype)


def _constant(args: Any) -> Any:
    """Numbers as a function of time."""
    if args is None or callable(args):
        return args
    return Table(jnp.zeros(1), jnp.atleast_1d(jnp.asarray(args, float))[None], held=True)


def neural_flow(
    size: int,
    width: int = 64,
    depth: int = 3,
    activation: Callable = jax.nn.silu,
    *,
    inputs: int = 0,
    steps: AbstractSteps | None = None,
    key: Array,
) -> Flow:
    """A flow of vectors of `size` numbers, whose right-hand side is a multilayer perceptron of vector, time and
    `inputs` numbers, with `depth` hidden layers of `width` units.
    """
    require_positive("neural_flow", size=size, width=width, depth=depth)
    network = mlp(size + 1 + inputs, size, width, depth, activation, key=key)
    return Flow(ODE(Network(network, True, inputs), Steps() if steps is None else steps), size)


class Samples(NamedTuple):
    """A batch of `sample_likelihood`: what the density depends on (k, m) or None, directions (k, p, d) or None, samples
    (k, d).
    """

    args: Any
    directions: Any
    ys: Any


class Moving(NamedTuple):
    """A batch of `flow_matching`: times (k,), points (k, d), what the density depends on (k, m) or None, and velocities
    (k, d).
    """

    ts: Any
    points: Any
    args: Any
    velocities: Any


def sample_likelihood(*, failed: float = 100.0) -> Callable:
    """The loss `(flow, Samples) -> number`: minus the mean of the logarithm of the density of samples. One whose
    solution failed counts as the constant `failed`, without a gradient.
    """

    def loss(flow, batch):
        found = jax.vmap(flow.log_density)(batch.ys, batch.args, batch.directions)
        return -jnp.mean(jnp.where(jnp.isfinite(found), found, -failed))

    return loss


def drawn(ys: Any, size: int, *, inputs: Any = None, probes: int | None = None) -> Callable:
    """The stream `key -> Samples` of `size` samples drawn from `ys` (k, d), with their `inputs` (k, m), and with so
    many random directions (Rademacher's) each, or None for the exact divergence.

    Raises ValueError as `optimal_paths` does, and for `probes` below 1.
    """
    ys, inputs = _checked("drawn", ys, inputs, size)
    if probes is not None:
        require_positive("drawn", probes=probes)

    def stream(key):
        first, second = jax.random.split(key)
        which = jax.random.randint(first, (size,), 0, len(ys))
        shape = (size, probes or 0, ys.shape[1])
        directions = None if probes is None else jax.random.rademacher(second, shape, jnp.result_type(float))
        return Samples(_rows(inputs, which), directions, jnp.asarray(ys)[which])

    return stream


def flow_matching(model: Flow, batch: Moving) -> dict[str, Array]:
    """The loss of flow matching: `{"velocity": residuals (k, d)}`, the right-hand side at points of paths minus the
    velocities there (Lipman et al., Flow matching for generative modeling, arXiv 2210.02747, equation 9). No solution
    is computed.
    """
    return {"velocity": jax.vmap(model.velocity)(batch.ts, batch.points, batch.args) - batch.velocities}


def optimal_paths(ys: Any, size: int, *, inputs: Any = None, sigma: float = 0.0) -> Callable:
    """The stream `key -> Moving` of points at random times of straight paths from noise x to samples y, of `size` at a
    time: (1 - (1 - sigma) t) x + t y, with the velocity y - (1 - sigma) x (conditional optimal transport, arXiv
    2210.02747, equations 22 and 23).

    - `ys`: samples (k, d); `inputs`: what their density depends on (k, m).
    - `sigma`: the standard deviation of the normal density around each sample that a path ends in.

    Raises ValueError for samples and inputs that are not finite or not (k, d) and (k, m), and for `size` below 1.
    """
    ys, inputs = _checked("optimal_paths", ys, inputs, size)
    if not 0 <= sigma < 1:
        raise ValueError(f"optimal_paths: sigma must be at least 0 and below 1, got {sigma}")

    def stream(key):
        first, second, third = jax.random.split(key, 3)
        which = jax.random.randint(first, (size,), 0, len(ys))
        targets, ts = jnp.asarray(ys)[which], jax.random.uniform(second, (size,))
        noise = jax.random.normal(third, targets.shape)
        velocities = targets - (1 - sigma) * noise
        return Moving(ts, noise + ts[:, None] * velocities, _rows(inputs, which), velocities)

    return stream


def _rows(array: Any, which: Array) -> Any:
    return None if array is None else jnp.asarray(array)[which]


def _checked(name: str, ys: Any, inputs: Any, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    require_positive(name, size=size)
    ys = np.asarray(ys, float)
    inputs = None if inputs is None else np.asarray(inputs, float)
    for what, values in (("samples", ys), ("inputs", inputs)):
        if values is None:
            continue
        if values.ndim != 2 or not values.size or len(values) != len(ys):
            raise ValueError(f"{name}: expected {what} of shape (k, m), got {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: {what} must be finite; leave rows with missing values out")
    return ys, inputs
