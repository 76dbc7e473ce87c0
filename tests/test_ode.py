"""Models of ordinary differential equations, against closed forms, orders of convergence and conserved quantities."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml import Unknown, nn, ode
from sciml.ode._models import Mechanism, numbers_of

TIMES = np.linspace(0.0, 2.0, 9)
KEY = jax.random.key(0)


# Compiled as a whole: operations one by one would each be a program.
solved = eqx.filter_jit(lambda model, *arguments: model(*arguments))
gradient_of = lambda function, model: eqx.filter_jit(eqx.filter_grad(function))(model)  # noqa: E731


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


def decay(x, k):
    return -k * x


def blow_up(x, k):
    return k * x**2


def decaying(k, **options):
    return ode.mechanism(decay, ("x",), ode.Steps(**options) if options else None, k=k)


# Solutions.


def test_solutions_are_those_of_the_equation():
    ys = solved(decaying(2.0), np.array([3.0]), TIMES)
    np.testing.assert_allclose(ys[:, 0], 3 * np.exp(-2 * TIMES), rtol=1e-4)
    tight = solved(decaying(2.0, rtol=1e-10, atol=1e-12), np.array([3.0]), TIMES)
    np.testing.assert_allclose(tight[:, 0], 3 * np.exp(-2 * TIMES), rtol=1e-8)


def test_constant_steps_have_the_order_of_the_solver():
    errors = []
    for dt in (0.1, 0.05):
        steps = ode.Steps(diffrax.Midpoint(), dt=dt)
        ys = solved(ode.mechanism(decay, ("x",), steps, k=1.0), np.ones(1), np.array([0.0, 2.0]))
        errors.append(abs(float(ys[-1, 0]) - np.exp(-2)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


def test_times_may_repeat_and_precision_is_that_of_the_state():
    ys = solved(decaying(1.0), np.ones(1), np.array([0.0, 1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(ys[1:], np.full((3, 1), ys[1, 0]))
    np.testing.assert_array_equal(solved(decaying(1.0), np.ones(1), np.zeros(4)), np.ones((4, 1)))
    single = jax.eval_shape(decaying(1.0), np.ones(1, np.float32), TIMES.astype(np.float32))
    assert single.dtype == np.float32


def test_stiff_steps_take_few_where_explicit_ones_fail():
    """Prothero & Robinson (1974): y' = -rate (y - cos t) - sin t, whose solution is cos t."""

    def forced(y, t, rate):
        return -rate * (y - jnp.cos(t)) - jnp.sin(t)

    implicit = ode.mechanism(forced, ("y",), ode.stiff(1e-8, 1e-10, max_steps=300), rate=1e6)
    np.testing.assert_allclose(solved(implicit, np.ones(1), TIMES)[:, 0], np.cos(TIMES), atol=1e-6)
    explicit = ode.mechanism(forced, ("y",), ode.Steps(max_steps=300), rate=1e6)
    assert not np.isfinite(solved(explicit, np.ones(1), TIMES)[-1, 0])


# Derivatives.


def last(model, y0):
    return model(y0, TIMES)[-1, 0]


@pytest.mark.parametrize("options", [{"forward": True}, {"forward": False}, {"adjoint": diffrax.DirectAdjoint()}])
def test_derivatives_by_each_rule(options):
    model = decaying(Unknown(0.7), rtol=1e-9, atol=1e-11, max_steps=64, **options)
    gradient, by_start = gradient_of(lambda arrays: last(*arrays), (model, jnp.array([3.0])))
    # The parameter is trained in units of its first guess.
    expected = -2 * 3 * np.exp(-1.4) * 0.7
    assert float(gradient.field.parameters["k"].raw) == pytest.approx(expected, rel=1e-6)
    assert float(by_start[0]) == pytest.approx(np.exp(-1.4), rel=1e-6)


def test_few_numbers_go_forward_and_many_backward():
    assert ode.Steps().goes_forward(decaying(Unknown(1.0)).field)
    assert not ode.Steps().goes_forward(ode.neural_ode(2, key=KEY).field)
    assert ode.Steps(forward=True).goes_forward(ode.neural_ode(2, key=KEY).field)


def test_second_derivatives_of_forward_sensitivities():
    model = decaying(1.0, rtol=1e-9, atol=1e-11)

    def at(k):
        return last(eqx.tree_at(lambda m: m.field.parameters["k"], model, k), jnp.ones(1))

    assert float(jax.jit(jax.jacfwd(jax.jacfwd(at)))(0.5)) == pytest.approx(4 * np.exp(-1.0), rel=1e-5)


def test_batches_differentiate_as_single_trajectories():
    model = decaying(Unknown(0.7), rtol=1e-9, atol=1e-11)
    starts = jnp.array([[1.0], [2.0]])
    together = gradient_of(lambda m: jnp.sum(jax.vmap(m, (0, None))(starts, TIMES)), model)
    one = [
        gradient_of(lambda arrays: jnp.sum(arrays[0](arrays[1], TIMES)), (model, s))[0].field.parameters["k"].raw
        for s in starts
    ]
    assert float(together.field.parameters["k"].raw) == pytest.approx(float(sum(one)), rel=1e-7)


# Solutions that fail.


@pytest.mark.parametrize("forward", [True, False])
def test_a_failed_solution_is_nan_and_its_gradient_is_not(forward):
    model = ode.mechanism(blow_up, ("x",), ode.Steps(forward=forward, max_steps=256), k=Unknown(1.0))
    ys = solved(model, np.ones(1), TIMES)[:, 0]
    # 1 / (1 - t), up to the pole.
    np.testing.assert_allclose(ys[:4], 1 / (1 - TIMES[:4]), rtol=1e-4)
    assert np.isnan(ys[5:]).all()
    gradient = gradient_of(lambda m: jnp.nansum(m(jnp.ones(1), TIMES[:7])[:3]), model)
    expected = np.sum(TIMES[:3] / (1 - TIMES[:3]) ** 2)
    assert float(gradient.field.parameters["k"].raw) == pytest.approx(expected, rel=1e-3)


def test_a_right_hand_side_without_a_value_reaches_no_gradient():
    """The root of what becomes negative."""
    model = ode.mechanism(lambda x, k: -k * jnp.sqrt(x), ("x",), ode.Steps(checked=True, max_steps=200), k=Unknown(2.0))
    ys = solved(model, np.ones(1), TIMES)[:, 0]
    np.testing.assert_allclose(ys[:4], (1 - TIMES[:4]) ** 2, atol=1e-4)
    gradient = gradient_of(lambda m: jnp.nansum(m(jnp.ones(1), TIMES)), model)
    assert np.isfinite(float(gradient.field.parameters["k"].raw))


def test_a_start_without_a_value():
    ys = solved(decaying(Unknown(1.0)), np.array([np.nan]), TIMES)
    assert np.isnan(ys).all()
    gradient = gradient_of(lambda m: jnp.nansum(m(jnp.array([jnp.nan]), TIMES)), decaying(Unknown(1.0)))
    assert float(gradient.field.parameters["k"].raw) == 0


# Mechanisms.


def predation(hare, lynx, alpha, beta, gamma, delta):
    return {"lynx": -gamma * lynx + delta * hare * lynx, "hare": alpha * hare - beta * hare * lynx}


def test_parameters_by_name_and_bounds():
    unknown = {"alpha": Unknown(0.5, positive=True), "beta": Unknown(0.03, between=(0.0, 0.1))}
    model = ode.mechanism(predation, ("hare", "lynx"), **unknown, gamma=0.8, delta=0.02)
    assert {n: round(float(v), 12) for n, v in ode.parameters(model).items()} == {"alpha": 0.5, "beta": 0.03}
    rates = model.field(0.0, jnp.array([30.0, 4.0]), None)
    np.testing.assert_allclose(rates, [0.5 * 30 - 0.03 * 120, -0.8 * 4 + 0.02 * 120])
    beta = numbers_of(model)["beta"]
    for raw in (-50.0, 50.0):
        assert 0 <= float(eqx.tree_at(lambda n: n.raw, beta, jnp.asarray(raw))()) <= 0.1


def test_a_network_is_a_parameter():
    network = nn.mlp(2, 1, 4, 1, key=KEY)

    def part(x, y, k, unknown):
        return -k * x, unknown(jnp.stack([x, y]))[0]

    model = ode.mechanism(part, ("x", "y"), k=Unknown(1.0), unknown=network)
    y = jnp.array([0.3, -0.2])
    np.testing.assert_allclose(model.field(0.0, y, None), [-0.3, network(y)[0]])
    gradient = gradient_of(lambda m: jnp.sum(m(y, TIMES) ** 2), model)
    assert abs(float(gradient.field.parameters["k"].raw)) > 1e-3
    assert float(jnp.abs(gradient.field.parameters["unknown"].layers[0].weight).max()) > 1e-3


def test_inputs_by_name():
    model = ode.mechanism(lambda x, t, u, scale: scale * u + 0 * t, ("x",), scale=2.0)
    ramp = ode.linear_table([0.0, 2.0], [0.0, 2.0])
    np.testing.assert_allclose(solved(model, np.zeros(1), TIMES, {"u": ramp})[:, 0], TIMES**2, atol=1e-6)
    np.testing.assert_allclose(solved(model, np.zeros(1), TIMES, {"u": 1.5})[:, 0], 3 * TIMES, atol=1e-6)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: ode.mechanism(decay, ("x",), rate=1.0), ValueError, "no argument 'rate'"),
        (lambda: ode.mechanism(decay, ("x",), k=1.0, x=2.0), ValueError, "both a state and a parameter"),
        (lambda: ode.mechanism(decay, ("x",), k=np.inf), TypeError, "finite"),
        (lambda: ode.mechanism(decay, ("x",))(np.ones(1), TIMES), ValueError, "asks for k"),
        (lambda: ode.mechanism(decay, ("x", "y"), k=1.0)(np.ones(2), TIMES), ValueError, "expected 2 rates"),
        (lambda: decaying(1.0)(np.ones((2, 1)), TIMES), ValueError, "jax.vmap"),
        (lambda: ode.ODE(lambda t, y, args: y[:1])(np.ones(2), TIMES), ValueError, "shape"),
        (lambda: ode.Steps(rtol=0.0), ValueError, "rtol must be above 0"),
        (lambda: ode.Symplectic(0), ValueError, "substeps"),
        (lambda: ode.ODE(lambda t, y, args: y, ode.Symplectic())(np.ones(2), TIMES), TypeError, "Separable"),
        (lambda: ode.augmented(decaying(1.0), 0), ValueError, "extra"),
        (lambda: ode.neural_ode(2, inputs=1, key=KEY)(np.ones(2), TIMES), TypeError, "linear_table"),
        (lambda: ode.linear_table([0.0, 0.0], [1.0, 2.0]), ValueError, "increase"),
        (lambda: ode.held_table([0.0, 1.0], [np.nan, np.nan]), ValueError, "no value"),
        (lambda: ode.Hamiltonian(jnp.sum)(0.0, jnp.ones(3), None), ValueError, "even length"),
        (lambda: Unknown(2.0, between=(0.0, 1.0)), ValueError, "between them"),
        (lambda: Unknown(0.5, positive=True, between=(0.0, 1.0)), ValueError, "not both"),
    ],
)
def test_bad_inputs(make, error, message):
    with pytest.raises(error, match=message):
        make()


# Tables.


def test_tables():
    ts, values = [0.0, 1.0, 3.0], [[0.0, 5.0], [np.nan, 6.0], [3.0, np.nan]]
    linear, held = ode.linear_table(ts, values), ode.held_table(ts, values)
    for t, expected in ((-1, [0, 5]), (0.5, [0.5, 5.5]), (2, [2, 6]), (9, [3, 6])):
        np.testing.assert_allclose(linear(t), expected)
    for t, expected in ((-1, [0, 5]), (0.99, [0, 5]), (1, [0, 6]), (2.9, [0, 6]), (3, [3, 6])):
        np.testing.assert_allclose(held(t), expected)


def test_inputs_of_a_network():
    """A network that hands on its input integrates it."""
    model = ode.neural_ode(1, 2, 1, timed=True, inputs=1, key=KEY)
    model = eqx.tree_at(lambda m: m.field.network, model, lambda x: x[2:] + 0 * x[1])
    ramp = ode.linear_table([0.0, 2.0], [0.0, 2.0])
    np.testing.assert_allclose(solved(model, np.zeros(1), TIMES, ramp)[:, 0], TIMES**2 / 2, atol=1e-6)
    with pytest.raises(ValueError, match="gave shape"):
        model(np.zeros(1), TIMES, ode.linear_table([0.0], np.zeros((1, 2))))


# Structure.


def test_augmented_states_begin_at_zero_and_are_not_returned():
    model = ode.augmented(ode.ODE(lambda t, y, args: jnp.array([y[1], 1.0])), 1)
    np.testing.assert_allclose(solved(model, np.ones(1), TIMES)[:, 0], 1 + TIMES**2 / 2, atol=1e-6)


def test_second_order():
    model = ode.ODE(ode.SecondOrder(lambda y: -y[:1]))
    np.testing.assert_allclose(
        solved(model, np.array([1.0, 0.0]), TIMES), np.stack([np.cos(TIMES), -np.sin(TIMES)], 1), atol=1e-5
    )


Y = np.array([0.4, -1.1])
at = lambda field, args=None: field(0.0, jnp.asarray(Y), args)  # noqa: E731


@pytest.mark.parametrize(
    "field",
    [
        ode.Hamiltonian(lambda y: y[1] ** 2 / 4 + 3 * (1 - jnp.cos(y[0]))),
        ode.Separable(lambda p: p**2 / 4, lambda q: 3 * (1 - jnp.cos(q))),
    ],
)
def test_energies_give_hamiltons_equations(field):
    np.testing.assert_allclose(at(field), [Y[1] / 2, -3 * np.sin(Y[0])], rtol=1e-12)


def test_lagrangian_with_a_mass_that_depends_on_the_position():
    """A bead on the curve z = q^2: (1 + 4 q^2) q'' + 4 q q'^2 + 2 g q = 0."""
    field = ode.Lagrangian(lambda q, v: jnp.sum(v**2 * (1 + 4 * q**2) / 2 - 9.81 * q**2))
    q, v = Y
    expected = -(4 * q * v**2 + 2 * 9.81 * q) / (1 + 4 * q**2)
    np.testing.assert_allclose(at(field), [v, expected], rtol=1e-12)


def test_dissipative_systems_lose_energy_and_take_it_from_ports():
    energy = lambda y: jnp.sum(y**2) / 2  # noqa: E731
    field = ode.Dissipative(energy, lambda y: jnp.array([0.0, 0.5]), lambda y: jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(at(field, lambda t: 3.0), [Y[1], -Y[0] - 0.25 * Y[1] + 6], rtol=1e-12)
    factor = nn.mlp(2, 4, 4, 1, key=KEY)
    matrix = np.asarray(factor(jnp.asarray(Y))).reshape(2, 2)
    expected = np.array([Y[1], -Y[0]]) - matrix @ matrix.T @ Y
    np.testing.assert_allclose(at(ode.Dissipative(energy, factor)), expected, rtol=1e-12)


PENDULUM = ode.Separable(lambda p: p**2 / 2, lambda q: -jnp.cos(q))


def test_symplectic_steps_have_order_four():
    reference = solved(ode.ODE(PENDULUM, ode.Steps(rtol=1e-11, atol=1e-12)), Y, TIMES)
    errors = []
    for substeps in (1, 2):
        ys = solved(ode.ODE(PENDULUM, ode.Symplectic(substeps)), Y, TIMES)
        errors.append(float(jnp.abs(ys - reference).max()))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.4)


def test_symplectic_steps_keep_area_and_energy():
    model = ode.ODE(PENDULUM, ode.Symplectic())
    jacobian = jax.jit(jax.jacfwd(lambda y: model(y, TIMES)[-1]))(jnp.asarray(Y))
    assert float(jnp.linalg.det(jacobian)) == pytest.approx(1, abs=1e-12)
    ys = solved(model, Y, np.arange(0, 2000, 0.2))
    energy = jax.vmap(PENDULUM.energy)(ys)
    # No drift: the last tenth oscillates as the first.
    first, end = (float(jnp.abs(e - energy[0]).max()) for e in (energy[:1000], energy[-1000:]))
    assert first < 2e-6 and end < 1.2 * first
    plain = solved(ode.ODE(PENDULUM, ode.Steps(diffrax.Heun(), dt=0.2, max_steps=1024)), Y, np.array([0.0, 200.0]))
    assert abs(float(PENDULUM.energy(plain[-1]) - energy[0])) > 1e-2


def test_models_are_saved_and_loaded(tmp_path):
    model = ode.neural_ode(2, 4, 1, key=KEY)
    sciml.save(tmp_path / "model.zip", model)
    again = sciml.load(tmp_path / "model.zip", ode.neural_ode(2, 4, 1, key=jax.random.key(1)))
    np.testing.assert_array_equal(at(again.field), at(model.field))


def test_names_of_a_mechanism_are_its_configuration():
    assert isinstance(decaying(1.0).field, Mechanism) and decaying(1.0).field.states == ("x",)


# Jumps of the state.


def ball(gravity=9.81, kept=0.8, most=6, **options):
    """The height and velocity of a ball, which keeps a part of its velocity when it bounces."""
    return ode.Hybrid(
        lambda t, y, args: jnp.stack([y[1], -jnp.asarray(gravity)]),
        lambda t, y, args: y[0],
        ode.Mechanism(lambda v, kept: (0.0 * v, -kept * v), ("height", "v"), {"kept": kept}),
        most,
        ode.Steps(rtol=1e-9, atol=1e-9, **options),
    )


def bounced(t, kept=0.8, gravity=9.81):
    """The height of a ball dropped from 1, in closed form."""
    begin, v = np.sqrt(2 / gravity), kept * np.sqrt(2 * gravity)
    if t <= begin:
        return 1 - gravity * t**2 / 2
    while t > begin + 2 * v / gravity:
        begin, v = begin + 2 * v / gravity, kept * v
    return v * (t - begin) - gravity * (t - begin) ** 2 / 2


def test_a_ball_bounces():
    ts = np.linspace(0, 2.2, 23)
    ys = solved(ball(), np.array([1.0, 0.0]), ts)
    np.testing.assert_allclose(ys[:, 0], [bounced(t) for t in ts], atol=1e-6)
    # Its times are differentiated too: by central differences of the closed form.
    gradient = jax.jit(jax.grad(lambda kept: ball(kept=kept)(np.array([1.0, 0.0]), ts)[15, 0]))(0.8)
    expected = (bounced(ts[15], 0.8 + 1e-6) - bounced(ts[15], 0.8 - 1e-6)) / 2e-6
    assert float(gradient) == pytest.approx(expected, rel=1e-4)
    # More bounces than are allowed for.
    few = solved(ball(most=1), np.array([1.0, 0.0]), ts)
    assert np.isfinite(few[8]).all() and np.isnan(few[-1]).all()


def test_doses():
    """A dose decays as exp(-t): the sum of those given before."""
    model = ode.Dosed(lambda t, y, args: -y, ode.Steps(rtol=1e-9, atol=1e-12))
    ts = np.array([0.0, 0.5, 1.0, 1.5, 3.0])
    given = {"doses": ode.Doses(jnp.array([0.0, 1.0, 2.0, 9.0]), jnp.array([[3.0], [2.0], [1.0], [7.0]]))}
    ys = solved(model, np.array([0.5]), ts, given)
    expected = [0.5 * np.exp(-t) + sum(a * np.exp(s - t) for s, a in ((0, 3), (1, 2), (2, 1)) if s < t) for t in ts]
    np.testing.assert_allclose(ys[:, 0], expected, rtol=1e-7)
    with pytest.raises(TypeError, match="Doses"):
        model(np.array([0.5]), ts)
    with pytest.raises(ValueError, match="most"):
        ball(most=0)
