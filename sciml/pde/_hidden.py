"""Random features for fields that nothing observes, such as a coefficient, which data determine weakly.

Their outputs have a normal prior, whose standard deviations, one for the features of each scale, are those that make
the data most probable (MacKay, Neural Computation 4, 1992).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..nn import JoinedFeatures, PriorFeatures, TanhFeatures, random_features
from ._names import Derivative
from ._pde import PDE

# Scales of the features of hidden fields, and how many of each there are by the axes that the field depends on.
SCALES = (0.5, 1.0, 2.0, 4.0)
FEATURES = (20, 60, 100)
# Deviations of the prior in units of a field: where it should say nothing, and of other features at first.
VAGUE, FIRST = 1e4, 0.3
# How much a hidden field is expected to vary, as a share of its size, and by how much a deviation may change at once.
EXPECTED, LARGEST_CHANGE = 0.1, 10.0


class Group(NamedTuple):
    """The features of one scale that belong to a hidden field; `constant` for the one that does not vary."""

    field: int
    features: slice
    constant: bool


class Drawn(NamedTuple):
    """A network of random features, which of its outputs are used, and the groups that have priors of their own."""

    network: Any
    active: Bool[np.ndarray, "fields features"]
    groups: tuple[Group, ...]


def draw(pde: PDE, observed: set[str], count: int, spread: float, key: Array) -> Drawn:
    """`count` features of one scale for fields that are observed, and features of several scales for others."""
    hidden = [i for i, f in enumerate(pde.fields) if f not in observed]
    seen = [i for i in range(pde.out_size) if i not in hidden]
    drawn = random_features(pde.in_size, pde.out_size, count // max(1, len(seen)), spread, key=key)
    if not hidden:
        return Drawn(drawn, np.ones(drawn.output.shape, bool), ())
    parts, groups, output = [drawn.hidden], [], []
    first = drawn.output.shape[1]
    for i in hidden:
        for part, constant in _hidden_features(pde, i, jax.random.fold_in(key, i)):
            parts.append(part)
            groups.append(Group(i, slice(first, first + part.bias.size), constant))
            first += part.bias.size
    scale, output = np.zeros((pde.out_size, first)), np.zeros((pde.out_size, first))
    scale[seen, : drawn.output.shape[1]] = 1.0
    for group in groups:
        size = group.features.stop - group.features.start
        scale[group.field, group.features] = VAGUE if group.constant else FIRST / np.sqrt(size)
        # A coefficient of zero would take the terms with it from the equations.
        output[group.field, group.features] = 1 / VAGUE if group.constant else 0.0
    network = PriorFeatures(JoinedFeatures(tuple(parts)), jnp.asarray(output), jnp.asarray(scale), tuple(hidden))
    return Drawn(network, scale > 0, tuple(groups))


def _hidden_features(pde: PDE, field: int, key: Array):
    """Features of each scale, constant along axes that the field does not depend on, and the constant."""
    inputs = [i for i, axis in enumerate(_input_axes(pde)) if axis not in steady_axes(pde, pde.fields[field])]
    count = FEATURES[min(len(inputs), len(FEATURES)) - 1]
    for i, scale in enumerate(SCALES if inputs else ()):
        drawn = random_features(len(inputs), 1, count, scale, key=jax.random.fold_in(key, i)).hidden
        weight = jnp.zeros((count, pde.in_size)).at[:, np.asarray(inputs)].set(drawn.weight)
        yield TanhFeatures(weight, drawn.bias), False
    yield TanhFeatures(jnp.zeros((1, pde.in_size)), jnp.full(1, 20.0)), True


def _input_axes(pde: PDE) -> list[int]:
    """The axis of each input of a network."""
    return [i for i, a in enumerate(pde.axes) for _ in range(2 if a in pde.periodic_axes else 1)]


def steady_axes(pde: PDE, field: str) -> set[int]:
    """The axes along which an equation of its own keeps a field constant, as `lambda k_t: k_t` does."""
    found = set()
    for term in next(iter(pde.groups.values())).terms:
        match list(term.meanings.items()):
            case [(name, Derivative(of, (axis,)))] if of == field and float(term.function(**{name: 0.0})) == 0.0:
                found.add(axis)
    return found


def adapted(
    drawn: Drawn, outputs: np.ndarray, variances: np.ndarray, sizes: Float[np.ndarray, " fields"]
) -> tuple[Drawn, float]:
    """The same fields with the deviations of the prior that a step towards the most probable ones gives, and by which
    factor (its logarithm) one of them changed most.

    Outputs w of a group with the deviation s and posterior variances v give it the variance s^2 |w|^2 / sum(1 - v). As
    data that determine nothing would make it zero and the field certain, one more output of the expected size, a share
    of that of the field, counts.
    """
    network, change = drawn.network, 0.0
    output, variance = (np.zeros(drawn.active.shape) for _ in range(2))
    output[drawn.active], variance[drawn.active] = outputs, variances
    scale = np.array(network.scale)
    for field, group, constant in drawn.groups:
        old, size = scale[field, group][0], max(sizes[field], np.finfo(float).tiny)
        if constant:
            new = VAGUE * size
        else:
            expected = EXPECTED * size / np.sqrt(group.stop - group.start)
            found = (old * np.linalg.norm(output[field, group])) ** 2
            determined = max(float(np.sum(1 - variance[field, group])), 0.0)
            new = np.sqrt((found + expected**2) / (determined + 1))
            new = float(np.clip(new, old / LARGEST_CHANGE, old * LARGEST_CHANGE))
            change = max(change, abs(np.log(new / old)))
        scale[field, group] = new
        output[field, group] *= old / new
    network = PriorFeatures(network.hidden, jnp.asarray(output), jnp.asarray(scale), network.believed)
    return Drawn(network, drawn.active, drawn.groups), float(change)
