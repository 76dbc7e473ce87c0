"""`solve`, `Solution` and the methods behind them, against exact solutions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import sciml
from sciml import (
    PDE,
    Ball,
    Box,
    Polygon,
    Solution,
    Unknown,
    adaptive,
    condition,
    observe,
    optim,
    periodic,
    solve,
    value,
)
from sciml.pde._linear import is_affine

LINE = Box(x=(0, 1))
ROD = Box(t=(0, 1), x=(0, 1))


def heat(**keywords):
    return PDE(
        ROD,
        lambda u_t, u_xx, a: u_t - a * u_xx,
        value(u=lambda x: jnp.sin(jnp.pi * x), on=ROD.at(t=0)),
        value(u=0.0, on=ROD.boundary("x")),
        reference=lambda t, x: np.exp(-0.3 * np.pi**2 * t) * np.sin(np.pi * x),
        **({"a": 0.3} | keywords),
    )


def logistic(reference=lambda t: 1 / (1 + 9 * np.exp(-t))):
    """u' = u (1 - u), a nonlinear problem with an exact solution."""
    time = Box(t=(0, 4))
    return PDE(
        time,
        lambda u, u_t: u_t - u * (1 - u),
        value(u=0.1, on=time.at(t=0)),
        reference=reference,
    )


@pytest.fixture(scope="module")
def solution():
    return solve(heat(units={"u": "K", "x": "m"}), budget=10.0, report=None)


def test_linear_problem_by_least_squares(solution):
    assert solution.chosen["method"].startswith("least squares")
    assert solution.error()["relative_l2"] < 1e-8


def test_nonlinear_problem_by_training():
    result = solve(logistic(), budget=None, steps=300, report=None)
    assert result.chosen["method"] == "training"
    assert result.error()["relative_l2"] < 1e-6
    assert list(result.history.data_vars) == ["equation 1", "loss"]


def test_same_key_same_bits():
    one, two, other = (solve(logistic(), budget=None, steps=20, key=jax.random.key(k), report=None) for k in (3, 3, 4))
    t = np.linspace(0, 4, 7)
    assert (one(t=t) == two(t=t)).all() and not (one(t=t) == other(t=t)).all()


@pytest.mark.parametrize(
    ("optimiser", "tolerance"),
    [(optim.gauss_newton(), 1e-5), (optim.self_scaled_bfgs(), 1e-3), (optax.lbfgs(), 2e-2), (optax.adam(1e-2), 0.5)],
)
def test_optimiser_model_and_points_can_be_given(optimiser, tolerance):
    network = eqx.nn.MLP(1, 1, 10, 2, jnp.tanh, key=jax.random.key(0))
    pde = logistic()
    result = solve(pde, network, optimiser=optimiser, points=pde.points(64), budget=None, steps=60, report=None)
    assert result.error()["relative_l2"] < tolerance
    assert jax.tree.leaves(eqx.filter(result.model, eqx.is_array))[0].dtype == np.float64


def test_the_users_precision_is_left_alone():
    assert not jax.config.jax_enable_x64
    result = solve(logistic(), budget=None, steps=3, report=None)
    assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == np.float32
    assert result(t=1.0).dtype == np.float64
    single = solve(logistic(), budget=None, steps=3, double=False, report=None)
    assert jax.tree.leaves(eqx.filter(single.model, eqx.is_array))[0].dtype == np.float32


def test_called_by_name_with_broadcasting(solution):
    t, x = np.linspace(0, 1, 3)[:, None], np.linspace(0, 1, 5)
    assert solution(t=t, x=x).shape == (3, 5)
    np.testing.assert_allclose(solution(t=0.2, x=0.5), np.exp(-0.06 * np.pi**2), rtol=1e-7)
    with pytest.raises(ValueError, match="missing: x; unknown: y"):
        solution(t=0.0, y=0.0)


def test_grid_is_an_xarray_dataset(solution):
    dataset = solution.on(t=4, x=[0.25, 0.5])
    assert dataset["u"].dims == ("t", "x") and dataset["u"].shape == (4, 2)
    assert dataset["u"].attrs["units"] == "K" and dataset["x"].attrs["units"] == "m"
    assert set(solution.compare(9)) == {"u", "u_reference", "u_error"}
    at = xr.Dataset(coords={"t": ("node", [0.1, 0.2]), "x": ("node", [0.3, 0.4])})
    np.testing.assert_allclose(solution.on(at)["u"], solution(t=[0.1, 0.2], x=[0.3, 0.4]))


def test_reference_as_a_dataset():
    t = np.linspace(0, 4, 9)
    exact = xr.Dataset({"u": ("t", 1 / (1 + 9 * np.exp(-t)))}, coords={"t": t})
    result = solve(logistic(exact), budget=None, steps=200, report=None)
    assert result.error()["relative_l2"] < 1e-4
    with pytest.raises(ValueError, match="no reference"):
        solve(logistic(None), budget=None, steps=1, report=None).error()


def test_netcdf_round_trip(solution, tmp_path):
    solution.compare(17).to_netcdf(tmp_path / "solution.nc")
    with xr.open_dataset(tmp_path / "solution.nc") as back:
        np.testing.assert_array_equal(back["u"], solution.on(17)["u"])
        assert back.attrs["Conventions"].startswith("CF")


def test_figure_is_drawn(solution, tmp_path):
    solution.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "figure.png").stat().st_size > 20_000


def test_reference_at_times_and_nodes(tmp_path):
    """Its error counts all nodes of the domain and no others, and its figure shows the time in the middle."""
    disc = Ball(x=0.0, y=0.0, radius=1.0)
    domain = Box(t=(0, 1)) * disc
    angle, t = 2 * np.pi * np.arange(12) / 12, np.linspace(0.2, 1, 5)
    nodes = {"x": ("node", np.r_[np.cos(angle), 2.0]), "y": ("node", np.r_[np.sin(angle), 2.0])}
    reference = xr.Dataset({"u": (("t", "node"), np.ones((5, 13)))}, coords={"t": t} | nodes)
    pde = PDE(domain, lambda u_t, u: u_t - u, value(u=0.0, on=domain.at(t=0)), reference=reference)
    result = solve(pde, budget=None, steps=1, points=16, report=None)
    found = result.compare()
    assert np.isfinite(found["u_error"][:, :12]).all() and np.isnan(found["u_error"][:, 12]).all()
    assert result.error()["max_error"] == pytest.approx(float(abs(found["u"] - 1).max()))
    panels = result.plot(tmp_path / "figure.png").axes
    assert [panel.get_title() for panel in panels[:3]] == [
        f"{name} at t = 0.6" for name in ("solution u", "reference of u", "error of u")
    ]
    assert all(len(panel.collections[0].get_offsets()) == 13 for panel in panels[:3])


def test_trained_solution_is_saved_and_loaded(tmp_path):
    result = solve(logistic(), budget=None, steps=20, report=None)
    result.save(tmp_path / "solution")
    back = Solution.load(tmp_path / "solution", logistic())
    t = np.linspace(0, 4, 5)
    assert (back(t=t) == result(t=t)).all()
    with pytest.raises(ValueError, match="does not match"):
        Solution.load(tmp_path / "solution", heat())


def test_least_squares_solution_is_saved_and_loaded(solution, tmp_path):
    solution.save(tmp_path / "solution")
    back = Solution.load(tmp_path / "solution", heat(), model=solution.model.network)
    assert back(t=0.3, x=0.4) == solution(t=0.3, x=0.4)


def test_points_outside_the_domain_are_missing():
    corner = Polygon([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)])
    pde = PDE(
        corner,
        lambda u_xx, u_yy: u_xx + u_yy,
        value(u=lambda x, y: x**2 - y**2, on=corner.boundary()),
        reference=lambda x, y: x**2 - y**2,
    )
    result = solve(pde, budget=15.0, report=None)
    assert result.error()["relative_l2"] < 1e-8
    grid = result.on(x=[0.5, 1.5], y=[0.5, 1.5])["u"]
    assert np.isnan(grid.values[1, 1]) and np.isfinite(grid.values[0, 0])


def test_affine_is_found_by_evaluation():
    with jax.enable_x64(True):
        assert is_affine(heat(), jax.random.key(0))
        assert not is_affine(logistic(), jax.random.key(0))
        robin = condition(lambda u, u_n: u_n + u**2, on=LINE.at(x=1))
        assert not is_affine(PDE(LINE, lambda u_xx: u_xx, value(u=0.0, on=LINE.at(x=0)), robin), jax.random.key(0))


def test_unknown_coefficient_is_found():
    random = np.random.default_rng(0)
    t, x = random.uniform(0, 1, (2, 200))
    u = np.exp(-0.3 * np.pi**2 * t) * np.sin(np.pi * x) + 0.001 * random.standard_normal(200)
    pde = PDE(
        ROD,
        lambda u_t, u_xx, a: u_t - a * u_xx,
        value(u=lambda x: jnp.sin(jnp.pi * x), on=ROD.at(t=0)),
        value(u=0.0, on=ROD.boundary("x")),
        observe({"t": t, "x": x}, u=u),
        a=Unknown(1.0),
    )
    result = solve(pde, points=adaptive(pde, 512, pool=1024), budget=None, steps=500, report=None)
    assert result.parameters["a"] == pytest.approx(0.3, rel=5e-3)


def test_system_of_two_fields():
    """Schroedinger's equation for a plane wave, as two real fields."""
    domain, k = Box(t=(0, 1), x=(0, 2)), np.pi

    def real(u_t, v_xx):
        return u_t + v_xx / 2

    def imaginary(v_t, u_xx):
        return v_t - u_xx / 2

    start = value(u=lambda x: jnp.cos(k * x), v=lambda x: jnp.sin(k * x), on=domain.at(t=0))
    pde = PDE(
        domain,
        real,
        imaginary,
        start,
        periodic("x"),
        reference=lambda t, x: {"u": np.cos(k * x - k**2 * t / 2), "v": np.sin(k * x - k**2 * t / 2)},
    )
    result = solve(pde, budget=20.0, report=None)
    error = result.error(33)
    assert max(error["relative_l2_u"], error["relative_l2_v"]) < 1e-6
    assert set(result(t=0.1, x=0.2)) == {"u", "v"}


def test_adaptive_points_follow_the_residual():
    with jax.enable_x64(True):
        pde = PDE(LINE, lambda u_x, x: u_x - 50 * jnp.exp(-(((x - 0.7) / 0.02) ** 2)), value(u=0.0, on=LINE.at(x=0)))
        model = pde.model(lambda s: jnp.zeros(1))
        stream = adaptive(pde, 400, every=5, pool=4000)
        batch = stream.init(jax.random.key(0), model)
        near = float(jnp.mean(jnp.abs(batch["interior"][:, 0] - 0.7) < 0.05))
        assert near > 0.3  # a tenth of the line
        same, fresh = stream.next(jax.random.key(1), jnp.array(4), model, batch)
        assert not fresh and (same["interior"] == batch["interior"]).all()
        new, fresh = stream.next(jax.random.key(1), jnp.array(5), model, batch)
        assert fresh and not (new["interior"] == batch["interior"]).all()
    with pytest.raises(ValueError, match="between 2 and pool"):
        adaptive(pde, 10, pool=5)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="expected a PDE|Expected type"):
        solve("burgers")
    with pytest.raises(ValueError, match="budget"):
        solve(logistic(), budget=None, report=None)
    with pytest.raises(TypeError, match="one input of shape"):
        solve(logistic(), eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0)), budget=1.0, report=None)


def test_weights_change_the_loss():
    pde = heat()
    free = PDE(
        ROD,
        lambda u_t, u_xx: u_t - 0.3 * u_xx,
        value(u=lambda x: jnp.sin(jnp.pi * x), on=ROD.at(t=0), exact=False),
        value(u=0.0, on=ROD.boundary("x")),
    )
    loss = sciml.weighted(free.residuals, {"u on t=0": 1e-6})
    light = solve(free, loss=loss, budget=None, steps=60, report=None)
    heavy = solve(free, budget=None, steps=60, report=None)
    x = np.linspace(0, 1, 33)
    gap = [np.abs(s(t=0.0, x=x) - np.sin(np.pi * x)).max() for s in (light, heavy)]
    assert gap[1] < gap[0]
    assert pde.exact


def test_checkpoint_of_another_problem_is_refused(tmp_path):
    arguments = {"steps": 3, "budget": None, "report": None, "checkpoint": tmp_path / "run"}
    solve(heat(), **arguments)
    solve(heat(), **arguments | {"steps": 5})
    with pytest.raises(ValueError, match="numbers.a"):
        solve(heat(a=0.4), **arguments)


@pytest.mark.parametrize("size", [1e5, 1e-6])
def test_fields_of_any_size_are_trained(size):
    """Temperatures in other units give the same solution, and its network is loaded again."""

    def made(size):
        return PDE(
            ROD,
            lambda u_t, u_xx: u_t - 0.1 * u_xx,
            value(u=lambda x: size * jnp.sin(jnp.pi * x), on=ROD.at(t=0), exact=False),
            value(u=0.0, on=ROD.boundary("x")),
            reference=lambda t, x: size * np.exp(-0.1 * np.pi**2 * t) * np.sin(np.pi * x),
        )

    found = solve(made(size), steps=300, budget=None, report=None)
    assert "units" in found.chosen["network"]
    assert found.error()["relative_l2"] < 1e-3


def test_without_time_to_train_least_squares_are_returned():
    """A shock that a trial leaves most of the residual of."""
    solution = solve(sciml.problem("burgers"), budget=1.0, report=None)
    assert solution.chosen["method"].startswith("least squares") and solution.chosen["residual"] > 1e-3
