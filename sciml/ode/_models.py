"""Models called as `(y0, ts, args) -> ys`: a right-hand side and the steps that integrate it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..nn import TrainableNumber, Unknown, mlp
from ..nn._layers import require_positive
from ._inputs import Table
from ._steps import AbstractSteps, Steps, integrate


class ODE(eqx.Module):
    """The solution of `dy/dt = field(t, y, args)`, for one trajectory: `(y0, ts, args) -> ys`.

    - `field`: any function or module `(t, y, args) -> dy/dt`, both vectors (d,).
    - `steps`: how it is integrated; by default adaptive explicit ones, see `Steps`.

    `y0` is the state (d,) at the first of the times `ts` (n,), which do not decrease; `ys` are the states (n, d) at all
    of them. Where the solution failed they are NaN from there on, and no gradient is.
    """

    field: Callable
    steps: AbstractSteps = eqx.field(default_factory=Steps)

    def __call__(self, y0: Any, ts: Any, args: Any = None) -> Float[Array, "n d"]:
        return integrate(self.field, y0, ts, args, self.steps)


class Network(eqx.Module):
    """The right-hand side `network(y)`; with `timed` the time, and with `inputs` what `args(t)` gives, are appended to
    the state.
    """

    network: Callable
    timed: bool = eqx.field(default=False, static=True)
    inputs: int = eqx.field(default=0, static=True)

    def __call__(self, t: Any, y: Float[Array, " d"], args: Any) -> Float[Array, " m"]:
        parts = [y]
        if self.timed:
            parts.append(jnp.reshape(t, (1,)).astype(y.dtype))
        if self.inputs:
            parts.append(self._inputs(t, args).astype(y.dtype))
        return self.network(jnp.concatenate(parts))

    def _inputs(self, t, args):
        if not callable(args):
            raise TypeError(
                f"the network takes {self.inputs} inputs: expected args to be a function of time, such as "
                f"sciml.ode.linear_table(ts, values), got {type(args).__name__}"
            )
        given: Any = args(t)
        values = jnp.atleast_1d(given)
        if values.shape != (self.inputs,):
            raise ValueError(f"the network takes {self.inputs} inputs, args(t) gave shape {values.shape}")
        return values


def neural_ode(
    size: int,
    width: int = 32,
    depth: int = 2,
    activation: Callable = jnp.tanh,
    *,
    timed: bool = False,
    inputs: int = 0,
    steps: AbstractSteps | None = None,
    key: Array,
) -> ODE:
    """A neural ODE (Chen et al., NeurIPS 2018) of a state of `size` numbers, whose right-hand side is a multilayer
    perceptron with `depth` hidden layers of `width` units; `timed` and `inputs` as in `Network`.
    """
    require_positive("neural_ode", size=size, width=width, depth=depth)
    network = mlp(size + timed + inputs, size, width, depth, activation, key=key)
    return ODE(Network(network, timed, inputs), Steps() if steps is None else steps)


class Augmented(eqx.Module):
    """A model of a state with `extra` more numbers, which begin at zero and are not returned (Dupont, Doucet & Teh,
    Augmented neural ODEs, NeurIPS 2019): `augmented(neural_ode(size + extra, key=key), extra)`.
    """

    model: Callable
    extra: int = eqx.field(static=True)

    def __call__(self, y0: Any, ts: Any, args: Any = None) -> Float[Array, "n d"]:
        y0 = jnp.asarray(y0)
        whole = jnp.concatenate([y0, jnp.zeros(self.extra, y0.dtype)])
        return self.model(whole, ts, args)[:, : y0.shape[0]]


def augmented(model: Callable, extra: int) -> Augmented:
    """See `Augmented`. Raises ValueError unless `extra` is above 0."""
    require_positive("augmented", extra=extra)
    return Augmented(model, extra)


class Mechanism(eqx.Module):
    """A right-hand side that is written as a function of named states and parameters; see `mechanism`."""

    function: Callable = eqx.field(static=True)
    states: tuple[str, ...] = eqx.field(static=True)
    parameters: dict[str, Any]

    def __call__(self, t: Any, y: Float[Array, " d"], args: Any) -> Float[Array, " d"]:
        known: dict[str, Any] = {"t": t} | dict(zip(self.states, y)) | self.values()
        names = inspect.signature(self.function).parameters
        inputs = [n for n in names if n not in known]
        if inputs and isinstance(args, Table):
            args = args.columns()
        if inputs and not (isinstance(args, Mapping) and set(inputs) <= set(args)):
            given = ", ".join(args) if isinstance(args, Mapping) else type(args).__name__
            raise ValueError(
                f"the right-hand side asks for {', '.join(inputs)}, which are neither states nor parameters: give "
                f"args as a mapping with these names, of numbers or functions of time; got {given}"
            )
        for name in inputs:
            known[name] = args[name](t) if callable(args[name]) else args[name]
        return self._vector(self.function(**{n: known[n] for n in names}))

    def values(self) -> dict[str, Any]:
        """The parameters by name, as they are now."""
        return {n: p() if isinstance(p, TrainableNumber) else p for n, p in self.parameters.items()}

    def _vector(self, rates):
        if isinstance(rates, Mapping):
            if set(rates) != set(self.states):
                raise ValueError(f"expected rates of {', '.join(self.states)}, got {', '.join(rates)}")
            rates = [rates[n] for n in self.states]
        rates = list(rates) if isinstance(rates, tuple | list) else [rates]
        if len(rates) != len(self.states):
            raise ValueError(f"expected {len(self.states)} rates, of {', '.join(self.states)}, got {len(rates)}")
        return jnp.stack([jnp.asarray(r).reshape(()) for r in rates])


def mechanism(function: Callable, states: Sequence[str], steps: AbstractSteps | None = None, **parameters: Any) -> ODE:
    """A model whose right-hand side is a function of named numbers, known but for some of them:

        def predation(hare, lynx, alpha, beta, gamma, delta):
            return alpha * hare - beta * hare * lynx, -gamma * lynx + delta * hare * lynx

        model = mechanism(predation, ("hare", "lynx"), alpha=Unknown(1.0, positive=True), ..., delta=0.02)

    It returns the rates of `states` in their order, or by name. Its arguments are states, the time `t`, parameters, and
    any other names, which are inputs that `args` gives at each call by name: a mapping to numbers or functions of time,
    or the table that `from_dataset` makes of columns of these names.

    A parameter is a number, an `Unknown`, which is found from data within its bounds, or a function such as a network,
    which makes the model a universal differential equation (Rackauckas et al., arXiv 2001.04385): the function is
    called with it and its numbers are trained.

    `steps` are by default `Steps(checked=True)`. Raises ValueError for parameters that the function does not take, and
    names that are given twice; TypeError for parameters of other kinds.
    """
    states = tuple(states)
    names = inspect.signature(function).parameters
    for name in (*states, *parameters):
        if name not in names and name not in states:
            raise ValueError(f"mechanism: the function has no argument '{name}'; it has {', '.join(names)}")
        if name in states and name in parameters:
            raise ValueError(f"mechanism: '{name}' is both a state and a parameter; rename one of them")
    made = {name: _parameter(name, value) for name, value in parameters.items()}
    return ODE(Mechanism(function, states, made), Steps(checked=True) if steps is None else steps)


def _parameter(name: str, value: Any) -> Any:
    if isinstance(value, Unknown):
        return value.trainable()
    if callable(value):
        return value
    if isinstance(value, bool) or np.ndim(value) != 0 or not np.isfinite(float(value)):
        raise TypeError(f"mechanism: '{name}' must be a finite number, an Unknown or a function, got {value!r}")
    return float(value)


def parameters(model: Any) -> dict[str, Float[Array, ""]]:
    """The unknown numbers of a model by name, as they are now."""
    return {name: number() for name, number in numbers_of(model).items()}


def numbers_of(model: Any) -> dict[str, TrainableNumber]:
    """The trained numbers of a model by the names that they were declared with."""
    found = {}
    leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=lambda a: isinstance(a, TrainableNumber))
    for path, leaf in leaves:
        if isinstance(leaf, TrainableNumber):
            found[str(path[-1].key)] = leaf
    return found
