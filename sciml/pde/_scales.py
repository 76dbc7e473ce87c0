"""Units of fields and residuals, so that pressures of 1e5 train as well as fractions of 1."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._loss import weighted
from .._precision import double_precision
from ._condition import Observations, Value
from ._names import arguments, coordinates
from ._pde import PDE

# Networks reach sizes from 1/30 to 30 by themselves.
EASY = 30.0
# A residual this much smaller than the largest is one of rounding errors.
NEGLIGIBLE = 1e-12
POINTS = 256


class Scale(NamedTuple):
    """A field is centre + size * (a number of order 1)."""

    centre: float
    size: float


class ScaledOutput(eqx.Module):
    """A network whose outputs are in the units of the fields; see `nondimensional`."""

    network: Callable
    centres: tuple[float, ...] = eqx.field(static=True)
    sizes: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, inputs: Float[Array, " k"]) -> Float[Array, " m"]:
        raw = jnp.ravel(self.network(inputs))
        return jnp.asarray(self.centres, raw.dtype) + jnp.asarray(self.sizes, raw.dtype) * raw


def nondimensional(pde: PDE, network: Callable, **sizes: float) -> Callable:
    """`network` with its outputs scaled to the size that each field has, for `pde.model(nondimensional(pde, network))`;
    inputs are scaled to [-1, 1] by `pde.model` itself.

    The size of a field is half the range of the values that are declared or observed of it: the size of the deviation
    from the data that hold exactly, or, where none does, from the middle of that range, which is then added. Sizes
    between 1/30 and 30 are left alone, and where all fields' are, so is the network. `sizes` by name, as in
    `nondimensional(pde, network, p=1e5)`, count before declared ones, and are needed where only zeros are declared.

    Raises ValueError for a size of something that is no field, and unless sizes are positive and finite.
    """
    for name, size in sizes.items():
        if name not in pde.fields:
            raise ValueError(f"nondimensional: '{name}' is not a field; the fields are {', '.join(pde.fields)}")
        if not 0 < size < np.inf:
            raise ValueError(f"nondimensional: the size of '{name}' must be positive and finite, got {size}")
    scales = field_scales(pde)
    scales |= {name: Scale(scales[name].centre, float(size)) for name, size in sizes.items()}
    if all(s == Scale(0.0, 1.0) for s in scales.values()):
        return network
    return ScaledOutput(network, tuple(s.centre for s in scales.values()), tuple(s.size for s in scales.values()))


def scaled_residuals(pde: PDE, loss: Callable, model: Callable, key: Array | None = None) -> Callable:
    """`loss` with each of its terms divided by its root mean square in `model`, such as the one that training starts
    from: residuals without units, of order 1. Sizes between 1/30 and 30 are left alone.

    Where a term is below 1e-10 of the largest, nothing but rounding errors is seen of it, and it is divided by that
    fraction of the largest. Raises TypeError for a scalar loss.
    """
    batch = pde.points(POINTS)(jax.random.key(0) if key is None else key)
    terms = eqx.filter_jit(lambda m: loss(m, batch))(model)
    sizes = {name: float(jnp.sqrt(jnp.mean(r**2))) for name, r in terms.items()}
    smallest = NEGLIGIBLE * max(sizes.values())
    sizes = {name: _size(max(size, smallest)) for name, size in sizes.items()}
    return weighted(loss, {name: size**-2 for name, size in sizes.items() if size != 1})


def field_scales(pde: PDE) -> dict[str, Scale]:
    """The scale of each field, read from its declared values and observations; (0, 1) where nothing is far from it."""
    with double_precision():
        found = {field: _declared(pde, field) for field in pde.fields}
    return {field: _scale(values, _is_exact(pde, field)) for field, values in found.items()}


def _scale(values: Float[np.ndarray, " n"], exact: bool) -> Scale:
    values = values[np.isfinite(values)]
    if not values.size or not values.any():
        return Scale(0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    half, middle = (high - low) / 2, (high + low) / 2
    if half < 1e-6 * abs(middle):
        # One value says how large the field is, not by how much it changes.
        return Scale(0.0, _size(abs(middle)))
    far = not exact and abs(middle) > 3 * half and _size(abs(middle)) != 1
    return Scale(middle, _size(half)) if far else Scale(0.0, _size(half if exact else max(abs(low), abs(high))))


def _size(size: float) -> float:
    return size if np.isfinite(size) and size > 0 and not 1 / EASY <= size <= EASY else 1.0


def _is_exact(pde: PDE, field: str) -> bool:
    return any(field in value.targets for value in pde.exact)


def _declared(pde: PDE, field: str) -> Float[np.ndarray, " n"]:
    """All values that conditions and observations state of a field."""
    found = [np.zeros(0)]
    for item in pde.conditions:
        if isinstance(item, Observations) and field in item.values:
            found.append(item.values[field])
        if isinstance(item, Value) and field in item.targets:
            found.append(_values(pde, item.targets[field], item.on))
    return np.concatenate(found)


def _values(pde: PDE, data, region) -> Float[np.ndarray, " n"]:
    if not callable(data):
        return np.asarray([float(data)])
    points = region.grid(1) if region.dim == 0 else region.sobol(POINTS)
    numbers = {n: getattr(v, "initial", v) for n, v in pde.numbers.items()}
    names = arguments(data, "declared value")

    def at(point):
        known = coordinates(pde.axes, point) | numbers
        return jnp.asarray(data(**{n: known[n] for n in names}), float)

    return np.asarray(jax.vmap(at)(jnp.asarray(points)))
