"""A problem in a textbook's notation: equations and conditions on a domain, and what they ask of a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._loss import Groups
from .._precision import double_precision
from ..nn import Ensemble
from ..nn._unknown import Unknown
from . import _checks
from ._condition import Condition, Derived, Jump, Observations, Periodic, Value
from ._constraint import ConstrainedFields, Constraint, constrain, exact_values, make_constraints
from ._corners import contradictions
from ._domain import Domain
from ._integral import Integral, check_integral, field_names, integrated
from ._names import INTERIOR, Coordinate, Meaning, Normal, Parameter, Point, Vocabulary, arguments, find_fields, listed
from ._quantities import demands, field_partials, read
from ._stochastic import Directed, derivatives_along
from ._subdomains import PART, Subdomains, by_part, parts_of


@dataclass(frozen=True)
class Term:
    """One named residual: a function of named numbers that should be zero."""

    name: str
    function: Callable
    meanings: Mapping[str, Meaning]


@dataclass(frozen=True)
class Group:
    """The terms of one region, whose points they share."""

    label: str
    region: Any  # a Region, or Observations
    terms: tuple[Term, ...]
    source: Any = None  # the declared condition, for those that can hold by construction

    @property
    def needs_normal(self) -> bool:
        """Whether a term asks for a derivative along the outward normal, or for the two sides of an interface."""
        return isinstance(self.source, Jump) or any(
            isinstance(m, Normal) for t in self.terms for m in t.meanings.values()
        )


class PDE:
    """Equations and conditions on a domain.

    **Arguments:** `domain` is where the equations hold. Then, in any order, equations (functions whose
    argument names say what they need) and conditions (`value`, `flux`, `periodic`, `condition`, `observe`,
    `jump`, `derived`, `integral`). `reference` is a known solution for comparison: a function of named coordinates,
    or an xarray Dataset with the fields as variables and the axes as coordinates. `units` names units of axes and
    fields. Further keywords are parameters: a number, a function of coordinates (a coefficient field),
    `Unknown(initial)`, to be found from observations, or on `Subdomains` numbers or functions by part.

    An equation's arguments: fields `u`; derivatives `u_t`, `u_xx`, `u_xy`, `u_theta_theta`, `laplacian_u` (over
    all axes but `t`); on a boundary the derivative along the outward normal, `u_n`; coordinates, or all of them as
    the array `point`, in the order of the axes; parameters; derived quantities and their derivatives; integrals by
    name.

    Raises ValueError where a name is unknown, a derivative runs along an axis that does not exist, conditions
    contradict one another or an equation does not return one number per point; TypeError for other objects.
    Warns where the conditions do not determine the solution.
    """

    def __init__(
        self,
        domain: Domain,
        *items: Any,
        reference: Any = None,
        units: Mapping[str, str] | None = None,
        **parameters: Any,
    ):
        _checks.check_arguments(domain, items, parameters)
        self.domain = domain
        self.axes: tuple[str, ...] = tuple(domain.axes)
        self.reference = reference
        self.units = dict(units or {})
        kinds = (Value, Condition, Jump, Periodic, Observations, Derived, Integral)
        parameters = {k: by_part(domain, k, v) if isinstance(v, Mapping) else v for k, v in parameters.items()}
        self.equations = {}
        for equation in (i for i in items if not isinstance(i, kinds)):
            self.equations[_unique(_equation_name(equation, len(self.equations)), self.equations)] = equation
        self.conditions = tuple(i for i in items if isinstance(i, kinds[:5]))
        self.integrals = {i.name: i for i in items if isinstance(i, Integral)}
        # A network for each part of the domain.
        self.parts = parts_of(domain)
        self.numbers = {k: v for k, v in parameters.items() if not callable(v)}
        self.derived = {k: v for k, v in parameters.items() if callable(v)}
        for item in items:
            if isinstance(item, Derived):
                self.derived |= item.functions
        self.unknowns = {k: v for k, v in self.numbers.items() if isinstance(v, Unknown)}
        self.fields = self._find_fields()
        names = (*self.fields, *self.derived)
        self.vocabulary = Vocabulary(self.axes, self._given, names)
        self.derived_meanings = {
            name: self._meanings(function, f"derived quantity '{name}'") for name, function in self.derived.items()
        }
        _checks.check_cycles(self.derived_meanings)
        self.integral_meanings = {name: self._integrand_meanings(i) for name, i in self.integrals.items()}
        self.groups = {group.label: group for group in self._make_groups()}
        self._check_shapes()
        with double_precision():
            _checks.check_conditions(self)
            # The conditions that hold by construction in `model`, and for each field what that means.
            self.exact: tuple[Value, ...] = exact_values(self)
            self.constraints: tuple[Constraint, ...] = make_constraints(self)
            # No smooth function satisfies what contradicts itself: near such corners conditions are penalties.
            self.rough_corners = contradictions(self)
            if len(self.rough_corners):
                self.exact = tuple(v for v in self.exact if v.exact)
                self.constraints = make_constraints(self)

    def __repr__(self) -> str:
        terms = ", ".join(term.name for group in self.groups.values() for term in group.terms)
        return f"PDE(fields={', '.join(self.fields)}; axes={listed(self.axes)}; terms={terms})"

    @property
    def configuration(self) -> dict[str, Any]:
        """What tells this problem from another one, for checkpoints: equations, parameters, domain, conditions."""
        return {
            "domain": repr(self.domain),
            "equations": self.equations,
            "numbers": self.numbers,
            "derived": self.derived,
            "integrals": {n: i.integrand for n, i in self.integrals.items()},
            "conditions": {g.label: {t.name: t.function for t in g.terms} for g in self.groups.values() if g.source},
        }

    # What a network for this problem looks like.

    @property
    def in_size(self) -> int:
        """The inputs of a network: one per axis, two (sine and cosine) per periodic axis."""
        return len(self.axes) + len(self.periodic_axes)

    @property
    def out_size(self) -> int:
        """The outputs of a network: one per field, on subdomains those of the first part before those of the next."""
        return len(self.fields) * self.parts

    @cached_property
    def periodic_axes(self) -> tuple[str, ...]:
        """The axes along which the fields repeat."""
        return tuple(a for c in self.conditions if isinstance(c, Periodic) for a in c.axes)

    def data_arguments(self, data: Callable, target: str) -> tuple[str, ...]:
        """The coordinates and parameters that the data of a declared value take."""
        return arguments(data, f"value of '{target}'")

    def model(self, network: Callable) -> Any:
        """The fields as a function of one point `(d,)` -> `(number of fields,)`: `network` with its inputs
        scaled to [-1, 1] and the exact conditions applied, beside the unknown parameters.

        `network` maps `(in_size,)` to `(out_size,)` (or to a scalar where there is one field). On subdomains the fields
        at a point are those of the part that it lies in. Of an ensemble of networks it is the ensemble of their fields,
        where each has unknown parameters of its own.
        """
        _checks.check_network(self, network)
        if isinstance(network, Ensemble):
            return network.changed(lambda member: constrain(self, member))
        return constrain(self, network)

    # The loss and its points.

    def residuals(self, model: Callable, batch: Groups) -> dict[str, Float[Array, " n"]]:
        """The residual of every term of the groups in `batch`, at their points. This is a loss for `fit`."""
        out: dict[str, Array] = {}
        for label, points in batch.items():
            out |= self.group_residuals(self.groups[label], model, points)
        return out

    @property
    def trained_groups(self) -> tuple[Group, ...]:
        """The groups that training has to satisfy: all but the conditions that hold by construction."""
        return tuple(g for g in self.groups.values() if not any(g.source is c for c in self.exact))

    def points(self, n: int = 2048, boundary: int | None = None) -> Callable:
        """A stream `key -> batch` of points drawn uniformly: `n` in the interior and `boundary` (by default
        n // 8, at least 64) on each region that has a condition to be trained; observations are used whole.
        """
        counts = self.point_counts(n, boundary)

        def draw(key) -> Groups:
            return Groups(
                {
                    group.label: self.draw(group, counts[group.label], jax.random.fold_in(key, i))
                    for i, group in enumerate(self.trained_groups)
                }
            )

        return draw

    def point_counts(self, n: int, boundary: int | None = None) -> dict[str, int]:
        """How many points each trained group gets."""
        edge = boundary if boundary is not None else max(64, n // 8)
        return {g.label: n if g.label == INTERIOR else edge for g in self.trained_groups}

    def draw(self, group: Group, n: int, key: Array, even: bool = False) -> Any:
        """`n` random points of a group (`even`: of a Sobol sequence); observations and single points are all taken."""
        region = group.region
        if isinstance(region, Observations):
            return {
                "points": jnp.stack([jnp.asarray(region.coordinates[a]) for a in self.axes], axis=1),
                "values": jnp.stack([jnp.asarray(v) for v in region.values.values()], axis=1),
            }
        if region.dim == 0:
            return jnp.asarray(region.grid(1))
        return region.sobol(n, key) if even else region.sample(key, n)

    def parameters(self, model: Any) -> dict[str, Array | float]:
        """The value of every parameter; unknown ones come from the model, and are means over members of ensembles."""
        if isinstance(model, Ensemble):
            found = model.each(lambda member: {name: member.unknown[name]() for name in self.unknowns})
            return self.numbers | {name: jnp.mean(values) for name, values in found.items()}
        return {
            name: model.unknown[name]() if name in self.unknowns else number for name, number in self.numbers.items()
        }

    def group_residuals(self, group: Group, model, points) -> dict[str, Array]:
        """The residual of every term of a group, at its points."""
        region, directions = group.region, None
        if isinstance(points, Directed):
            points, directions = points.points, points.directions
        if isinstance(region, Observations):
            points, measured = points["points"], points["values"]
        else:
            measured = jnp.zeros((points.shape[0], 0), points.dtype)
        normals = group.region.normal(points) if group.needs_normal else jnp.zeros_like(points)

        def one(point, normal, measurement, directions):
            meanings = {n: m for term in group.terms for n, m in term.meanings.items()}
            if isinstance(group.source, Jump):
                domain: Any = self.domain
                parts = jax.vmap(domain.part_at)(domain.sides(point, normal))
                before, behind = (self.evaluate(meanings, model, point, normal, directions, part) for part in parts)
                return {term.name: term.function(before, behind) for term in group.terms}
            values = self.evaluate(meanings, model, point, normal, directions)
            extra = {"measured": measurement}
            return {
                term.name: term.function(**{n: (values | extra)[n] for n in _argument_names(term, measured)})
                for term in group.terms
            }

        return jax.vmap(one)(points, normals, measured, directions)

    def evaluate(
        self,
        meanings: Mapping[str, Meaning],
        model: Callable,
        point: Float[Array, " d"],
        normal: Any = None,
        directions: Any = None,
        part: Any = None,
    ) -> dict[str, Array | float]:
        """The number that each name stands for at one point, all derivatives in one sweep; Laplacians as the sum of
        second derivatives along `directions`, if given; on subdomains in the part with the number `part`, by default
        that of the point.
        """
        numbers = self.parameters(model)
        fields = model
        if self.parts > 1:
            domain: Any = self.domain
            part = domain.part_at(point) if part is None else part
            numbers[PART] = part
            # Functions that are no networks, such as known solutions, are what they are in each part.
            fields = model.in_part(part) if isinstance(model, ConstrainedFields) else model
        partials = field_partials(self, demands(self, meanings.values()))
        found = {}
        if partials:
            sweep = derivatives_along(lambda p: self._as_vector(fields(p)), point, partials, directions)
            found = {f: {p: v[i] for p, v in sweep.items()} for i, f in enumerate(self.fields)}
        for name in self.integrals_in(meanings):
            numbers[name] = self.integrated(name, model, point)
        return read(self, meanings, found, point, normal, numbers)

    def integrated(self, name: str, model: Callable, point: Float[Array, " d"]) -> Array:
        """An integral of the PDE at one point."""
        return integrated(self, self.integrals[name], self.integral_meanings[name], model, point)

    def integrals_in(self, meanings: Mapping[str, Meaning]) -> tuple[str, ...]:
        """The integrals that are asked for."""
        every = (m for ms in (meanings, *self.derived_meanings.values()) for m in ms.values())
        asked = {m.name for m in every if isinstance(m, Parameter)}
        return tuple(n for n in self.integrals if n in asked)

    def _as_vector(self, output) -> Float[Array, " m"]:
        output = jnp.ravel(output)
        if output.shape != (len(self.fields),):
            raise ValueError(
                f"the model returned {output.size} numbers at a point, expected {len(self.fields)}: one for each "
                f"of the fields {', '.join(self.fields)}"
            )
        return output

    # Reading the problem, once.

    def _find_fields(self) -> tuple[str, ...]:
        names: list[str] = []
        declared: list[str] = []
        for name, equation in self.equations.items():
            names += arguments(equation, f"equation '{name}'")
        for name, function in self.derived.items():
            names += arguments(function, f"'{name}'")
        for item in self.conditions:
            if isinstance(item, Value):
                names += item.targets
                declared += [t for t in item.targets if "_" not in t]
            elif isinstance(item, Condition):
                names += arguments(item.equation, f"condition '{item.name}'")
            elif isinstance(item, Jump):
                names += arguments(item.quantity, f"'{item.name}'")
            elif isinstance(item, Observations):
                declared += item.values
        for item in self.integrals.values():
            check_integral(self, item)
            names += field_names(item)
            # An equation may ask for nothing but the field and its integral.
            declared += [n for n in field_names(item) if "_" not in n]
        fields = find_fields(names, declared, self.axes, (*self._given, *self.derived))
        if not fields:
            raise ValueError(
                "no field found: an equation must ask for a derivative, as in `def poisson(u_xx, u_yy)`, along "
                f"the axes of the domain: {', '.join(self.axes)}"
            )
        return fields

    @property
    def _given(self) -> tuple[str, ...]:
        """What equations may ask for that is neither a coordinate nor a field nor derived from them."""
        return (*self.numbers, *self.integrals, *((PART,) if self.parts > 1 else ()))

    def _integrand_meanings(self, wanted: Integral) -> dict[str, Meaning]:
        where = f"integral '{wanted.name}'"
        meanings = {n: self.vocabulary.meaning(n, where) for n in field_names(wanted)}
        nested = [n for n in meanings if n in self.integrals]
        if nested:
            raise ValueError(f"{where} depends on the integral '{nested[0]}'; write one integral over both variables")
        return {n: m for n, m in meanings.items() if not isinstance(m, Coordinate)}

    def _meanings(self, function, where, skip=()) -> dict[str, Meaning]:
        names = [n for n in arguments(function, where) if n not in skip]
        return {name: self.vocabulary.meaning(name, where) for name in names}

    def _make_groups(self):
        terms = tuple(Term(name, f, self._meanings(f, f"equation '{name}'")) for name, f in self.equations.items())
        _checks.refuse_normals(terms)
        yield Group(INTERIOR, self.domain, terms)
        places: dict[str, None] = {INTERIOR: None}
        for item in self.conditions:
            if isinstance(item, Periodic):
                continue
            region: Any = item if isinstance(item, Observations) else item.on
            place = _unique(region.label if isinstance(item, Value) else item.name, places)
            places[place] = None
            label = f"{', '.join(item.targets)} on {place}" if isinstance(item, Value) else place
            yield Group(label, region, tuple(self._condition_terms(item, place)), item)

    def _condition_terms(self, item, place):
        if isinstance(item, Jump):
            if not isinstance(self.domain, Subdomains):
                raise ValueError(f"'{place}': nothing jumps inside one domain; make the domain of Subdomains")
            yield self._jump_term(item, place)
        elif isinstance(item, Condition):
            yield Term(place, item.equation, self._meanings(item.equation, f"condition '{place}'"))
        elif isinstance(item, Value):
            for target, data in item.targets.items():
                yield self._value_term(target, data, place)
        else:
            for i, field in enumerate(item.values):
                meaning = self.vocabulary.meaning(field, f"observations '{place}'")
                yield Term(f"{field} {place}", _Misfit(field, i, item.weight), {field: meaning})

    def _value_term(self, target, data, place: str) -> Term:
        where = f"value of '{target}' on {place}"
        meanings = {target: self.vocabulary.meaning(target, where)}
        if callable(data):
            meanings |= _checks.only_known(self._meanings(data, where), where)
        return Term(f"{target} on {place}", _Difference(target, data), meanings)

    def _jump_term(self, item: Jump, place: str) -> Term:
        where = f"'{place}'"
        meanings, gain = self._meanings(item.quantity, where), {}
        if callable(item.gain):
            gain = _checks.only_known(self._meanings(item.gain, where), where)
        return Term(place, _Gain(item.quantity, tuple(meanings), item.gain, tuple(gain)), meanings | gain)

    def _check_shapes(self) -> None:
        number, whole = (jax.ShapeDtypeStruct(s, jnp.result_type(float)) for s in ((), (len(self.axes),)))
        for group in self.groups.values():
            for term in group.terms:
                if isinstance(term.function, _Misfit):
                    continue
                shapes = {n: whole if isinstance(m, Point) else number for n, m in term.meanings.items()}
                if isinstance(term.function, _Gain):
                    own = {n: shapes[n] for n in term.function.names}
                    _checks.check_scalar(term.name, term.function.quantity, own)
                else:
                    _checks.check_scalar(term.name, term.function, shapes)
        for name, wanted in self.integrals.items():
            meanings = self.integral_meanings[name]
            own = {
                n: whole if isinstance(meanings.get(n), Point) else number for n in arguments(wanted.integrand, name)
            }
            _checks.check_scalar(f"integral '{name}'", wanted.integrand, own)


@dataclass(frozen=True)
class _Difference:
    """A declared value as a residual: the target minus the data."""

    target: str
    data: Any

    def __call__(self, **values):
        return values[self.target] - self.data_at(values)

    def data_at(self, values):
        if not callable(self.data):
            return self.data
        return self.data(**{n: values[n] for n in arguments(self.data, self.target)})


@dataclass(frozen=True)
class _Gain:
    """What a quantity gains from before an interface to behind it, minus what it should."""

    quantity: Callable
    names: tuple[str, ...]
    gain: Any
    gain_names: tuple[str, ...]

    def __call__(self, before, behind):
        first, second = (self.quantity(**{n: side[n] for n in self.names}) for side in (before, behind))
        gain = self.gain(**{n: before[n] for n in self.gain_names}) if callable(self.gain) else self.gain
        return second - first - gain


@dataclass(frozen=True)
class _Misfit:
    """Computed minus measured, weighted."""

    field: str
    column: int
    weight: float

    def __call__(self, measured, **values):
        return self.weight**0.5 * (values[self.field] - measured[self.column])


def _argument_names(term: Term, measured) -> tuple[str, ...]:
    return (*term.meanings, "measured") if measured.shape[1] else tuple(term.meanings)


def _equation_name(equation, index: int) -> str:
    name = getattr(equation, "__name__", "<lambda>")
    return f"equation {index + 1}" if name == "<lambda>" else name


def _unique(name: str, taken) -> str:
    candidate, i = name, 2
    while candidate in taken:
        candidate, i = f"{name} ({i})", i + 1
    return candidate
