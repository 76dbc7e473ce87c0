"""Points that are kept where the residual is large: R3 and RAR-D."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sciml import PDE, Box, adaptive, fit, optim, value
from sciml.nn import mlp
from sciml.pde._points import r3, rar_d, relative_sizes

KEY, OTHER = jax.random.key(0), jax.random.key(1)
LINE = Box(x=(0, 1))


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def peak(x):
    return 50 * jnp.exp(-(((x - 0.7) / 0.02) ** 2))


def with_peak(*more):
    """With zero fields the residual is the source: large in a tenth of the line."""
    return PDE(LINE, lambda u_x, x: u_x - peak(x), *more, value(u=0.0, on=LINE.at(x=0), exact=False))


def nothing(pde):
    return pde.model(lambda s: jnp.zeros(pde.out_size))


def advance(stream, model, steps, key=OTHER):
    """The batch at each of the first steps, and whether it is fresh."""
    following = eqx.filter_jit(stream.next)
    batch, out = stream.init(KEY, model), []
    for step in range(steps):
        batch, fresh = following(jax.random.fold_in(key, step), jnp.asarray(step), model, batch)
        out.append((batch, bool(fresh)))
    return out


def test_relative_sizes_of_several_equations():
    def first(u_x, x):
        return u_x - x

    def second(v_x, x):
        return v_x - 100 * (1 - x)

    pde = PDE(LINE, first, second, value(u=0.0, v=0.0, on=LINE.at(x=0)))
    x = np.array([0.1, 0.5, 0.9])
    found = relative_sizes(pde, nothing(pde), jnp.asarray(x)[:, None], power=2)
    expected = (x**2 / np.mean(x**2) + (1 - x) ** 2 / np.mean((1 - x) ** 2)) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def few_retained(pde):
    return r3(pde, 64, 8, every=5)


def few_enriched(pde):
    return rar_d(pde, 64, 8, added=8, every=5, pool=256)


# R3.


def test_r3_retains_exactly_what_is_above_the_mean():
    pde = with_peak()
    model = nothing(pde)
    stream = r3(pde, 300, every=4)
    found = advance(stream, model, 9)
    assert [fresh for _, fresh in found] == [False] * 4 + [True] + [False] * 3 + [True]
    old, new = (np.asarray(found[i][0]["interior"][:, 0]) for i in (3, 4))
    size = np.abs(np.asarray(peak(jnp.asarray(old))))
    above = size > size.mean()
    assert 0 < above.sum() < 100
    assert (new[above] == old[above]).all() and (new[~above] != old[~above]).all()
    # What is drawn anew is uniform.
    assert abs(new[~above].mean() - 0.5) < 0.06
    assert (found[4][0]["interior"] == found[7][0]["interior"]).all()


def test_r3_gathers_points_where_the_residual_stays_large():
    pde = with_peak()
    found = advance(r3(pde, 300, every=1), nothing(pde), 30)
    near = [float(jnp.mean(jnp.abs(b["interior"][:, 0] - 0.7) < 0.05)) for b, _ in found]
    assert near[0] < 0.15 and near[-1] > 0.4


def test_points_where_the_residual_is_not_finite_are_released():
    pde = PDE(LINE, lambda u_x, x: u_x - jnp.where(x < 0.5, jnp.nan, 1 + x), value(u=0.0, on=LINE.at(x=0)))
    (old, _), (new, _) = advance(r3(pde, 100, every=1), nothing(pde), 2)
    bad = np.asarray(old["interior"][:, 0]) < 0.5
    assert (new["interior"][bad] != old["interior"][bad]).all()


# RAR-D.


def test_rar_d_adds_where_the_residual_is_large():
    pde = with_peak()
    stream = rar_d(pde, 100, start=60, added=16, every=3, pool=2000)
    found = advance(stream, nothing(pde), 13)
    # Two times 16 fit into the 40 places; a third would not.
    assert [step for step, (_, fresh) in enumerate(found) if fresh] == [3, 6]
    first, second, last = (np.asarray(found[i][0]["interior"][:, 0]) for i in (0, 3, 12))
    assert first.shape == last.shape == (100,)
    assert (last[:60] == first[:60]).all() and (last[92:] == first[92:]).all()
    assert (second[60:76] != first[60:76]).all() and (second[76:] == first[76:]).all()
    assert (last[60:76] == second[60:76]).all()
    # Of r^2, 99.9 % lies within three widths of r's own Gaussian.
    assert (np.abs(last[60:92] - 0.7) < 0.06).all()
    assert len(np.unique(second[60:76])) == 16


def test_rar_d_follows_the_square_of_the_residual():
    """Many draws of a linear residual: the density is 3 x^2, whose mean is 3/4."""
    pde = PDE(LINE, lambda u_x, x: u_x - x, value(u=0.0, on=LINE.at(x=0)))
    found = advance(rar_d(pde, 600, start=100, added=500, every=1, pool=10_000), nothing(pde), 2)
    assert float(jnp.mean(found[1][0]["interior"][100:])) == pytest.approx(0.75, abs=0.03)


def test_rar_d_without_any_residual():
    pde = PDE(LINE, lambda u_x: u_x, value(u=0.0, on=LINE.at(x=0)))
    found = advance(rar_d(pde, 20, added=5, every=1, pool=50), nothing(pde), 3)
    points = np.asarray(found[-1][0]["interior"])
    assert np.isfinite(points).all() and (points >= 0).all() and (points <= 1).all()


@pytest.mark.parametrize("make, dtype", [(few_retained, np.float32), (few_enriched, np.float64)])
def test_training_converges_on_them(make, dtype):
    with jax.enable_x64(dtype == np.float64):
        pde = PDE(LINE, lambda u_x, x: u_x - 3 * x**2, value(u=0.0, on=LINE.at(x=0)))
        model = pde.model(mlp(1, 1, 8, 1, key=KEY))
        fields, _ = fit(model, pde.residuals, make(pde), optim.self_scaled_broyden(), steps=150, report=None)
        x = jnp.linspace(0, 1, 50, dtype=dtype)[:, None]
        found = jax.vmap(fields)(x)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, x**3, atol=1e-2)


def test_wrong_arguments():
    pde = with_peak()
    for arguments in ({"start": 0}, {"start": 100}, {"added": 0}, {"added": 60}, {"pool": 10, "added": 20}):
        with pytest.raises(ValueError, match="rar_d: expected 0 < start < n"):
            rar_d(pde, 100, **arguments)
    for make in (r3, rar_d):
        with pytest.raises(ValueError, match="every must be above 0"):
            make(pde, every=0)
    with pytest.raises(ValueError, match="n must be above 0"):
        r3(pde, 0)
    with pytest.raises(ValueError, match="between 2 and pool"):
        adaptive(pde, 10, pool=5)
