"""Ensembles: members that are trained as if alone, their mean, and a spread of the size of the true error."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sciml
from sciml import PDE, Box, Solution, Unknown, by_member, misfit, nn, observe, optim, solve, value, weighted
from sciml.pde import ensemble_of
from sciml.pde._linear import _fit

TIME = Box(t=(0, 4))
LINE = Box(x=(-1, 1))


def logistic():
    """u' = u (1 - u), a nonlinear problem with an exact solution."""
    return PDE(
        TIME,
        lambda u, u_t: u_t - u * (1 - u),
        value(u=0.1, on=TIME.at(t=0)),
        reference=lambda t: 1 / (1 + 9 * np.exp(-t)),
    )


def small(key):
    return nn.mlp(1, 1, 8, 2, key=key)


def drawn(count=3, make=small):
    return nn.ensemble(make, count, key=jax.random.key(5))


@pytest.fixture(scope="module")
def trained():
    return solve(logistic(), drawn(4), points=128, steps=40, budget=None, report=None)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def numbers(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_array))


def test_an_ensemble_is_the_mean_of_its_members():
    model, x = drawn(), jnp.array([0.3])
    alone = [small(key)(x) for key in jax.random.split(jax.random.key(5), 3)]
    np.testing.assert_allclose(model.each(lambda m: m(x)), alone, rtol=1e-6)
    np.testing.assert_allclose(model(x), np.mean(alone, axis=0), rtol=1e-6)
    np.testing.assert_allclose(model.member(1)(x), alone[1], rtol=1e-6)
    assert len({float(a[0]) for a in alone}) == 3 == len(model)
    listed = nn.Ensemble(tuple(model.member(i) for i in range(3)))
    np.testing.assert_allclose(listed(x), model(x), rtol=1e-6)
    np.testing.assert_allclose(listed.changed(lambda m: lambda x: 2 * m(x))(x), 2 * model(x), rtol=1e-6)


def test_the_loss_is_the_mean_of_those_of_the_members():
    model, batch = drawn(), (jnp.linspace(0, 1, 6)[:, None], jnp.ones((6, 1)))
    terms = by_member(misfit)(model, batch)
    assert terms["misfit"].shape == (3, 6, 1)
    alone = [jnp.mean(misfit(model.member(i), batch)["misfit"] ** 2) for i in range(3)]
    np.testing.assert_allclose(jnp.mean(terms["misfit"] ** 2), np.mean(alone), rtol=1e-6)
    scalar = by_member(lambda m, batch: jnp.mean(misfit(m, batch)["misfit"] ** 2))(model, batch)
    np.testing.assert_allclose(scalar, np.mean(alone), rtol=1e-6)


def embedded(key):
    """A network with numbers that are drawn but not trained."""
    one, two = jax.random.split(key)
    return nn.fourier_features(nn.mlp(8, 1, 5, 1, key=one), 1, 8, key=two)


OPTIMISERS = {
    "self-scaled Broyden": optim.self_scaled_broyden(),
    "Gauss-Newton": optim.gauss_newton(),
    "L-BFGS": optax.lbfgs(),
    "gradient descent": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
    "averaged": optim.averaged(optax.adam(optax.cosine_decay_schedule(1e-2, 20))),
}


@pytest.mark.parametrize(("name", "at_once"), [*((name, 1) for name in OPTIMISERS), ("self-scaled Broyden", 2)])
def test_members_are_trained_as_if_alone(name, at_once):
    optimiser, together = OPTIMISERS[name], optim.by_member(OPTIMISERS[name], at_once=at_once)
    with sciml.double_precision():
        x = jnp.linspace(0, 2, 20)[:, None]
        model = drawn(3, embedded)

        def trained(model, loss, optimiser):
            found, _ = sciml.fit(model, loss, lambda key: (x, jnp.sin(3 * x)), optimiser, steps=8, report=None)
            return found

        member = trained(model, weighted(by_member(misfit), misfit=2.0), together).member(2)
        alone = trained(model.member(2), weighted(misfit, misfit=2.0), optimiser)
    for one, other, before in zip(numbers(member), numbers(alone), numbers(model.member(2))):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
        # Frozen numbers stay.
        assert bool((one == before).all()) == (not eqx.is_inexact_array(one))


def test_what_is_no_ensemble_is_refused():
    x = jnp.ones((4, 1))
    with pytest.raises(TypeError, match="expected an ensemble"):
        by_member(misfit)(small(jax.random.key(0)), (x, x))
    with pytest.raises(TypeError, match=r"must be sciml.by_member\(loss\)"):
        sciml.fit(drawn(), misfit, lambda key: (x, x), optim.by_member(optim.gauss_newton()), steps=1, report=None)
    with pytest.raises(ValueError, match="one first axis in common"):
        optim.by_member(optax.adam(1e-3)).init({"a": jnp.ones(3), "b": jnp.ones(2)})
    with pytest.raises(ValueError, match="above 0"):
        optim.by_member(optax.adam(1e-3), at_once=0)
    with pytest.raises(ValueError, match="two members"):
        drawn(1)
    with pytest.raises(ValueError, match="first axis in common"):
        nn.Ensemble(small(jax.random.key(0)))


def test_a_trained_ensemble_and_its_spread(trained):
    t = np.linspace(0, 4, 60).reshape(3, 20)
    exact = 1 / (1 + 9 * np.exp(-t))
    members = [Solution(trained.pde, trained.model.member(i), None, {}, 0.0)(t=t) for i in range(4)]
    np.testing.assert_allclose(trained(t=t), np.mean(members, axis=0), rtol=1e-12)
    np.testing.assert_allclose(trained.spread(t=t), np.std(members, axis=0, ddof=1), rtol=1e-9, atol=1e-15)
    # Exact conditions hold for each member.
    assert trained.spread(t=0.0) == 0 and trained(t=0.0) == pytest.approx(0.1, abs=1e-15)
    error = rms(trained(t=t) - exact)
    assert error < 1e-3
    # Of four members, one that deviates by itself makes a mean error of half of the spread.
    assert error / 5 < rms(trained.spread(t=t)) < 5 * error
    assert "ensemble of 4 networks MLP 1-8-8-1" in trained.chosen["network"]
    assert trained.error()["relative_l2"] < 1e-3


def test_same_seed_same_bits_and_a_file(trained, tmp_path):
    again = solve(logistic(), drawn(4), points=128, steps=40, budget=None, report=None)
    t = np.linspace(0, 4, 7)
    assert (again(t=t) == trained(t=t)).all()
    trained.save(tmp_path / "solution")
    with sciml.double_precision():
        same, fewer = drawn(4), drawn(3)
    back = Solution.load(tmp_path / "solution", logistic(), model=same)
    assert (back(t=t) == trained(t=t)).all() and (back.spread(t=t) == trained.spread(t=t)).all()
    with pytest.raises(ValueError, match="does not match"):
        Solution.load(tmp_path / "solution", logistic(), model=fewer)
    sciml.save(tmp_path / "model", drawn())
    loaded = sciml.load(tmp_path / "model", nn.ensemble(small, 3, key=jax.random.key(0)))
    assert all((a == b).all() for a, b in zip(numbers(loaded), numbers(drawn())))


def test_each_member_has_unknown_parameters_of_its_own():
    t = np.linspace(0, 4, 30)
    pde = PDE(
        TIME,
        lambda u, u_t, r: u_t - r * u * (1 - u),
        value(u=0.1, on=TIME.at(t=0)),
        observe({"t": t}, u=1 / (1 + 9 * np.exp(-t))),
        r=Unknown(0.5),
    )
    found = solve(pde, drawn(3), points=64, steps=40, budget=None, report=None)
    each = [Solution(pde, found.model.member(i), None, {}, 0.0).parameters["r"] for i in range(3)]
    assert found.parameters == {"r": pytest.approx(np.mean(each), rel=1e-12)}
    assert found.spread() == {"r": pytest.approx(np.std(each, ddof=1), rel=1e-9)}
    assert found.parameters["r"] == pytest.approx(1.0, abs=0.02)
    with pytest.raises(ValueError, match="spread"):
        found.standard_errors()


def boundary_layer(nu=0.2):
    """u' = nu u'' + 1, steep at the right end."""

    def exact(x, e):
        return (x + 1) - 2 * e.expm1((x + 1) / nu) / e.expm1(2 / nu)

    return PDE(
        LINE,
        lambda u_x, u_xx: u_x - nu * u_xx - 1,
        value(u=0.0, on=LINE.boundary()),
        reference=lambda x: exact(x, np),
    )


def wave(u_xx, u_yy, x, y):
    return u_xx + u_yy + 13 * jnp.sin(2 * x) * jnp.cos(3 * y)


def poisson():
    """u = sin(2 x) cos(3 y) on a rectangle."""
    box = Box(x=(0, 1), y=(0, 2))
    return PDE(
        box,
        wave,
        value(u=lambda x, y: jnp.sin(2 * x) * jnp.cos(3 * y), on=box.boundary()),
        reference=lambda x, y: np.sin(2 * x) * np.cos(3 * y),
    )


def by_least_squares(pde, features, keys):
    """Solutions by few features, so that their errors are those of the features and not of rounding."""
    with sciml.double_precision():
        fits = [_fit(pde, features, 2.0, True, jax.random.key(key)) for key in range(keys)]
    return [Solution(pde, f.fields, None, {"method": "least squares"}, 1.0) for f in fits]


@pytest.mark.parametrize(("pde", "features"), [(boundary_layer(), 12), (poisson(), 60)], ids=["layer", "poisson"])
def test_the_spread_of_least_squares_solutions_is_about_their_error(pde, features, tmp_path):
    members = by_least_squares(pde, features, 5)
    joined = ensemble_of(members)
    grid = {a: np.linspace(low, high, 23) for a, (low, high) in pde.domain.bounds.items()}
    mesh = dict(zip(grid, np.meshgrid(*grid.values(), indexing="ij")))
    exact = pde.reference(**mesh)
    np.testing.assert_allclose(joined(**mesh), np.mean([m(**mesh) for m in members], axis=0), rtol=1e-10, atol=1e-14)
    of_members = rms([m(**mesh) - exact for m in members])
    of_mean, spread = rms(joined(**mesh) - exact), rms(joined.spread(**mesh))
    assert of_mean < 0.05
    # The spread is that of a member; the mean is at least as good.
    assert of_members / 2 < spread < 2 * of_members
    assert of_mean <= of_members
    joined.save(tmp_path / "solution")
    back = Solution.load(tmp_path / "solution", pde)
    assert (back(**mesh) == joined(**mesh)).all() and (back.spread(**mesh) == joined.spread(**mesh)).all()


def test_joined_solutions(trained):
    one, two = by_least_squares(boundary_layer(), 8, 1), by_least_squares(boundary_layer(), 12, 1)
    with pytest.raises(ValueError, match="different problems"):
        ensemble_of([*one, *two])
    with pytest.raises(ValueError, match="two solutions"):
        ensemble_of(one)
    with pytest.raises(ValueError, match="ensemble_of"):
        one[0].spread(x=0.0)
    # Of different shapes, and members of an ensemble count one by one.
    pde = trained.pde
    with sciml.double_precision():
        fields = pde.model(nn.mlp(1, 1, 5, 1, key=jax.random.key(0)))
    other = Solution(pde, fields, None, {}, 1.0)
    joined = ensemble_of([trained, other])
    assert len(joined.model) == 5 and joined.seconds == trained.seconds + 1.0
    np.testing.assert_allclose(joined(t=2.0), (4 * trained(t=2.0) + other(t=2.0)) / 5, rtol=1e-12)
