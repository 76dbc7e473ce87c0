"""Rollouts, the losses through time and the measures of stability, against matrix powers, loops and known exponents;
projections against the laws that they are to keep.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from memory_source import in_memory

import sciml
from sciml import combine, fit, relative_misfit
from sciml._loss import total
from sciml.metrics import h1_misfit
from sciml.nn import Normaliser, normalised, scaled_misfit
from sciml.operators import Bounded, Cosine, Periodic, _projections, _rollout, centres, ends
from sciml.operators._projections import conserve, divergence_free, in_range
from sciml.operators._rollout import (
    Stepper,
    pushforward,
    rolled,
    rollout_errors,
    rollout_misfit,
    stability,
    through_time,
)
from sciml.pde import grid_derivative

KEY = jax.random.key(0)
# One program instead of one for each operation.
rollout = eqx.filter_jit(_rollout.rollout)
leray = jax.jit(_projections.leray, static_argnums=1)


class Linear(eqx.Module):
    """The last frame times a matrix over its grid, and as many frames as asked for."""

    matrix: jax.Array
    frames: int = eqx.field(static=True, default=1)

    def __call__(self, window):
        powers, frame = [], window[-1]
        for _ in range(self.frames):
            frame = frame @ self.matrix.T
            powers.append(frame)
        return jnp.stack(powers)


class Nonlinear(eqx.Module):
    """A stepper of two frames in and one out, that is not linear in parameters or window."""

    weight: jax.Array

    def __call__(self, window):
        return jnp.tanh(window[-1:] @ self.weight + 0.3 * window[:1])


def matrix(n=5, radius=0.9):
    a = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
    return jnp.asarray(radius * a / np.abs(np.linalg.eigvals(a)).max())


def powers(a, frame, steps):
    return np.stack([np.asarray(frame) @ np.linalg.matrix_power(np.asarray(a, float), k + 1).T for k in range(steps)])


def field(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# Rollouts.


@pytest.mark.parametrize("frames", [1, 2, 3, 9])
@pytest.mark.parametrize("steps", [1, 7])
def test_rollout_of_a_linear_map_is_matrix_powers_with_any_bundle(frames, steps):
    a, window = matrix(), field(2, 3, 5)
    out = rollout(Linear(a, frames), window, steps)
    assert out.shape == (steps, 3, 5) and out.dtype == window.dtype
    np.testing.assert_allclose(out, powers(a, window[-1], steps), atol=1e-5)


def test_a_single_frame_may_come_without_an_axis_of_time():
    a, window = matrix(), field(2, 3, 5)
    np.testing.assert_array_equal(rollout(lambda w: w[-1] @ a.T, window, 4), rollout(Linear(a), window, 4))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_the_window_slides(frames):
    # Each frame is the sum of the two before: Fibonacci numbers.
    def model(window):
        new = list(window)
        for _ in range(frames):
            new.append(new[-1] + new[-2])
        return jnp.stack(new[2:])

    out = rollout(model, jnp.array([[1.0], [1.0]]), 8)
    assert out[:, 0].tolist() == [2, 3, 5, 8, 13, 21, 34, 55]


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("remat", [False, True])
def test_every_keeps_some_frames(frames, remat):
    a, window = matrix(), field(2, 3, 5)
    model = Linear(a, frames)
    whole = rollout(model, window, 12)
    np.testing.assert_allclose(rollout(model, window, 12, every=4, remat=remat), whole[3::4], rtol=1e-6)


@pytest.mark.parametrize("frames, steps, every", [(1, 5, 1), (2, 5, 1), (1, 6, 3), (2, 6, 3)])
def test_known_inputs_of_each_call(frames, steps, every):
    calls = -(-steps // frames)
    forcing = {"f": jnp.arange(1.0, calls + 1)}

    def model(window, slope, known):
        return window[-1] + slope * known["f"] * jnp.arange(1.0, frames + 1)[:, None]

    out = rollout(model, jnp.zeros((1, 1)), steps, 10.0, forcing=forcing, every=every)
    increments = np.repeat(np.arange(1.0, calls + 1), frames)[:steps]
    np.testing.assert_allclose(out[:, 0], 10 * np.cumsum(increments)[every - 1 :: every])


def test_rollout_runs_one_loop_compiled_once():
    traced = []

    def model(window):
        traced.append(1)
        return window * 0.5

    text = str(jax.make_jaxpr(lambda w: rollout(model, w, 1000))(jnp.ones((1, 4))))
    assert text.count("scan[") == 1 and "length=1000" in text and len(traced) <= 3


def test_types_of_rollouts():
    window = jnp.ones((1, 3), jnp.bfloat16)
    assert rollout(lambda w: w * jnp.float32(0.5), window, 2).dtype == jnp.float32
    assert rollout(lambda w: w * 0.5, window, 2).dtype == jnp.bfloat16
    with jax.enable_x64(True):
        a = np.asarray(matrix(), float)
        window = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 5)))
        out = rollout(Linear(jnp.asarray(a)), window, 20)
        np.testing.assert_allclose(out, powers(a, window[-1], 20), atol=1e-13)


@pytest.mark.parametrize(
    "model, steps, options, message",
    [
        (lambda w: w[:, :1], 3, {}, "frames like those of its window"),
        (lambda w: w, 0, {}, "multiple of every"),
        (lambda w: w, 7, {"every": 2}, "multiple of every"),
        (lambda w, f: w[-1], 3, {"forcing": jnp.ones(2)}, "called 3 times, the forcing has 2"),
    ],
)
def test_rollouts_that_cannot_be(model, steps, options, message):
    with pytest.raises(ValueError, match=message):
        rollout(model, jnp.ones((2, 3, 4)), steps, **options)


# Steppers.


class Network(eqx.Module):
    """A convolution of any number of channels, as grid operators are called."""

    layer: eqx.nn.Conv

    def __init__(self, channels, out, *, key):
        self.layer = eqx.nn.Conv(2, channels, out, 3, padding=1, padding_mode="circular", key=key)

    def __call__(self, a):
        return self.layer(a)


def test_stepper_folds_frames_into_channels():
    seen = []

    def network(a):
        seen.append(a.shape)
        return jnp.concatenate([10 * a[2:4], 20 * a[2:4]])

    window = jnp.arange(2.0 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    out = Stepper(network, 2, 2)(window)
    assert seen == [(4, 3, 4)] and out.shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(out, jnp.stack([10 * window[-1], 20 * window[-1]]))
    changed = Stepper(network, 2, 2, residual=True)(window)
    np.testing.assert_array_equal(changed, jnp.stack([11 * window[-1], 21 * window[-1]]))


def test_stepper_takes_known_fields_as_channels():
    def network(a):
        return a[1:2] * a[4]

    window, k = field(2, 1, 3, 4), field(3, 4, seed=1)
    forcing = field(2, 3, 4, seed=2)
    out = Stepper(network, 2)(window, k, forcing)
    np.testing.assert_array_equal(out, window[1:] * forcing[1])


def test_stepper_says_what_does_not_fit():
    with pytest.raises(ValueError, match="frames must be 1 or more"):
        Stepper(lambda a: a, 2, 0)
    with pytest.raises(ValueError, match="one window of 2 frames"):
        Stepper(lambda a: a, 2)(jnp.ones((5, 2, 1, 4)))
    with pytest.raises(ValueError, match="the network gave"):
        Stepper(lambda a: a, 2)(jnp.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="must end in the grid"):
        Stepper(lambda a: a, 1)(jnp.ones((1, 3, 4)), jnp.ones(5))


def test_stepper_within_a_normalised_model(tmp_path):
    # The network sees numbers of order one and gives the change in units of its own scale.
    network = Network(4, 2, key=KEY)
    inputs = Normaliser([280.0, 5.0], [10.0, 2.0], axis=1)
    change = Normaliser([0.1, 0.0], [0.5, 0.25], axis=1, difference=True)
    model = normalised(Stepper(network, 2), inputs, change, residual=True, time_axis=0)
    window = jnp.array([280.0, 5.0])[:, None, None] + field(2, 2, 6, 6)
    out = rollout(model, window, 3)
    by_hand, frames = list(window), []
    for _ in range(3):
        z = network(jnp.concatenate([inputs.encode(jnp.stack(by_hand[-2:]))[i] for i in range(2)]))
        scale, mean = (jnp.array(v)[:, None, None] for v in ((0.5, 0.25), (0.1, 0.0)))
        by_hand.append(by_hand[-1] + z * scale + mean)
        frames.append(by_hand[-1])
    np.testing.assert_allclose(out, jnp.stack(frames), rtol=1e-6)
    sciml.save(tmp_path / "m", model)
    again = sciml.load(
        tmp_path / "m", normalised(Stepper(Network(4, 2, key=jax.random.key(9)), 2), inputs, change, residual=True)
    )
    np.testing.assert_array_equal(rollout(again, window, 3), out)


# Losses.


def loop_loss(weight, window, target):
    """The K-step loss as a loop in Python."""
    model, frames = Nonlinear(weight), []
    for _ in range(target.shape[1]):
        new = jax.vmap(model)(window)
        window = jnp.concatenate([window, new], axis=1)[:, 1:]
        frames.append(new[:, 0])
    return jnp.mean((jnp.stack(frames, axis=1) - target) ** 2)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_value_and_gradient_of_k_steps_equal_the_unrolled_loop(steps, remat):
    weight, window = matrix(), field(4, 2, 3, 5)
    target = field(4, steps, 3, 5, seed=1)
    loss = rollout_misfit(relative=False, remat=remat)
    value, grad = jax.jit(jax.value_and_grad(lambda w: total(loss(Nonlinear(w), (window, target)))))(weight)
    wanted, wanted_grad = jax.jit(jax.value_and_grad(loop_loss))(weight, window, target)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(grad, wanted_grad, rtol=1e-5, atol=1e-7)


def test_remat_keeps_less_for_the_gradient():
    def body(window):
        for _ in range(8):
            window = jnp.sin(window)
        return window

    def kept(**options):
        f = jax.jit(jax.grad(lambda w: jnp.sum(rollout(body, w, 64, **options))))
        return f.lower(jnp.ones((1, 4096))).compile().memory_analysis().temp_size_in_bytes

    everything, windows, some = kept(), kept(remat=True), kept(remat=True, every=8)
    assert windows < 0.4 * everything and some < 0.6 * windows


def test_one_step_is_the_relative_misfit():
    weight, window, target = matrix(), field(4, 2, 3, 5), field(4, 1, 3, 5, seed=1)
    model = Nonlinear(weight)
    ours = rollout_misfit()(model, (window, target))["misfit"]
    np.testing.assert_allclose(ours, relative_misfit(model, (window, target))["misfit"], rtol=1e-5, atol=1e-6)


def test_scales_of_channels():
    batch = jnp.zeros((1, 1, 2, 1)), jnp.array([3.0, 400.0]).reshape(1, 1, 2, 1)

    def still(window):
        return window

    def residual(**options):
        return rollout_misfit(**options)(still, batch)["misfit"].reshape(-1)

    np.testing.assert_allclose(residual(relative=False), [-3, -400])
    np.testing.assert_allclose(residual(relative=False, scale=10.0), [-0.3, -40])
    np.testing.assert_allclose(residual(relative=False, scale=(1.0, 100.0)), [-3, -4])
    np.testing.assert_allclose(residual(scale=(1.0, 100.0)), np.array([-3, -4]) / np.sqrt(12.5))
    by_normaliser = residual(relative=False, scale=Normaliser([7.0, 8.0], [1.0, 100.0], axis=1))
    np.testing.assert_allclose(by_normaliser, [-3, -4])
    with pytest.raises(ValueError, match="3 scales do not fit"):
        residual(scale=(1.0, 2.0, 3.0))


def test_a_normalised_model_is_measured_in_its_own_scale():
    change = Normaliser([0.0, 0.0], [0.5, 20.0], axis=1, difference=True)
    inputs = Normaliser([0.0, 0.0], [1.0, 1.0], axis=1)
    model = normalised(lambda w: 0.1 * w, inputs, change, residual=True)
    window, target = field(3, 1, 2, 4), field(3, 1, 2, 4, seed=1)
    ours = rollout_misfit(relative=False)(model, (window, target))["misfit"]
    np.testing.assert_allclose(ours, scaled_misfit(model, (window, target))["misfit"], rtol=1e-4, atol=1e-5)


def test_missing_values_of_a_normalised_model_do_not_count():
    change = Normaliser([0.0], [0.5], axis=1, difference=True, fill=True)
    inputs = Normaliser([0.0], [1.0], axis=1, fill=True)
    target, window = field(2, 3, 1, 4), field(2, 1, 1, 4, seed=1)
    holes = (window.at[..., 1].set(jnp.nan), target.at[..., 1].set(jnp.nan))

    def value(slope, batch, relative):
        model = normalised(lambda w: slope * w, inputs, change, residual=True)
        return total(rollout_misfit(relative=relative)(model, batch))

    both = jax.jit(jax.value_and_grad(value), static_argnums=2)
    for relative in (False, True):
        found, slope = both(0.3, holes, relative)
        kept = tuple(jnp.delete(a, 1, axis=-1) for a in (window, target))
        wanted, wanted_slope = both(0.3, kept, relative)
        np.testing.assert_allclose((found, slope), 0.75 * np.array((wanted, wanted_slope)), rtol=1e-5)


def test_losses_with_constant_and_known_inputs():
    def model(window, slope, known):
        return window + slope * known

    window, slope = jnp.zeros((2, 1, 1)), jnp.array([[1.0], [10.0]])
    forcing = jnp.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])[:, :, None]
    target = slope[:, :, None] * jnp.cumsum(forcing, axis=1)
    batch = (window, slope, forcing, target)
    misfits = rollout_misfit(forcing=True), rollout_misfit(steps=2, forcing=True)
    pushed = (pushforward(misfits[0], steps, forcing=True) for steps in (None, 1))
    for loss, frames in zip((*misfits, *pushed), (3, 2, 1, 2)):
        (residual,) = loss(model, batch).values()
        assert residual.shape == (2, frames, 1)
        np.testing.assert_allclose(residual, 0.0, atol=1e-6)
    # Without forcing, what stands between is the same in each call.
    (residual,) = rollout_misfit()(lambda w, s: model(w, s, 1.0), (window, slope, target)).values()
    np.testing.assert_allclose(residual[1], 0.0, atol=1e-6)
    with pytest.raises(ValueError, match="got a window alone"):
        rollout_misfit(forcing=True)(model, (window, target))


def test_pushforward_gradient_is_that_of_the_last_step_alone():
    # x -> w x: after k - 1 steps without gradient, d/dw (w x' - y)^2 = 2 x' (w x' - y) with x' = w^(k-1) x.
    w, x, y, k = 1.3, 0.7, 0.5, 4
    batch = (jnp.full((1, 1, 1), x), jnp.full((1, k, 1), y))
    loss = pushforward(rollout_misfit(relative=False))

    def value(w):
        return total(loss(lambda window: w * window, batch))

    pushed = w ** (k - 1) * x
    np.testing.assert_allclose(value(w), (w * pushed - y) ** 2, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(value)(w), 2 * pushed * (w * pushed - y), rtol=1e-5)
    # Two frames ahead: the rest is a rollout of two steps, from w^2 x.
    begun = w**2 * x
    through = (2 * begun * (w * begun - y) + 2 * 2 * w * begun * (w**2 * begun - y)) / 2
    loss = pushforward(rollout_misfit(relative=False), 2)
    np.testing.assert_allclose(jax.grad(value)(w), through, rtol=1e-5)


def test_pushforward_gradient_stops_within_a_module_too():
    weight, window = matrix(), field(4, 2, 3, 5)
    target = field(4, 3, 3, 5, seed=1)
    loss = pushforward(rollout_misfit(relative=False))
    grad = jax.jit(jax.grad(lambda w: total(loss(Nonlinear(w), (window, target)))))(weight)
    ahead = jax.vmap(lambda w: rollout(Nonlinear(weight), w, 2))(window)
    wanted = jax.jit(jax.grad(loop_loss))(weight, ahead, target[:, 2:])
    np.testing.assert_allclose(grad, wanted, rtol=1e-5, atol=1e-7)


def test_pushforward_of_bundles_and_of_normalised_models():
    a = matrix()
    inputs, change = Normaliser([1.0], [2.0], axis=1), Normaliser([0.1], [0.3], axis=1, difference=True)
    model = normalised(Linear(a, 2), inputs, change, residual=True)
    window, target = field(4, 2, 1, 5), field(4, 6, 1, 5, seed=1)
    terms = pushforward(scaled_misfit)(model, (window, target))
    ahead = jax.vmap(lambda w: rollout(model, w, 4))(window)[:, -2:]
    wanted = scaled_misfit(model, (ahead, target[:, 4:]))["misfit"]
    np.testing.assert_allclose(terms["pushforward misfit"], wanted, rtol=1e-4, atol=1e-4)


def test_pushforward_keeps_the_last_step_only():
    window, target = jnp.ones((2, 1, 1, 4096)), jnp.ones((2, 33, 1, 4096))

    def kept(loss):
        f = jax.jit(jax.grad(lambda w: total(loss(lambda x: jnp.sin(jnp.sin(w * x)), (window, target)))))
        return f.lower(jnp.ones(4096)).compile().memory_analysis().temp_size_in_bytes

    assert kept(pushforward(rollout_misfit())) < 0.3 * kept(rollout_misfit())


def test_pushforward_beside_the_loss_of_one_step():
    both = combine(rollout_misfit(steps=1), pushforward(rollout_misfit()))
    terms = both(Nonlinear(matrix()), (field(4, 2, 3, 5), field(4, 3, 3, 5)))
    assert {n: r.shape for n, r in terms.items()} == {"misfit": (4, 1, 3, 5), "pushforward misfit": (4, 1, 3, 5)}


def test_pushforward_says_what_does_not_fit():
    batch = field(2, 1, 3, 5), field(2, 4, 3, 5)
    for steps, frames in ((4, 1), (1, 2), (-1, 1)):
        with pytest.raises(ValueError, match="expected whole calls"):
            pushforward(rollout_misfit(), steps)(Linear(matrix(), frames), batch)
    with pytest.raises(TypeError, match="dict of residuals"):
        pushforward(lambda m, b: jnp.zeros(()))(Linear(matrix()), batch)


def test_training_through_time_finds_the_map():
    a = matrix()
    start = field(64, 1, 1, 5)
    target = jax.vmap(lambda w: rollout(Linear(a), w, 4))(start)
    guess = Linear(a + 0.2 * field(5, 5, seed=3))
    for loss in (rollout_misfit(), combine(rollout_misfit(steps=1), pushforward(rollout_misfit()))):
        model, _ = fit(
            guess, loss, [(start, target)], optax.adam(optax.cosine_decay_schedule(3e-2, 800)), steps=800, report=None
        )
        np.testing.assert_allclose(model.matrix, a, atol=5e-3)


# Measures.


def test_a_rolled_model_is_a_model():
    a, window = matrix(), field(4, 2, 3, 5)
    target = field(4, 6, 3, 5, seed=1)
    model = rolled(Linear(a, 2), 6)
    np.testing.assert_allclose(jax.vmap(model)(window)[1], rollout(Linear(a, 2), window[1], 6), atol=1e-6)
    h1 = h1_misfit(grid=-1)
    through = through_time(h1)(Linear(a, 2), (window, target))
    for name, residual in h1(model, (window, target)).items():
        np.testing.assert_allclose(through[name], residual, atol=1e-6)
    forced = rolled(lambda w, s, f: w + s * f, 3, forcing=True)
    np.testing.assert_allclose(forced(jnp.zeros((1, 1)), 2.0, jnp.arange(3.0))[:, 0], [0, 2, 6])


def grown(samples=5):
    """The truth grows by 1 with each frame."""
    start = field(samples, 1, 2, 4, 4)
    return start, start + jnp.arange(1.0, 4)[:, None, None, None]


@pytest.mark.parametrize("memory", [1, 5_000, 2**28])
def test_errors_by_lead_time(memory):
    # The model grows by 1.5, so that its error is half of the lead time.
    start, target = grown()
    batches = iter([(start[:2], target[:2]), ((start[2:], target[2:]), jnp.array([True, True, False]))])
    errors = rollout_errors(lambda w: w + 1.5, batches, names=("u", "v"), memory=memory)
    assert errors.rmse.dims == ("variable", "lead_time") and errors.attrs["samples"] == 4
    assert errors.lead_time.values.tolist() == [1, 2, 3]
    for name in ("rmse", "bias", "max_error"):
        np.testing.assert_allclose(errors[name].sel(variable="u"), np.arange(1, 4) / 2, rtol=1e-5)


def test_errors_of_a_data_set_of_windows():
    n, times = 8, 30
    x = np.random.default_rng(0).normal(size=(1, n)) + np.arange(times)[:, None]
    data = in_memory({"u": (("time", "x"), x.astype(np.float32))}, coords={"time": 6.0 * np.arange(times)})
    errors = rollout_errors(lambda w: w[-1] + 0.9, data.windows(2, 3))
    np.testing.assert_allclose(errors.rmse.sel(variable="u"), 0.1 * np.arange(1, 4), rtol=1e-4)
    assert errors.lead_time.values.tolist() == [6.0, 12.0, 18.0] and errors.attrs["samples"] == 26


def test_errors_are_taken_for_as_many_samples_as_fit():
    sizes = []

    @jax.custom_batching.custom_vmap
    def spied(window):
        return jnp.sin(window)

    @spied.def_vmap
    def _(size, batched, window):
        sizes.append(size)
        return jnp.sin(window), True

    start, target = jnp.ones((64, 1, 1, 4096)), jnp.ones((64, 2, 1, 4096))
    rollout_errors(lambda w: spied(w), [(start, target)], memory=100 * start[0].nbytes)
    assert 2 <= max(sizes) <= 12
    sizes.clear()
    rollout_errors(lambda w: spied(w), [(start, target)])
    assert max(sizes) == 64


def test_errors_of_no_batches():
    with pytest.raises(ValueError, match="no batch"):
        rollout_errors(lambda w: w, [])


def waves(samples=3, n=32):
    x = np.arange(n) * 2 * np.pi / n
    amplitudes = np.arange(1, samples + 1)[:, None]
    return jnp.asarray((amplitudes * (np.sin(x) + 0.5 * np.cos(3 * x)))[:, None, None, :], jnp.float32)


def test_stability_of_a_growing_map():
    windows = waves()
    found = stability(lambda w: 1.5 * w, windows, 12, limit=10.0)
    np.testing.assert_allclose(found.growth_rate, np.log(1.5), rtol=1e-5)
    rms = np.sqrt(np.mean(np.asarray(windows) ** 2, axis=(1, 2, 3)))
    data = np.sqrt(np.mean(np.asarray(windows) ** 2))
    for s in range(3):
        np.testing.assert_allclose(found.norm[s, :, 0], rms[s] * 1.5 ** np.arange(1, 13), rtol=1e-5)
        first = int(np.floor(np.log(10 * data / rms[s]) / np.log(1.5))) + 1
        assert found.blow_up[s] == first
    np.testing.assert_allclose(found.energy_drift[0], 1.5 ** (2 * np.arange(1, 13)) - 1, rtol=1e-5)
    # Of 16 shells the two that have power are wrong by the same factor.
    wanted = 2 * np.arange(1, 13) * np.log10(1.5) * (2 / 16) ** 0.5
    np.testing.assert_allclose(found.spectrum_drift[0], wanted, rtol=1e-3)


def test_stability_of_an_orthogonal_map():
    found = stability(lambda w: jnp.roll(w, 1, axis=-1), waves(), 50)
    np.testing.assert_allclose(found.growth_rate, 0.0, atol=1e-6)
    assert np.isnan(found.blow_up).all()
    assert abs(found.energy_drift).max() < 1e-5 and found.spectrum_drift.max() < 1e-3


def test_stability_sees_numbers_that_are_not_finite():
    found = stability(lambda w: w * w, 2 + 0 * waves(), 20, limit=1e30)
    # 2 ** (2 ** k) overflows at k = 7; its square, in the norm, at k = 6.
    assert (found.blow_up == 6).all() and np.isfinite(found.growth_rate).all()


def test_valid_prediction_times():
    # The truth stands still, the model moves it by one point of 32 with each frame: the correlation of a sine is
    # cos(2 pi k / 32), its RMSE over the standard deviation 2 sin(pi k / 32).
    x = np.arange(32) * 2 * np.pi / 32
    windows = jnp.asarray(np.sin(x), jnp.float32)[None, None, None]
    target = jnp.tile(windows, (1, 10, 1, 1))
    found = stability(lambda w: jnp.roll(w, 1, axis=-1), windows, 10, target=target, correlation=0.8, error=0.5)
    k = np.arange(1, 11)
    np.testing.assert_allclose(found.correlation[0, :, 0], np.cos(2 * np.pi * k / 32), atol=1e-5)
    np.testing.assert_allclose(found.error[0, :, 0], 2 * np.sin(np.pi * k / 32), rtol=1e-4)
    assert found.correlated == 3 and found.accurate == 2
    perfect = stability(lambda w: w, windows, 10, target=target)
    assert perfect.correlated == 10 and perfect.accurate == 10
    thin = stability(lambda w: jnp.roll(w, 1, axis=-1), windows, 10, every=2, names=("u",), size=1)
    assert thin.lead_time.values.tolist() == [2, 4, 6, 8, 10] and thin.norm.dims == ("sample", "lead_time", "variable")
    with pytest.raises(ValueError, match="target of 9 frames"):
        stability(lambda w: w, windows, 9, target=target)


def test_stability_with_constant_and_known_inputs():
    windows, slope = jnp.ones((2, 1, 1, 4)), jnp.array([1.0, 2.0])
    forcing = jnp.array([[1.0, 0.0, 3.0], [1.0, 1.0, 1.0]])
    found = stability(lambda w, s, f: w + s * f, windows, 3, slope, forcing=forcing)
    np.testing.assert_allclose(found.norm[..., 0], [[2, 2, 5], [3, 5, 7]])


# Projections.


@pytest.mark.parametrize("grid", [(16,), (16, 12), (9, 16), (8, 6, 10)])
def test_divergence_vanishes_and_projecting_twice_is_projecting_once(grid):
    with jax.enable_x64(True):
        lengths = tuple(np.arange(1.0, len(grid) + 1))
        u = jnp.asarray(np.random.default_rng(0).normal(size=(len(grid), *grid)))
        v = leray(u, lengths)
        pieces = [
            grid_derivative(v[i], length / n, axis=i, periodic=length)
            for i, (n, length) in enumerate(zip(grid, lengths))
        ]
        size = max(float(jnp.abs(p).max()) for p in pieces)
        assert float(jnp.abs(sum(pieces)).max()) < 1e-12 * max(1.0, size)
        np.testing.assert_allclose(leray(v, lengths), v, atol=1e-14)
        np.testing.assert_allclose(v.mean(axis=range(1, v.ndim)), u.mean(axis=range(1, v.ndim)), atol=1e-14)
        # The nearest one: what is taken away is orthogonal to what is left.
        assert abs(float(jnp.sum((u - v) * v))) < 1e-11


def test_projection_of_a_known_field():
    n = 32
    x, y = np.meshgrid(np.arange(n) * 2 * np.pi / n, np.arange(n) * 4 * np.pi / n, indexing="ij")
    swirl = np.stack([np.sin(x) * np.cos(y), -np.cos(x) * np.sin(y)])
    gradient = np.stack([np.cos(x + 2 * y), 2 * np.cos(x + 2 * y)])
    u = jnp.asarray(swirl + gradient + 3.0, jnp.float32)
    np.testing.assert_allclose(leray(u, (2 * np.pi, 4 * np.pi)), swirl + 3.0, atol=1e-5)
    half = leray(u.astype(jnp.bfloat16), (1.0, 2.0))
    assert half.dtype == jnp.bfloat16 and float(jnp.abs(half - (swirl + 3.0)).max()) < 0.1


def test_divergence_free_models():
    network = Network(3, 3, key=KEY)
    model = divergence_free(network, (2, 0), lengths=(1.0, 2.0))
    a = field(3, 8, 10)
    u, plain = eqx.filter_jit(model)(a), network(a)
    np.testing.assert_array_equal(u[1], plain[1])
    np.testing.assert_allclose(u[jnp.array([2, 0])], leray(plain[jnp.array([2, 0])], (1.0, 2.0)), atol=1e-6)
    stepper = divergence_free(Stepper(network), (2, 0), lengths=(1.0, 2.0))
    np.testing.assert_allclose(rollout(stepper, a[None], 1)[0], u, atol=1e-6)
    # Each step of a rollout keeps it.
    frames = rollout(stepper, a[None], 3)
    pair = frames[-1][jnp.array([2, 0])]
    np.testing.assert_allclose(leray(pair, (1.0, 2.0)), pair, atol=1e-6)
    grad = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(m(a) ** 2)))(model)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grad))


def test_divergence_free_says_what_does_not_fit():
    with pytest.raises(ValueError, match="a length for each axis"):
        divergence_free(lambda a: a, (0, 1), lengths=(1.0,))
    with pytest.raises(ValueError, match="above 0"):
        divergence_free(lambda a: a, (0, 1), lengths=0.0)
    with pytest.raises(ValueError, match="no channel 5"):
        divergence_free(lambda a: a, (0, 5))(jnp.ones((2, 4, 4)))
    with pytest.raises(ValueError, match="with 2 dimensions of space"):
        divergence_free(lambda a: a, (0, 1))(jnp.ones((2, 4)))


def quadrature(u, axes):
    for axis in reversed(axes):
        u = np.asarray(u, float) @ axis.weights(u.shape[-1])
    return u


@pytest.mark.parametrize("multiplicative", [False, True])
@pytest.mark.parametrize("axes", [(Periodic(), Periodic()), (Bounded(points=ends), Cosine(points=centres))])
def test_integrals_are_conserved(axes, multiplicative):
    network = Network(3, 3, key=KEY)
    model = conserve(lambda a: 2 + jnp.abs(network(a)), (0, 2), axes=axes, multiplicative=multiplicative)
    a = 1 + jnp.abs(field(3, 7, 9))
    u, plain = model(a), 2 + jnp.abs(network(a))
    np.testing.assert_allclose(quadrature(u, axes)[[0, 2]], quadrature(a, axes)[[0, 2]], rtol=1e-6)
    np.testing.assert_array_equal(u[1], plain[1])
    change = u[0] / plain[0] if multiplicative else u[0] - plain[0]
    np.testing.assert_allclose(change, change.mean(), rtol=1e-5)


def test_conservation_of_frames_and_of_other_channels():
    def model(window, k):
        return jnp.stack([window[-1, :1] * k, window[-1, 1:2] + 7.0, window[0, :1]])

    axes = (Periodic(),)
    window = field(2, 3, 8)
    out = conserve(model, {0: 2}, dimensions=1)(window, 3.0)
    assert out.shape == (3, 1, 8)
    np.testing.assert_allclose(quadrature(out, axes)[:, 0], quadrature(window, axes)[-1, 2], atol=1e-6)
    # A rollout keeps the integral of its first window for good.
    frames = rollout(conserve(lambda w: jnp.sin(2 * w) + 1, dimensions=1), window[-1:], 50)
    np.testing.assert_allclose(quadrature(frames, axes), np.tile(quadrature(window[-1], axes), (50, 1)), atol=1e-5)


def test_conserve_says_what_does_not_fit():
    with pytest.raises(ValueError, match="no channel 3; the output has 2"):
        conserve(lambda a: a, (3,))(jnp.ones((2, 4, 4)))
    with pytest.raises(ValueError, match="no channel 4; the input has 2"):
        conserve(lambda a: a, {0: 4})(jnp.ones((2, 4, 4)))
    with pytest.raises(ValueError, match="dimensions=..., and jax.vmap"):
        conserve(lambda a: a)(jnp.ones((4, 1, 2, 4, 4)))


def test_bounds():
    u = jnp.linspace(-1e6, 1e6, 2001).reshape(1, 3, 667)

    def same(a):
        return a

    positive = in_range(same, softness=0.1)(u)
    assert float(positive.min()) >= 0 and bool((jnp.diff(positive.reshape(-1)) >= 0).all())
    between = in_range(same, 0.2, 0.9, softness=0.05)(u)
    assert float(between.min()) >= 0.2 and float(between.max()) <= 0.9
    inside = jnp.full((1, 2, 2), 0.55)
    np.testing.assert_allclose(in_range(same, 0.2, 0.9, softness=0.02)(inside), inside, rtol=1e-6)
    below = in_range(same, -jnp.inf, 3.0, softness=0.1)(jnp.array([[[-50.0, 10.0]]]))
    np.testing.assert_allclose(below, [[[-50.0, 3.0]]], rtol=1e-6)
    slope = jax.grad(lambda z: in_range(same, softness=0.5)(z.reshape(1, 1, 1)).sum())(jnp.array(0.0))
    np.testing.assert_allclose(slope, 0.5, rtol=1e-6)
    two = in_range(same, softness=0.1, channels=(1,))(jnp.full((3, 2, 2, 2), -5.0))
    assert float(two[:, 0].max()) == -5.0 and float(jnp.abs(two[:, 1]).max()) < 1e-6


@pytest.mark.parametrize("low, high, softness", [(1.0, 0.0, 0.1), (0.0, 1.0, 0.0), (-np.inf, np.inf, 0.1)])
def test_bounds_that_cannot_be(low, high, softness):
    with pytest.raises(ValueError, match="expected low < high"):
        in_range(lambda a: a, low, high, softness=softness)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: conserve(m, (0,), axes=(Cosine(), Periodic())),
        lambda m: divergence_free(m, (0, 1)),
        lambda m: in_range(m, 0.0, 2.0, softness=0.1, channels=(2,)),
    ],
)
def test_projected_models_are_compiled_mapped_saved_and_kept(wrap, tmp_path):
    model = wrap(Network(3, 3, key=KEY))
    a = field(2, 3, 6, 6)
    out = jax.vmap(model)(a)
    np.testing.assert_allclose(eqx.filter_jit(eqx.filter_vmap(model))(a), out, atol=1e-6)
    sciml.save(tmp_path / "m", model)
    again = sciml.load(tmp_path / "m", wrap(Network(3, 3, key=jax.random.key(5))))
    np.testing.assert_array_equal(jax.vmap(again)(a), out)
    with pytest.raises(ValueError):
        sciml.load(tmp_path / "m", conserve(Network(3, 3, key=KEY), (1,)))
