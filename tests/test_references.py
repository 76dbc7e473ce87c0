"""The references of the problems: exact ones satisfy equations and conditions, numerical ones converge as stated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import sciml
from sciml._problem import load_module
from sciml.pde import grid_residuals

EXACT = (
    "convection",
    "reaction",
    "sine_gordon",
    "schrodinger",
    "kovasznay",
    "taylor_green",
    "beltrami",
    "poisson_5d",
    "heat_5d",
    "heat_family",
    "l_shape",
)


def load(name):
    return load_module(sciml.problems()[name])


def distance(found, true, fields=("u",)):
    """The relative L2 distance of two data sets on one grid, or of one on some points of the other's."""
    step = {d: true.sizes[d] // found.sizes[d] for d in found.sizes}
    true = true.isel({d: slice(None, None, s) for d, s in step.items() if s > 1})
    error = sum(float(((found[f] - true[f].values) ** 2).sum()) for f in fields)
    return np.sqrt(error / sum(float((true[f] ** 2).sum()) for f in fields))


@pytest.mark.parametrize("name", EXACT)
def test_exact_references_satisfy_equations_and_conditions(name, monkeypatch):
    """By automatic differentiation of the reference itself, with JAX in place of NumPy."""
    module = load(name)
    monkeypatch.setattr(module, "np", jnp)
    with sciml.double_precision():
        pde = module.problem()
        batch = sciml.Groups({label: pde.draw(g, 50, jax.random.key(1)) for label, g in pde.groups.items()})

        @jax.jit
        def residuals(change):
            def exact(point):
                values = pde.reference(**dict(zip(pde.axes, point)))
                values = values if isinstance(values, dict) else {pde.fields[0]: values}
                return jnp.stack([values[f] for f in pde.fields]) + change * jnp.sin(3 * jnp.sum(point))

            return {term: jnp.abs(r).max() for term, r in pde.residuals(exact, batch).items()}

        assert max(map(float, residuals(0.0).values())) < 1e-12
        assert min(map(float, residuals(1e-3).values())) > 1e-6


@pytest.mark.parametrize("name", ["schrodinger", "l_shape"])
def test_exact_references_take_arrays(name):
    """As `Solution.compare` calls them, on a grid; no values are missing, not even at corners."""
    pde = sciml.problem(name)
    mesh = np.meshgrid(*[np.linspace(*pde.domain.bounds[a], 5) for a in pde.axes], indexing="ij")
    values = pde.reference(**dict(zip(pde.axes, mesh)))
    for field in values.values() if isinstance(values, dict) else [values]:
        assert field.shape == mesh[0].shape and np.isfinite(field).all()


def test_the_singular_corner():
    """Zero on both walls, of degree 2/3 in the distance from the corner, and one on the bisector at distance 1."""
    u = sciml.problem("l_shape").reference
    s = np.linspace(0, 1, 11)
    np.testing.assert_allclose([u(x=s, y=0 * s), u(x=s, y=-0 * s), u(x=0 * s, y=-s)], 0, atol=1e-15)
    half = np.sqrt(0.5)
    np.testing.assert_allclose([u(x=-half, y=half), u(x=-8 * half, y=8 * half)], [1, 4], rtol=1e-14)


def test_the_loaded_corner():
    """The solution for a unit load: on the boundary as near to zero as the card states, and -1 its Laplacian inside."""
    with_load, without = (sciml.problem("l_shape", load=load).reference for load in (1.0, 0.0))

    def loaded(x, y):
        return with_load(x=x, y=y) - without(x=x, y=y)

    s = np.linspace(0, 1, 2001)
    walls = [(1, s), (1 - 2 * s, 1), (-1, 1 - 2 * s), (s - 1, -1), (0, -s), (s, 0)]
    assert max(abs(loaded(*np.broadcast_arrays(x, y))).max() for x, y in walls) < 5e-5
    x, y = np.random.default_rng(0).uniform(-0.9, -0.1, (2, 50))
    h = 1e-3
    around = loaded(x + h, y) + loaded(x - h, y) + loaded(x, y + h) + loaded(x, y - h)
    np.testing.assert_allclose((around - 4 * loaded(x, y)) / h**2, -1, atol=2e-5)


# References by Fourier series: other arguments of `fourier`, its modes, and the errors that the cards state for twice
# the modes and half the time step.
FOURIER = {
    "reaction_diffusion": ((5.0, 5.0), 512, 2e-8, 1e-11),
    "allen_cahn": ((1e-4,), 4096, 2e-7, 2e-11),
    "kdv": ((0.022, 1.0), 512, 1e-12, 2e-10),
    "kuramoto_sivashinsky": ((100 / 16, 100 / 16**2, 100 / 16**4, 1.0), 512, 1e-11, 2e-7),
}


@pytest.fixture(scope="module")
def solved():
    """Each problem's module, PDE and reference."""
    found = {}
    for name in FOURIER:
        module = load(name)
        pde = module.problem()
        found[name] = module, pde, pde.reference
    return found


@pytest.mark.parametrize("name", FOURIER)
def test_fourier_references_converge(name, solved):
    module, _, reference = solved[name]
    arguments, modes, in_space, in_time = FOURIER[name]
    step = 5e-4 if name in ("reaction_diffusion", "allen_cahn") else 5e-5
    assert distance(reference, module.fourier(*arguments, 2 * modes)) < in_space
    assert distance(module.fourier(*arguments, modes, step=step), reference) < in_time


@pytest.mark.parametrize(
    ("name", "window", "tolerance"),
    [
        ("reaction_diffusion", (0.2, 0.3), 1e-10),
        ("allen_cahn", (0.6, 0.7), 1e-10),
        ("kdv", (0.4, 0.5), 1e-8),
        ("kuramoto_sivashinsky", (0.4, 0.5), 2e-7),
    ],
)
def test_fourier_references_satisfy_their_equations(name, window, tolerance, solved):
    """By the functions of the PDE, with derivatives that are spectral in space and of high order in time."""
    module, pde, _ = solved[name]
    arguments, modes, *_ = FOURIER[name]
    fine = module.fourier(*arguments, min(modes, 512), frames=4000).sel(t=slice(*window))
    both = xr.concat([fine, 1.001 * fine], "sample")
    residual = grid_residuals(pde, both.isel(t=slice(0, 100)), order=8)[name]
    right, wrong = np.sqrt((residual**2).mean(("t", "x"))).values * residual.attrs["relative"] / residual.attrs["rms"]
    assert right < tolerance and wrong > 1e-5


@pytest.mark.parametrize("name", FOURIER)
def test_fourier_references_begin_with_the_declared_values(name, solved):
    _, pde, reference = solved[name]
    (term,) = pde.groups["u on t=0"].terms
    start = {"u": reference["u"].values[0], "x": reference["x"].values}
    with sciml.double_precision():
        np.testing.assert_allclose(term.function(**{n: start[n] for n in term.meanings}), 0, atol=1e-13)
    assert reference["t"].values[-1] == pde.domain.bounds["t"][1]


def test_chaos_grows_as_stated(solved):
    """A perturbation of the initial values of Kuramoto-Sivashinsky is some four hundred times as large at t = 1."""
    module, _, reference = solved["kuramoto_sivashinsky"]
    arguments, modes, *_ = FOURIER["kuramoto_sivashinsky"]
    moved = module.fourier(*arguments, modes, start=lambda x: module.initial(x) + 1e-8 * jnp.cos(3 * x))
    growth = [distance(moved.isel(t=[i]), reference.isel(t=[i])) for i in (0, -1)]
    assert 200 < growth[1] / growth[0] < 800


def test_periodic_schroedinger_is_the_breather_on_a_long_line_and_keeps_its_mass():
    module = load("schrodinger")
    line = module.fourier(20.0, modes=1024, step=5e-4)
    exact = line.copy(data=module.breather(line.t.values[:, None], line.x.values, np))
    assert distance(line, exact, ("u", "v")) < 1e-8
    periodic, coarse = module.fourier(5.0), module.fourier(5.0, modes=1024, step=2e-4)
    assert 3e-7 < distance(coarse, periodic, ("u", "v")) < 3e-6
    mass = (periodic**2).sum("x").to_array().sum("variable")
    np.testing.assert_allclose(mass, mass[0], rtol=1e-4)
    from_line = periodic.copy(data=module.breather(periodic.t.values[:, None], periodic.x.values, np))
    assert 5e-3 < distance(periodic, from_line, ("u", "v")) < 1e-2


def test_lid_driven_converges_and_satisfies_its_equations():
    """By differences of sixth order away from the upper corners, where p is singular."""
    module = load("lid_driven")
    pde = module.problem()
    names = ("u", "v", "p")
    errors = [distance(module.finite_elements(100.0, cells), pde.reference, names) for cells in (3, 5)]
    assert errors[1] < 7e-4 and errors[1] < 0.4 * errors[0]
    away = pde.reference.isel(y=slice(0, 48))
    residuals = grid_residuals(pde, away)
    for name in ("momentum_x", "momentum_y", "continuity"):
        inner = residuals[name].isel(x=slice(4, -4), y=slice(4, -4))
        size = residuals[name].attrs["rms"] / residuals[name].attrs["relative"]
        assert float(np.sqrt((inner**2).mean())) < 5e-3 * size
    # As much fluid goes up as down, and to the left as to the right.
    assert abs(pde.reference["u"].mean("y")).max() < 2e-3 and abs(pde.reference["v"].mean("x")).max() < 2e-3


def at_common_nodes(one, two):
    """The values of both at the nodes that both meshes have, and how many those are."""
    tables = [
        dict(zip(zip(d.x.values.round(9), d.y.values.round(9)), np.moveaxis(d.u.values, -1, 0))) for d in (one, two)
    ]
    common = sorted(set(tables[0]) & set(tables[1]))
    return *(np.array([table[node] for node in common]) for table in tables), len(common)


@pytest.mark.parametrize(
    "name, numbers, fine, coarser, limit",
    [
        ("poisson_boltzmann", (8.0, 10.0, 1.0, 4.0), (0.04, 36), ((0.16, 9), (0.08, 18)), 1e-4),
        ("poisson_holes", (0.0, 1.0), (0.01, 72), ((0.04, 18), (0.02, 36)), 1e-6),
    ],
)
def test_elements_on_triangles_around_discs_converge(name, numbers, fine, coarser, limit):
    """As the cards say. Lattices of half the size have the nodes of the coarser ones."""
    module = load(name)
    best = module.finite_elements(*numbers, *fine)
    errors = []
    for size, around in coarser:
        found, true, count = at_common_nodes(module.finite_elements(*numbers, size, around), best)
        assert count > 30
        errors.append(np.linalg.norm(found - true) / np.linalg.norm(true))
    assert errors[1] < limit and errors[0] / errors[1] > 8


def test_heat_holes_converges():
    module = load("heat_holes")
    true = module.finite_elements(5.0, 1.0, 0.1, 0.8)
    coarse = module.finite_elements(5.0, 1.0, 0.1, 1.6, around=8, nodes=12)
    found, true, count = at_common_nodes(coarse, true)
    assert count > 30 and np.linalg.norm(found - true) < 1e-2 * np.linalg.norm(true)
    # A mode that decays at any rate, from the transform of 1 - exp(-rate t).
    t = np.linspace(0.15, 3, 20)
    z, weights = module.hyperbola(0.15, 3.0, 24)
    for rate in (0.01, 1.0, 100.0):
        inverse = np.imag(np.exp(z * t[:, None]) @ (weights * rate / (z * (z + rate))))
        np.testing.assert_allclose(inverse, 1 - np.exp(-rate * t), atol=1e-8)


def test_backward_step_converges_and_satisfies_its_equations():
    """By differences of sixth order away from the corner."""
    module = load("backward_step")
    pde = module.problem()
    room = pde.reference.isel(x=slice(60, None))
    errors = [distance(module.finite_elements(0.01, n, 4).isel(x=slice(60, None)), room, "uvp") for n in (2, 4)]
    assert errors[1] < 1e-3 and errors[1] < 0.5 * errors[0]
    residuals = grid_residuals(pde, room)
    for name in ("momentum_x", "momentum_y", "continuity"):
        inner = residuals[name].isel(x=slice(4, -4), y=slice(4, -4))
        size = residuals[name].attrs["rms"] / residuals[name].attrs["relative"]
        assert float(np.sqrt((inner**2).mean())) < 5e-3 * size
    # The same flow through all sections, up to the error of sums of 24 values per unit of length.
    np.testing.assert_allclose(pde.reference["u"].sum("y") / 24, 2 / 3, atol=2e-3)
    np.testing.assert_allclose(pde.reference["p"][-1], 0, atol=5e-3)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        sciml.problem("sine_gordon", w=1.0)
