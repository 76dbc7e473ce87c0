"""The derivative planner: every partial derivative that is asked of a function, in one forward sweep.

A function of a point is traced once; its operations are then applied to truncated multivariate Taylor
series instead of numbers. A series holds exactly the partial derivatives asked for and the lower ones
that they need, so `u, u_t, u_x, u_xx` costs four numbers per operation, and a Laplacian in d dimensions
costs d + 2 (the forward Laplacian of Li et al., Nature Machine Intelligence 6, 209, 2024) instead of the
d * (d + 1) / 2 of a Hessian.

Products follow Leibniz' rule, functions of one variable Faa di Bruno's formula. A function that uses an
operation without a rule here (loops, solvers, ...) is differentiated by nested `jax.jvp` instead.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

# A partial derivative is the sorted tuple of the axes it is taken along: () is the value, (0, 1) is u_xy.
# A Laplacian over some axes is a `Laplacian` of those axes.


class Laplacian(tuple):
    """The sum of the pure second derivatives along the axes in this tuple."""

    __slots__ = ()

    def __eq__(self, other):
        return isinstance(other, Laplacian) and tuple.__eq__(self, other)

    def __hash__(self):
        return hash(("Laplacian", tuple(self)))


Partial = tuple[int, ...] | Laplacian


def derivatives(function: Callable, point: Float[Array, " d"], partials: Iterable[Partial]) -> dict[Partial, Array]:
    """The partial derivatives of `function` at one point.

    **Arguments:** `function` maps a point of shape `(d,)` to an array of any shape. `partials` lists what is
    wanted: `()` is the value, `(1,)` the derivative along axis 1, `(0, 1)` a mixed one, `Laplacian((0, 1))`
    the sum of the pure second derivatives along axes 0 and 1.

    Returns a dict with an array of the function's output shape for each. Batches are the caller's `jax.vmap`.
    """
    wanted = tuple(dict.fromkeys(_canonical(p) for p in partials))
    try:
        series = taylor(function, point, closure(wanted))
    except NotImplementedError:
        return nested_derivatives(function, point, wanted)
    zero = jnp.zeros_like(series[()])
    return {p: series.get(p, zero) for p in wanted}


def nested_derivatives(
    function: Callable, point: Float[Array, " d"], partials: Iterable[Partial]
) -> dict[Partial, Array]:
    """The same by nesting `jax.jvp`: slower, for any function that JAX can differentiate."""
    basis = jnp.eye(point.shape[0], dtype=point.dtype)

    def along(f, axis):
        return lambda p: jax.jvp(f, (p,), (basis[axis],))[1]

    def one(partial):
        if isinstance(partial, Laplacian):
            return functools.reduce(jnp.add, [one((a, a)) for a in partial])
        return functools.reduce(along, partial, function)(point)

    return {p: one(p) for p in map(_canonical, partials)}


def _canonical(partial: Partial) -> Partial:
    ordered = sorted(partial)
    return Laplacian(ordered) if isinstance(partial, Laplacian) else tuple(ordered)


def closure(wanted: tuple[Partial, ...]) -> tuple[Partial, ...]:
    """The partial derivatives in `wanted` and the lower ones that they are made of, those of low order first."""
    needed: dict[Partial, None] = {(): None}
    for p in wanted:
        if isinstance(p, Laplacian):
            needed.update({(a,): None for a in p})
        else:
            for order in range(1, len(p)):
                needed.update({s: None for s in itertools.combinations(p, order)})
        needed[p] = None
    return tuple(sorted(needed, key=_degree))


def _degree(partial: Partial) -> tuple:
    laplacian = isinstance(partial, Laplacian)
    return (2 if laplacian else len(partial), laplacian, tuple(partial))


# A series maps partials to arrays; a partial that is absent is zero. Everything else is a constant.
Series = dict


def taylor(function: Callable, point: Float[Array, " d"], partials: tuple[Partial, ...]) -> Series:
    """Propagates the series of the coordinates through `function`.

    `partials` must contain the lower derivatives too. Raises NotImplementedError where a rule is missing.
    """
    basis = np.eye(point.shape[0], dtype=point.dtype)
    start = {(): point} | {(a,): basis[a] for a in range(len(basis)) if (a,) in partials}
    return propagate(function, [start], partials)


def propagate(function: Callable, arguments: list, partials: tuple[Partial, ...]) -> Series:
    """The series of `function(*arguments)`, where arguments are series or constants."""
    values = [a[()] if isinstance(a, Series) else a for a in arguments]
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*values)
    if len(jax.tree.leaves(shape)) != 1:
        raise TypeError("a function to be differentiated must return one array")
    (out,) = _evaluate(closed.jaxpr, closed.consts, arguments, partials)
    return out if isinstance(out, Series) else {(): out}


def _evaluate(jaxpr, consts, arguments, partials) -> list:
    values = {}

    def read(variable):
        return variable.val if hasattr(variable, "val") else values[variable]

    values.update(zip(jaxpr.constvars, consts))
    values.update(zip(jaxpr.invars, arguments))
    for equation in jaxpr.eqns:
        operands = [read(v) for v in equation.invars]
        for variable, result in zip(equation.outvars, _apply(equation, operands, partials)):
            values[variable] = _without_zeros(result)
    return [read(v) for v in jaxpr.outvars]


def _without_zeros(result):
    """Drops the parts that are known to be zero, such as the derivative of one coordinate along another."""
    if not isinstance(result, Series):
        return result
    return {p: v for p, v in result.items() if p == () or not _known_zero(v)}


def _known_zero(value) -> bool:
    return not isinstance(value, Tracer) and not np.asarray(value).any()


def _apply(equation, operands, partials) -> list:
    primitive, params = equation.primitive, equation.params
    name = primitive.name

    def bind(*args):
        if any(isinstance(a, Tracer) for a in args):
            out = primitive.bind(*args, **params)
        else:
            # The same for all points and parameters: a number now, not an operation later.
            with jax.ensure_compile_time_eval():
                out = primitive.bind(*args, **params)
        return out if primitive.multiple_results else [out]

    inner = params.get("call_jaxpr", params.get("jaxpr"))
    moving = any(isinstance(o, Series) for o in operands)
    if name in _CALLS and inner is not None and (moving or name not in ("jit", "pjit")):
        jaxpr, constants = _open(inner)
        return _evaluate(jaxpr, constants, operands, partials)
    if not moving:
        return bind(*operands)
    if name in _UNARY or name in _TOWERS:
        return [_compose(_tower(name, params, primitive), operands[0], partials)]
    if name in _LINEAR:
        return _linear(bind, operands, equation)
    if name in _BILINEAR:
        return [product(lambda a, b: bind(a, b)[0], operands[0], operands[1], partials)]
    if name in _STEPS:
        return bind(*[o[()] if isinstance(o, Series) else o for o in operands])
    rule = _SPECIAL.get(name)
    if rule is None:
        raise NotImplementedError(f"no Taylor rule for {name}")
    return [rule(operands, params, partials)]


def _open(jaxpr):
    """A jaxpr and its constants, of a closed or an open one."""
    return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())


def _linear(bind, operands, equation) -> list:
    """An operation linear in all operands that are series together; constants join the value only."""
    name = equation.primitive.name
    dependent = [i for i, o in enumerate(operands) if isinstance(o, Series)]
    fixed = _FIXED.get(name, ())
    if any(i in dependent for i in (range(1, len(operands)) if fixed == "rest" else fixed)):
        raise NotImplementedError(f"no Taylor rule for {name} whose indices depend on the point")
    parts = dict.fromkeys(p for i in dependent for p in operands[i])
    outputs: list[Series] = [{} for _ in equation.outvars]
    for p in parts:
        arguments = []
        for i, o in enumerate(operands):
            if isinstance(o, Series):
                arguments.append(o[p] if p in o else np.zeros(o[()].shape, o[()].dtype))
            elif p == () or i in (fixed if fixed != "rest" else range(1, len(operands))):
                arguments.append(o)
            else:
                arguments.append(np.zeros(jnp.shape(o), jnp.result_type(o)))
        if p != () and name in ("add", "sub", "add_any") and len(dependent) == 1:
            # Adding a constant changes the value only.
            moved = arguments[dependent[0]]
            moved = -moved if name == "sub" and dependent[0] == 1 else moved
            results = [jnp.broadcast_to(moved, equation.outvars[0].aval.shape)]
        else:
            results = bind(*arguments)
        for out, result in zip(outputs, results):
            out[p] = result
    return outputs


def product(multiply: Callable, a, b, partials: Iterable[Partial]) -> Series:
    """Leibniz' rule for any operation that is linear in each of two operands."""
    if not isinstance(b, Series):
        return {p: multiply(v, b) for p, v in a.items()}
    if not isinstance(a, Series):
        return {p: multiply(a, v) for p, v in b.items()}
    out = {}
    for p in partials:
        terms = [
            (count, multiply(a[left], b[right])) for (left, right), count in _splits(p) if left in a and right in b
        ]
        if terms:
            out[p] = _weighted_sum(terms)
    return out


def _compose(tower, z: Series, partials) -> Series:
    """Faa di Bruno's formula for a function of one variable applied elementwise."""
    order = max(_degree(p)[0] for p in partials)
    f = tower(z[()], order)
    out = {(): f[0]}
    for p in partials[1:]:
        terms = []
        for blocks, count in _set_partitions(p):
            if all(block in z for block in blocks):
                term = f[len(blocks)]
                for block in blocks:
                    term = term * z[block]
                terms.append((count, term))
        if terms:
            out[p] = _weighted_sum(terms)
    return out


def _weighted_sum(terms):
    parts = [value if count == 1 else count * value for count, value in terms]
    return functools.reduce(lambda a, b: a + b, parts)


@functools.cache
def _splits(partial: Partial) -> tuple:
    """All ways to share a derivative between two factors, with multiplicity."""
    if isinstance(partial, Laplacian):
        inner = [(((a,), (a,)), 2) for a in partial]
        return (((partial, ()), 1), (((), partial), 1), *inner)
    places = range(len(partial))
    count = Counter()
    for size in range(len(partial) + 1):
        for chosen in itertools.combinations(places, size):
            left = tuple(partial[i] for i in chosen)
            right = tuple(partial[i] for i in places if i not in chosen)
            count[left, right] += 1
    return tuple(count.items())


@functools.cache
def _set_partitions(partial: Partial) -> tuple:
    """The terms of Faa di Bruno's formula: how the factors of a derivative group, with multiplicity."""
    if isinstance(partial, Laplacian):
        return (((partial,), 1), *((((a,), (a,)), 1) for a in partial))
    count = Counter()

    def place(index, blocks):
        if index == len(partial):
            count[tuple(sorted(blocks))] += 1
            return
        place(index + 1, [*blocks, (partial[index],)])
        for i, block in enumerate(blocks):
            place(index + 1, [*blocks[:i], (*block, partial[index]), *blocks[i + 1 :]])

    place(0, [])
    return tuple(count.items())


def _tower(name, params, primitive):
    """`z, order -> [f(z), f'(z), ..., f^(order)(z)]`."""
    if name in _TOWERS:
        return _TOWERS[name]
    return functools.partial(_differentiate, lambda z: primitive.bind(z, **params))


def _differentiate(function, z, order: int) -> list:
    towers = [function]
    for _ in range(order):
        towers.append(lambda z, f=towers[-1]: jax.jvp(f, (z,), (jnp.ones_like(z),))[1])
    return [f(z) for f in towers]


def _tanh_tower(z, order: int) -> list:
    # With y = tanh(z), y' = 1 - y**2: each derivative is a polynomial in y.
    y = jnp.tanh(z)
    out, polynomial = [y], np.polynomial.Polynomial([0.0, 1.0])
    for _ in range(order):
        polynomial = polynomial.deriv() * np.polynomial.Polynomial([1.0, 0.0, -1.0])
        out.append(_horner(polynomial.coef, y))
    return out


def _horner(coefficients, y):
    # tanh alternates between even and odd polynomials: work in y**2.
    parity = (len(coefficients) - 1) % 2
    square = y * y
    highest, *others = reversed(coefficients[parity::2])
    result = jnp.full_like(y, highest)
    for c in others:
        result = result * square + c
    return result * y if parity else result


def _sine_tower(shift: int):
    def tower(z, order):
        s, c = jnp.sin(z), jnp.cos(z)
        cycle = [s, c, -s, -c]
        return [cycle[(k + shift) % 4] for k in range(order + 1)]

    return tower


def _exp_tower(z, order: int) -> list:
    return [jnp.exp(z)] * (order + 1)


def _reciprocal(z: Series, partials) -> Series:
    return _compose(functools.partial(_differentiate, lambda v: 1 / v), z, partials)


def _divide(operands, params, partials):
    a, b = operands
    if not isinstance(b, Series):
        return {p: v / b for p, v in a.items()}
    return product(jnp.multiply, a, _reciprocal(b, partials), partials)


def _power(operands, params, partials):
    a, b = operands
    if not isinstance(b, Series):
        return _compose(functools.partial(_differentiate, lambda v: v**b), a, partials)
    log = functools.partial(_differentiate, jnp.log)
    exponent = product(jnp.multiply, b, _compose(log, a, partials) if isinstance(a, Series) else jnp.log(a), partials)
    return _compose(_exp_tower, exponent, partials)


def _arctangent(operands, params, partials):
    """The angle of (x, y), differentiated as d angle = (x dy - y dx) / (x^2 + y^2)."""
    y, x = (o if isinstance(o, Series) else {(): o} for o in operands)
    inner = tuple(dict.fromkeys(p for p in partials if not isinstance(p, Laplacian)))
    squares = _add(product(jnp.multiply, x, x, inner), product(jnp.multiply, y, y, inner))
    inverse = _reciprocal(squares, inner)
    out: Series = {(): jnp.arctan2(y[()], x[()])}
    for partial in partials[1:]:
        if isinstance(partial, Laplacian):
            out[partial] = _laplacian_of_angle(x, y, squares[()], partial)
            continue
        lower, axis = partial[:-1], partial[-1]
        needed = closure((lower,))
        dx, dy = (_along(z, axis, needed) for z in (x, y))
        turned = _add(product(jnp.multiply, x, dy, needed), product(lambda a, b: -a * b, y, dx, needed))
        found = product(jnp.multiply, turned, inverse, needed)
        if lower in found:
            out[partial] = found[lower]
    return out


def _along(z: Series, axis: int, partials) -> Series:
    """The series of the derivative of z along an axis."""
    later = {p: tuple(sorted((*p, axis))) for p in partials}
    return {p: z[q] for p, q in later.items() if q in z}


def _laplacian_of_angle(x: Series, y: Series, squared, axes: Laplacian):
    zero = jnp.zeros_like(x[()])
    part = (x[()] * y.get(axes, zero) - y[()] * x.get(axes, zero)) / squared
    for a in axes:
        dx, dy = x.get((a,), zero), y.get((a,), zero)
        part = part - 2 * (x[()] * dx + y[()] * dy) * (x[()] * dy - y[()] * dx) / squared**2
    return part


def _add(a: Series, b: Series) -> Series:
    return {p: a[p] + b[p] if p in a and p in b else a.get(p, b.get(p)) for p in dict.fromkeys([*a, *b])}


def _extremum(better):
    def rule(operands, params, partials):
        values = [o[()] if isinstance(o, Series) else o for o in operands]
        first = better(*values)
        series = [o if isinstance(o, Series) else {(): o} for o in operands]
        zero = jnp.zeros_like(values[0] + values[1])
        parts = dict.fromkeys([*series[0], *series[1]])
        return {p: jnp.where(first, series[0].get(p, zero), series[1].get(p, zero)) for p in parts}

    return rule


def _select(operands, params, partials):
    which, *cases = operands
    if isinstance(which, Series):
        raise NotImplementedError("no Taylor rule for a selection by a differentiated number")
    series = [o if isinstance(o, Series) else {(): o} for o in cases]
    zero = jnp.zeros_like(series[0][()])
    parts = dict.fromkeys(p for s in series for p in s)
    return {p: lax.select_n(which, *[s.get(p, zero) for s in series]) for p in parts}


def _absolute(operands, params, partials):
    (z,) = operands
    return {p: jnp.abs(v) if p == () else jnp.sign(z[()]) * v for p, v in z.items()}


_CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint"}
_TOWERS = {"tanh": _tanh_tower, "sin": _sine_tower(0), "cos": _sine_tower(1), "exp": _exp_tower}
_UNARY = set(
    "exp2 log log1p expm1 logistic sqrt rsqrt cbrt square integer_pow tan asin acos atan sinh cosh asinh "
    "acosh atanh erf erfc erf_inv lgamma digamma bessel_i0e bessel_i1e".split()
)
_LINEAR = set(
    "add sub add_any neg reshape broadcast_in_dim squeeze expand_dims transpose rev slice stack concatenate pad "
    "convert_element_type copy copy_p reduce_sum cumsum split dynamic_slice gather real imag "
    "reduce_precision optimization_barrier".split()
)
_BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
# Piecewise constant: the derivative is zero and the result a constant.
_STEPS = set("sign floor ceil round eq ne lt le gt ge stop_gradient is_finite and or not".split())
# Operands that are indices, sizes or padding values rather than summands.
_FIXED = {"dynamic_slice": "rest", "gather": (1,), "reshape": "rest", "broadcast_in_dim": "rest"}
_SPECIAL = {
    "div": _divide,
    "atan2": _arctangent,
    "pow": _power,
    "max": _extremum(lambda a, b: a >= b),
    "min": _extremum(lambda a, b: a <= b),
    "select_n": _select,
    "abs": _absolute,
}
