"""Right-hand sides with a structure: Hamiltonian, Lagrangian and dissipative systems, and symplectic steps.

Each is called as `(t, y, args) -> dy/dt`. A state of positions and momenta (or velocities) is one vector `(q, p)` of
even length. Energies and Lagrangians are functions of vectors to a number, `()` or `(1,)`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..nn._layers import require_positive
from ._steps import AbstractSteps

# Blanes & Moan, J. Comput. Appl. Math. 142 (2002), table 2, S6 of order 4: the steps of positions and of momenta.
DRIFTS = (0.0792036964311957, 0.353172906049774, -0.0420650803577195)
KICKS = (0.209515106613362, -0.143851773179818)


class Hamiltonian(eqx.Module):
    """dq/dt = dH/dp, dp/dt = -dH/dq for an energy `H(y)` of y = (q, p), such as a network (Greydanus, Dzamba &
    Yosinski, NeurIPS 2019).
    """

    energy: Callable

    def __call__(self, t: Any, y: Float[Array, " d"], args: Any) -> Float[Array, " d"]:
        by_q, by_p = halves(jax.grad(lambda y: as_number(self.energy(y)))(y))
        return jnp.concatenate([by_p, -by_q])


class Separable(eqx.Module):
    """The same for H = T(p) + V(q): `kinetic` and `potential`. `Symplectic` steps need this form."""

    kinetic: Callable
    potential: Callable

    def energy(self, y: Float[Array, " d"]) -> Float[Array, ""]:
        """H(y)."""
        q, p = halves(y)
        return as_number(self.kinetic(p)) + as_number(self.potential(q))

    def velocity(self, p: Float[Array, " k"]) -> Float[Array, " k"]:
        """dT/dp."""
        return jax.grad(lambda p: as_number(self.kinetic(p)))(p)

    def force(self, q: Float[Array, " k"]) -> Float[Array, " k"]:
        """-dV/dq."""
        return -jax.grad(lambda q: as_number(self.potential(q)))(q)

    def __call__(self, t: Any, y: Float[Array, " d"], args: Any) -> Float[Array, " d"]:
        q, p = halves(y)
        return jnp.concatenate([self.velocity(p), self.force(q)])


class Lagrangian(eqx.Module):
    """dv/dt = (d2L/dv2)^-1 (dL/dq - d2L/dvdq v) for a Lagrangian `L(q, v)` and a state (q, v) (Cranmer et al.,
    Lagrangian neural networks, arXiv 2003.04630, equation 6).
    """

    lagrangian: Callable

    def __call__(self, t: Any, y: Float[Array, " d"], args: Any) -> Float[Array, " d"]:
        q, v = halves(y)

        def value(q, v):
            return as_number(self.lagrangian(q, v))

        mass = jax.hessian(value, argnums=1)(q, v)
        # The derivative of the momentum dL/dv by q, along v.
        _, turning = jax.jvp(lambda q: jax.grad(value, argnums=1)(q, v), (q,), (v,))
        return jnp.concatenate([v, jnp.linalg.solve(mass, jax.grad(value)(q, v) - turning)])


class Dissipative(eqx.Module):
    """A port-Hamiltonian system dy/dt = (J - R) dH/dy + B u(t), with J that of positions and momenta.

    - `energy`: H(y).
    - `damping`: L(y) of shape (d, d) or (d^2,), for R = L L^T, so that without input the energy never grows; or a
      vector (d,), for a diagonal R of its squares.
    - `port`: B(y) of shape (d, m) or (d m,) for inputs `args(t)` of m numbers; None without inputs.

    Van der Schaft & Jeltsema, Port-Hamiltonian systems theory, 2014, section 2.2.
    """

    energy: Callable
    damping: Callable
    port: Callable | None = None

    def __call__(self, t: Any, y: Float[Array, " d"], args: Any) -> Float[Array, " d"]:
        slope = jax.grad(lambda y: as_number(self.energy(y)))(y)
        by_q, by_p = halves(slope)
        change = jnp.concatenate([by_p, -by_q]) - self._damped(y, slope)
        if self.port is None:
            return change
        inputs = jnp.atleast_1d(args(t))
        return change + jnp.reshape(self.port(y), (y.size, inputs.size)) @ inputs

    def _damped(self, y, slope):
        factor = jnp.asarray(self.damping(y))
        if factor.shape == y.shape:
            return factor**2 * slope
        factor = jnp.reshape(factor, (y.size, y.size))
        return factor @ (factor.T @ slope)


class SecondOrder(eqx.Module):
    """dq/dt = v, dv/dt = a(y) with y = (q, v); `a` has half the state's length (Norcliffe et al., On second order
    behaviour in augmented neural ODEs, NeurIPS 2020).
    """

    acceleration: Callable

    def __call__(self, t: Any, y: Float[Array, " d"], args: Any) -> Float[Array, " d"]:
        _, v = halves(y)
        return jnp.concatenate([v, self.acceleration(y)])


class Symplectic(AbstractSteps):
    """Symplectic steps of order 4 for a `Separable` energy: `substeps` equal ones in each interval of the times, which
    must be equally spaced for the energy to have no drift. They keep a nearby energy for exponentially long times
    (Hairer, Lubich & Wanner, Geometric Numerical Integration, 2006, theorem IX.8.1). The result can be differentiated
    in either mode.

    Method S6 of Blanes & Moan, J. Comput. Appl. Math. 142 (2002): six evaluations of the force for each step.

    Raises ValueError for `substeps` below 1, TypeError for a right-hand side without `velocity` and `force`.
    """

    substeps: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        require_positive("Symplectic", substeps=self.substeps)

    def solve(self, field: Any, y0: Float[Array, " d"], ts: Float[Array, " n"], args: Any) -> Float[Array, "n d"]:
        """As in `AbstractSteps`."""
        if not (hasattr(field, "velocity") and hasattr(field, "force")):
            raise TypeError(f"Symplectic steps need a Separable energy, got {type(field).__name__}")
        drifts, kicks = _palindrome()

        def step(y, dt):
            q, p = halves(y)
            for drift, kick in zip(drifts, kicks):
                q = q + drift * dt * field.velocity(p)
                p = p + kick * dt * field.force(q)
            q = q + drifts[-1] * dt * field.velocity(p)
            return jnp.concatenate([q, p]).astype(y.dtype)

        def interval(y, dt):
            y = jax.lax.fori_loop(0, self.substeps, lambda _, y: step(y, dt / self.substeps), y)
            return y, y

        _, ys = jax.lax.scan(interval, y0, jnp.diff(ts))
        return jnp.concatenate([y0[None], ys])


def _palindrome() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The coefficients of a step, which is its own inverse in reversed time."""
    drifts = (*DRIFTS, 1 - 2 * sum(DRIFTS), *DRIFTS[::-1])
    kicks = (*KICKS, 0.5 - sum(KICKS))
    return drifts, (*kicks, *kicks[::-1])


def halves(y: Float[Array, " d"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Positions and momenta (or velocities). Raises ValueError for a state of odd length."""
    if y.shape[0] % 2:
        raise ValueError(f"a state of positions and momenta has an even length, got {y.shape[0]}")
    return y[: y.shape[0] // 2], y[y.shape[0] // 2 :]


def as_number(value: Any) -> Float[Array, ""]:
    """A scalar, also from an array of one element. Raises ValueError for more."""
    value = jnp.asarray(value)
    if value.size != 1:
        raise ValueError(f"an energy must be one number, got shape {value.shape}")
    return value.reshape(())
