"""Derivatives and residuals on grids, against functions whose derivatives are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import sciml
from sciml import PDE, Box, derived, flux, periodic, value
from sciml._check import check_command, find_equations
from sciml.pde._differences import grid_derivative
from sciml.pde._grid import assess_grid, grid_residuals
from sciml.pde._pde import INTERIOR


def points(kind: str, n: int):
    if kind == "periodic":
        return np.arange(n) / n
    x = np.linspace(0, 1, n)
    return {"uniform": x, "falling": x[::-1], "uneven": x + 0.02 * np.sin(2 * np.pi * x + 1)}[kind]


def wave(x, derivative=0):
    return np.sin(2 * np.pi * x + 0.3 + derivative * np.pi / 2)  # in units of (2 pi) ** derivative


@pytest.mark.parametrize("kind", ["uniform", "uneven", "falling", "periodic"])
@pytest.mark.parametrize("derivative, order", [(1, 1), (1, 2), (1, 6), (2, 2), (2, 4), (2, 6), (3, 2), (3, 6), (4, 4)])
def test_order_of_convergence(kind, derivative, order):
    errors = []
    with sciml.double_precision():
        for n in (32, 64):
            x = points(kind, n)
            options = {"periodic": 1.0, "spectral": False} if kind == "periodic" else {}
            got = grid_derivative(wave(x), x, derivative=derivative, order=order, **options)
            errors.append(np.abs(got / (2 * np.pi) ** derivative - wave(x, derivative)).max())
    assert np.log2(errors[0] / errors[1]) > order - 0.35 or errors[1] < 1e-8


@pytest.mark.parametrize("order", [1, 3, 6])
@pytest.mark.parametrize("derivative", [1, 3])
def test_polynomials_are_exact(order, derivative):
    x = np.sort(np.random.default_rng(0).uniform(-1, 1, 14))
    polynomial = np.polynomial.Polynomial(np.arange(1.0, order + derivative + 1))
    with sciml.double_precision():
        got = grid_derivative(polynomial(x), x, derivative=derivative, order=order)
    np.testing.assert_allclose(got, polynomial.deriv(derivative)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("derivative", [1, 2, 3])
def test_spectral_is_exact_with_and_without_closing_point(n, derivative):
    with sciml.double_precision():
        for x in (np.arange(n) / n, np.linspace(0, 1, n), np.linspace(1, 0, n)):
            got = grid_derivative(wave(x), x, derivative=derivative, periodic=1.0)
            np.testing.assert_allclose(got / (2 * np.pi) ** derivative, wave(x, derivative), atol=1e-9)


def test_derivative_is_compiled_and_differentiated():
    x = np.linspace(0, 1, 12)
    u = jnp.ones((2, 12, 3))
    f = jax.jit(lambda u: grid_derivative(u, x, axis=1, order=4))
    assert f(u).shape == u.shape
    tangent = jax.jvp(f, (u,), (u * x[:, None],))[1]
    np.testing.assert_allclose(tangent, np.ones_like(u), atol=1e-4)


@pytest.mark.parametrize(
    "x, options, message",
    [
        ([0.0], {}, "at least 2 points"),
        ([0.0, 1.0, 2.0], {"derivative": 3}, "at least 4 points"),
        ([0.0, 1.0, 1.0, 2.0], {}, "rise or fall"),
        ([0.0, np.nan, 1.0], {}, "finite"),
        ([0.0, 0.1, 0.3], {"spectral": True, "periodic": 0.6}, "equal steps"),
        ([0.0, 0.1, 0.2], {"periodic": 5.0}, "period 5"),
    ],
)
def test_bad_grids(x, options, message):
    with pytest.raises(ValueError, match=message):
        grid_derivative(np.zeros(len(x)), np.array(x), **options)


def heat(u_t, u_xx, k):
    return u_t - k * u_xx


K = 0.1


def heat_field(n_t=40, n_x=40, modes=1, k=K):
    t, x = np.linspace(0, 1, n_t), np.linspace(0, 1, n_x)
    decay = np.exp(-k * (modes * np.pi) ** 2 * t[:, None])
    return xr.Dataset({"u": (("t", "x"), decay * np.sin(modes * np.pi * x))}, coords={"t": t, "x": x})


def heat_pde(k=K):
    domain = Box(t=(0, 1), x=(0, 1))
    start = value(u=lambda x: jnp.sin(jnp.pi * x), on=domain.at(t=0))
    return PDE(domain, heat, start, value(u=0.0, on=domain.boundary("x")), k=k)


def test_solution_satisfies_and_wrong_data_do_not():
    pde = heat_pde()
    found = grid_residuals(pde, heat_field())
    assert {v.attrs["verdict"] for v in found.data_vars.values()} == {"yes"}
    assert found["heat"].attrs["relative"] < 1e-6
    assert set(found["u on t=0"].dims) == {"x"}
    assert grid_residuals(pde, heat_field(), k=2 * K)["heat"].attrs["verdict"] == "no"
    assert grid_residuals(pde, 2 * heat_field())["u on t=0"].attrs["verdict"] == "no"


def test_unresolved_data_are_undecided():
    assert grid_residuals(heat_pde(), heat_field(7, 9, modes=6))["heat"].attrs["verdict"] == "undecided"


def test_same_residual_as_the_pinn():
    domain = Box(t=(0, 1), x=(0, 1))

    def model(p):
        return jnp.exp(-p[0]) * jnp.sin(3 * p[1] + p[0])

    def equation(u, u_t, u_x, u_xx, u_tx, u_xxx, laplacian_u, x, nu):
        return u_t + u * u_x - nu * u_xx + x * u_tx + 0.1 * u_xxx + laplacian_u

    pde = PDE(domain, equation, value(u=0.0, on=domain.boundary()), value(u=0.0, on=domain.at(t=0)), nu=0.3)
    t, x = np.linspace(0, 1, 33), np.linspace(0, 1, 35)
    with sciml.double_precision():
        mesh = jnp.stack([m.ravel() for m in np.meshgrid(t, x, indexing="ij")], axis=1)
        u = np.asarray(jax.vmap(model)(mesh)).reshape(33, 35)
        want = pde.residuals(model_of(model), sciml.Groups({INTERIOR: mesh}))["equation"]
    got = grid_residuals(pde, xr.Dataset({"u": (("t", "x"), u)}, coords={"t": t, "x": x}))
    np.testing.assert_allclose(got["equation"].values.ravel(), want, atol=2e-4)
    assert got.sizes == {"t": 33, "x": 35}


def model_of(function):
    return lambda p: function(p)[None]


def burgers(u, u_t, u_x, u_xx, nu):
    return u_t + u * u_x - nu * u_xx


def cole_hopf(nu=0.05, n=64):
    """Periodic: u = -2 nu phi_x / phi with phi = 2 + exp(-nu pi^2 t) cos(pi x)."""
    t, x = np.linspace(0, 1, 33), -1 + 2 * np.arange(n) / n
    decay = np.exp(-nu * np.pi**2 * t)[:, None]
    u = 2 * nu * np.pi * decay * np.sin(np.pi * x) / (2 + decay * np.cos(np.pi * x))
    return xr.Dataset({"u": (("time", "x"), u)}, coords={"time": t, "x": x})


def test_burgers_cole_hopf():
    fields = cole_hopf()
    found = grid_residuals(burgers, fields, nu=0.05, periodic={"x"})["burgers"]
    assert found.attrs["verdict"] == "yes" and found.attrs["relative"] < 1e-6
    assert set(found.dims) == {"t", "x"}
    assert grid_residuals(burgers, 1.5 * fields, nu=0.05, periodic={"x"})["burgers"].attrs["verdict"] == "no"


def test_closing_point_is_found():
    fields = cole_hopf()
    closed = xr.concat([fields, fields.isel(x=[0]).assign_coords(x=[1.0])], "x")
    for given in ({"x"}, {"x": 2.0}):
        found = grid_residuals(burgers, closed, nu=0.05, periodic=given)
        assert found["burgers"].attrs["relative"] < 1e-6
        assert found["u periodic in x"].attrs["verdict"] == "yes"
    with pytest.raises(ValueError, match="period 3"):
        grid_residuals(burgers, fields, nu=0.05, periodic={"x": 3.0})


def test_attributes_and_pde_tell_what_is_periodic():
    fields = cole_hopf()
    fields.x.attrs["boundary"] = "periodic"
    assert "x: spectral" in grid_residuals(burgers, fields, nu=0.05).attrs["derivatives"]
    domain = Box(t=(0, 1), x=(-1, 1))
    pde = PDE(domain, burgers, value(u=0.0, on=domain.at(t=0)), periodic("x"), nu=0.05)
    assert "x: spectral" in grid_residuals(pde, cole_hopf()).attrs["derivatives"]


def test_flux_of_a_stored_coefficient():
    x = np.linspace(0, 1, 41)
    y = np.linspace(0, 2, 43)
    X, Y = np.meshgrid(x, y, indexing="ij")
    u, a = np.sin(X) * np.cos(Y), 2 + np.sin(X * Y)
    a_x, a_y = Y * np.cos(X * Y), X * np.cos(X * Y)
    f = a_x * np.cos(X) * np.cos(Y) - a_y * np.sin(X) * np.sin(Y) - 2 * a * u
    dims = ("x", "y")
    data = {"u": (dims, u), "a": (dims, a), "f": (dims, f)}
    fields = xr.Dataset(data, coords={"x": x, "y": y}).expand_dims(sample=3)
    q = derived(qx=lambda a, u_x: a * u_x, qy=lambda a, u_y: a * u_y)

    def divergence(qx_x, qy_y, f):
        return qx_x + qy_y - f

    found = grid_residuals([divergence, q], fields)["divergence"]
    assert found.dims == ("sample", "x", "y") and found.attrs["relative"] < 1e-5
    # A variable stands for a parameter of the PDE, also in its derived quantities.
    domain = Box(x=(0, 1), y=(0, 2))
    walls = value(u=lambda x, y: jnp.sin(x) * jnp.cos(y), on=domain.boundary())
    found = grid_residuals(PDE(domain, divergence, q, walls, a=1.0, f=0.0), fields)
    assert {v.attrs["verdict"] for v in found.data_vars.values()} == {"yes"} and len(found) == 5
    wrong = fields.assign(a=fields.a * 1.2)
    assert grid_residuals([divergence, q], wrong)["divergence"].attrs["verdict"] == "no"


def test_flux_condition_has_the_outward_sign():
    domain = Box(x=(0, 1))
    ends = [flux(u=-1.0, on=domain.at(x=0)), flux(u=np.e, on=domain.at(x=1)), value(u=1.0, on=domain.at(x=0))]
    x = np.linspace(0, 1, 30)
    fields = xr.Dataset({"u": ("x", np.exp(x))}, coords={"x": x})
    found = grid_residuals(PDE(domain, lambda u, u_xx: u_xx - u, *ends), fields)
    assert len(found) == 4 and {v.attrs["verdict"] for v in found.data_vars.values()} == {"yes"}


def test_faces_between_points_are_named_as_not_checked():
    fields = heat_field().isel(x=slice(1, -1))
    assert "x=0" in grid_residuals(heat_pde(), fields).attrs["not checked"]


def test_missing_values_are_left_out():
    fields = heat_field()
    fields["u"][20, 20] = np.nan
    found = grid_residuals(heat_pde(), fields)["heat"]
    assert np.isnan(found.values[20, 20]) and np.isfinite(found).mean() > 0.98
    assert found.attrs["verdict"] == "yes"
    fields = cole_hopf()
    fields["u"][3, 3] = np.nan
    found = grid_residuals(burgers, fields, nu=0.05, periodic={"x"})["burgers"]
    assert np.isfinite(found).mean() > 0.95 and found.attrs["verdict"] == "yes"


def test_rounding_is_part_of_the_floor():
    fields = heat_field(40, 2000).astype("float32").assign_coords(heat_field(40, 2000).coords)
    found = grid_residuals(heat_pde(), fields)["heat"]
    assert found.attrs["relative"] > 0.01 and found.attrs["verdict"] == "undecided"


def test_dates_are_seconds():
    fields = heat_field(k=K)
    days = np.datetime64("2020-01-01") + (fields.t.values * 86400e9).astype("timedelta64[ns]")
    dated = fields.rename(t="time").assign_coords(time=days)
    assert grid_residuals(heat, dated, k=K / 86400)["heat"].attrs["verdict"] == "yes"


@pytest.mark.parametrize(
    "change, options, message",
    [
        (lambda d: d.rename(u="v"), {}, "no variable 'u'.*variables are v.*rename"),
        (lambda d: d.rename(x="z"), {}, "no dimension 'x'.*t, z"),
        (lambda d: d.drop_vars("x"), {}, "assign_coords"),
        (lambda d: d.isel(t=slice(0, 1)), {}, "along 't' needs at least 2 points"),
        (lambda d: d, {"rename": {"w": "u"}}, "rename: no variable or dimension 'w'"),
        (lambda d: d, {"periodic": {"y"}}, "no axis 'y'"),
        (lambda d: d, {"nu": 1.0}, "no parameter 'nu'"),
        (lambda d: d * 1j, {}, "real numbers"),
    ],
)
def test_what_is_missing_is_named(change, options, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        grid_residuals(heat_pde(), change(heat_field()), **options)


def test_rename_and_plain_equations():
    fields = heat_field().rename(u="temperature", t="clock")
    found = grid_residuals(heat_pde(), fields, rename={"temperature": "u", "clock": "t"})
    assert found["heat"].attrs["verdict"] == "yes"
    with pytest.raises(ValueError, match="keyword of grid_residuals"):
        grid_residuals(heat, heat_field())
    with pytest.raises(TypeError, match="conditions need a PDE"):
        grid_residuals([heat, 3.0], heat_field(), k=1)
    with pytest.raises(TypeError, match="xarray Dataset"):
        grid_residuals(heat, np.zeros(3), k=1)


def test_blocks_give_what_the_whole_gives(monkeypatch):
    fields = heat_field(150, 20).expand_dims(sample=2)
    options = dict(rename=None, periodic=None, axes=None, order=6, spectral=None, parameters={})
    wholes = grid_residuals(heat_pde(), fields, k=0.2)
    monkeypatch.setattr("sciml.pde._grid.BLOCK", 20)
    totals, grid = assess_grid(
        lambda chosen: fields.isel(chosen), fields.sizes, ["sample"], equations=heat_pde(0.2), **options
    )
    assert len(list(grid.blocks())) > 2
    for name, one in totals.items():
        assert one.rms == pytest.approx(wholes[name].attrs["rms"], rel=1e-9, abs=1e-12)
        assert one.verdict == wholes[name].attrs["verdict"]
    worst = np.unravel_index(np.argmax(abs(wholes["heat"].values[0])), (150, 20))
    assert totals["heat"].where["t"] == pytest.approx(fields.t.values[worst[0]])


def write_problem(folder):
    path = folder / "mine.py"
    path.write_text(
        "import jax.numpy as jnp\nfrom sciml import PDE, Box, value\n\n\ndef problem(k: float = 0.1) -> PDE:\n"
        "    def heat(u_t, u_xx, k):\n        return u_t - k * u_xx\n\n    domain = Box(t=(0, 1), x=(0, 1))\n"
        "    start = value(u=lambda x: jnp.sin(jnp.pi * x), on=domain.at(t=0))\n"
        "    return PDE(domain, heat, start, value(u=0.0, on=domain.boundary('x')), k=k)\n"
    )
    return path


def test_check_command(tmp_path, capsys):
    path = write_problem(tmp_path)
    fields = heat_field().rename(t="time").expand_dims(sample=2)
    picture = tmp_path / "residual.png"
    assert check_command(fields, path, {}, figure=picture) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "heat" in capsys.readouterr().out
    assert check_command(fields, path, {"k": 0.3}) == 1
    spoilt = fields.copy(deep=True)
    spoilt["u"].loc[{"time": spoilt.time[0]}] = 5.0
    assert check_command(spoilt, path, {}) == 1 and check_command(spoilt, path, {}, skip=1) == 0
    with pytest.raises(ValueError, match="first 999 stored times, the file has"):
        check_command(fields, path, {}, skip=999)
    coarse = heat_field(3, 5)
    assert check_command(coarse, path, {}) == 3
    with pytest.raises(ValueError, match="no setting 'q'"):
        check_command(fields, path, {"q": 1})
    with pytest.raises(ValueError, match="no problem or data set 'heta'.*heat"):
        find_equations("heta", {})
