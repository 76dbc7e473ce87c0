"""Data to data: the same numbers after a resume and on more devices, symmetries that equivariant maps commute with,
stages that a single fit goes through.
"""

import os
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from memory_source import in_memory

from sciml import Stream, fit, hold, masked, misfit
from sciml.data._streams import augmented, flips, noise, rotations, shifts, staged
from sciml.metrics import evaluate

KEY = jax.random.key(0)


def series(rows=40, times=6, n=8):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, times, 2, n)).astype(np.float32)
    return in_memory({"u": (("sample", "time", "channel", "x"), values)}, {"u": (4, times, 2, n)})


def jitter(key, batch):
    a, u = batch
    return a + jax.random.normal(key, a.shape), u


def take(stream, count):
    out = [next(stream) for _ in range(count)]
    stream.close()
    return out


def equal(a, b):
    leaves = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    return all(bool((x == y).all()) for x, y in leaves)


# Batches that are changed.


def pairs(count=5, rows=4):
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(rows, 3)).astype(np.float32), np.ones((rows, 3), np.float32)) for _ in range(count)]


@pytest.mark.parametrize("kind", ["files", "list", "generator"])
def test_any_step_has_the_same_numbers_whenever_it_is_begun(kind):
    def data():
        if kind == "files":
            return series().windows(1, 1).batches(16, seed=3)
        return pairs(10) if kind == "list" else (batch for batch in pairs(10))

    whole = take(augmented(data(), jitter, seed=1).from_step(0), 9)
    resumed = take(augmented(data(), jitter, seed=1).from_step(6), 3)
    assert equal(whole[6:], resumed)
    plain = take(augmented(data(), lambda key, batch: batch).from_step(0), 9)
    moved = [w[0] - p[0] for w, p in zip(whole, plain)]
    assert not any(equal(a, b) for a, b in zip(moved[1:], moved))
    assert all(equal(w[1], p[1]) for w, p in zip(whole, plain))
    assert not equal(take(augmented(data(), jitter, seed=2).from_step(0), 1)[0], whole[0])


def test_a_list_is_repeated_with_new_numbers_and_a_loop_is_an_epoch():
    data = augmented(pairs(3), jitter)
    assert len(data) == 3
    first, second = list(data), list(data)
    assert len(first) == len(second) == 3 and equal(first + second, take(data.from_step(0), 6))
    assert not equal(first[0][0], second[0][0])
    assert evaluate(lambda a: a + 1, augmented(pairs(3), lambda key, batch: (batch[1], batch[1]))).rmse == 1.0


def test_functions_have_keys_of_their_own_and_are_compiled_once():
    traced = []

    def spied(key, batch):
        traced.append(1)
        return (*batch, jax.random.normal(key, (4, 3)))

    out = take(augmented(pairs(), spied, spied).from_step(0), 7)
    assert len(traced) == 2 and not equal(out[0][2], out[0][3])


def test_a_function_of_a_key_is_changed_with_a_key_of_its_own():
    data = augmented(lambda key: (jax.random.normal(key, (4, 3)), jnp.ones((4, 3))), jitter)
    a, b = data(jax.random.key(1)), data(jax.random.key(1))
    first, second = jax.random.split(jax.random.key(1))
    wanted = jax.random.normal(first, (4, 3)) + jax.random.normal(jax.random.fold_in(second, 0), (4, 3))
    assert equal(a, b)
    np.testing.assert_allclose(a[0], wanted, rtol=1e-6)


def test_fit_resumes_augmented_data_bit_for_bit(tmp_path):
    def data(scale=0.1, seed=1):
        return augmented(series().windows(1, 1).batches(16), noise(scale), shifts(-1), seed=seed)

    def run(data, steps, path=None):
        return fit(Map(), misfit, data, optax.adam(1e-2), steps=steps, every=5, checkpoint=path, report=None)[0]

    whole = run(data(), 13)
    run(data(), 6, tmp_path / "c")
    assert equal(whole, run(data(), 13, tmp_path / "c"))
    for other in (data(scale=0.2), data(seed=2)):
        with pytest.raises(ValueError, match="augmented"):
            run(other, 13, tmp_path / "c")


class Map(eqx.Module):
    """The same polynomial of each point."""

    coefficients: jax.Array

    def __init__(self):
        self.coefficients = jnp.array([0.1, 0.2])

    def __call__(self, window):
        frames = window[-1:]
        return self.coefficients[0] * frames + self.coefficients[1] * frames**2


def test_threads_end_with_the_stream():
    stream = augmented(series().windows(1, 1).batches(16), jitter).from_step(0)
    next(stream)
    reading = stream.gi_frame.f_locals["stream"].gi_frame.f_locals["stream"]
    stream.close()
    assert not reading._thread.is_alive()


@pytest.mark.parametrize("functions, data", [((), [1]), ((3,), [1]), ((jitter,), 5), ((jitter,), hold(lambda k: k, 2))])
def test_what_cannot_be_augmented(functions, data):
    with pytest.raises(TypeError, match="augmented: "):
        augmented(data, *functions)


def test_more_devices_see_the_same_numbers(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import jax, jax.numpy as jnp, numpy as np, optax
        from jax.sharding import NamedSharding, PartitionSpec
        import sciml
        from test_streams import Map, augmented, noise, pairs, series, shifts, staged
        assert jax.device_count() == 8
        sharding = NamedSharding(sciml.mesh(data=8), PartitionSpec("data"))
        lists = [(a[:, None, None], u[:, None, None]) for a, u in pairs(4, 16)]
        files = series().windows(1, 1).batches(16, pool=80)
        both = staged((3, augmented(files, noise(0.1), shifts(-1), seed=2)), lists)
        data = augmented(both, noise(0.1, walk=True), shifts(-1))
        one, many = data.from_step(0), data.sharded(sharding).from_step(0)
        assert data.mesh is None and data.sharded(sharding).mesh.size == 8
        for _ in range(6):
            for a, b in zip(next(one), next(many)):
                np.testing.assert_array_equal(a, b)
                assert b.sharding.is_equivalent_to(sharding, b.ndim)
        one.close(), many.close()
        models = []
        for s in (None, sharding):
            models.append(sciml.fit(Map(), sciml.misfit, data, optax.adam(1e-2), steps=6, sharding=s, report=None)[0])
        np.testing.assert_allclose(*(m.coefficients for m in models), rtol=1e-5)
        print("same")
        """)
    )
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    settings = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.path.dirname(__file__)}
    environment = os.environ | settings
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "same", done.stderr


# Stages.


def constant(value, frames):
    return [(jnp.full((2, 1, 1, 4), value), jnp.full((2, frames, 1, 4), value)) for _ in range(3)]


def test_stages_follow_each_other():
    data = staged((2, constant(1.0, 1)), (4, constant(2.0, 2)), constant(3.0, 3))
    seen = [(float(a[0, 0, 0, 0]), u.shape[1]) for a, u in take(data.from_step(0), 9)]
    assert seen == [(1, 1)] * 2 + [(2, 2)] * 4 + [(3, 3)] * 3
    for step in range(9):
        assert [(float(a[0, 0, 0, 0]), u.shape[1]) for a, u in take(data.from_step(step), 1)] == seen[step : step + 1]
    assert [u.shape[1] for (_, u), _ in zip(data, range(4))] == [1, 1, 2, 2]


def test_stages_of_files_begin_with_their_first_batch_and_resume():
    parts = [series().windows(1, k).batches(16, seed=k) for k in (1, 2, 3)]
    data = staged((4, parts[0]), (5, augmented(parts[1], jitter)), parts[2])
    whole = take(data.from_step(0), 14)
    assert equal(whole[:4], take(parts[0].from_step(0), 4))
    assert equal(whole[4:9], take(augmented(parts[1], jitter).from_step(0), 5))
    for step in (3, 4, 7, 9, 11):
        assert equal(whole[step:], take(data.from_step(step), 14 - step))


def test_a_stage_that_ends_early_ends_all():
    data = staged((5, iter(constant(1.0, 1))), constant(2.0, 1))
    assert len(list(data)) == 3


def rolled_misfit(model, batch):
    window, target = batch
    frames, frame = [], window[:, -1:]
    for _ in range(target.shape[1]):
        frame = jax.vmap(model)(frame)
        frames.append(frame)
    return {"misfit": jnp.concatenate(frames, axis=1) - target}


def curriculum():
    return staged(
        (4, series().windows(1, 1).batches(16)),
        (5, series().windows(1, 2).batches(16)),
        series().windows(1, 3).batches(8),
    )


def test_fit_goes_through_stages_with_one_state_of_the_optimiser():
    optimiser = optax.adam(1e-2)
    model, state = Map(), optimiser.init(eqx.filter(Map(), eqx.is_array))
    for batch in take(curriculum().from_step(0), 12):
        grad = eqx.filter_grad(lambda m: jnp.mean(rolled_misfit(m, batch)["misfit"] ** 2))(model)
        updates, state = optimiser.update(grad, state)
        model = eqx.apply_updates(model, updates)
    trained, history = fit(Map(), rolled_misfit, curriculum(), optimiser, steps=12, every=1, report=None)
    np.testing.assert_allclose(trained.coefficients, model.coefficients, rtol=1e-5)
    assert history.step.size == 12


def test_fit_compiles_once_for_each_stage():
    shapes = []

    def spied(model, batch):
        shapes.append(batch[1].shape[1])
        return rolled_misfit(model, batch)

    fit(Map(), spied, curriculum(), optax.adam(1e-2), steps=9, report=None)
    begun = list(shapes)
    assert begun == sorted(begun)
    # Twice as many steps in each stage trace no more.
    shapes.clear()
    longer = staged((9, series().windows(1, 1).batches(16)), series().windows(1, 2).batches(16))
    fit(Map(), spied, longer, optax.adam(1e-2), steps=20, report=None)
    assert shapes == begun


def test_fit_resumes_within_a_stage(tmp_path):
    def run(steps, path=None):
        options = {"every": 3, "checkpoint": path, "report": None}
        return fit(Map(), rolled_misfit, augmented(curriculum(), shifts(-1)), optax.adam(1e-2), steps=steps, **options)[
            0
        ]

    whole = run(12)
    run(7, tmp_path / "c")
    assert equal(whole, run(12, tmp_path / "c"))


@pytest.mark.parametrize(
    "stages, kind, message",
    [
        ((), TypeError, "batches alone at the end"),
        ((constant(1.0, 1), constant(1.0, 1)), TypeError, "at the end, got list"),
        (((0, constant(1.0, 1)), constant(1.0, 1)), ValueError, "above 0"),
        (((2, lambda key: key), constant(1.0, 1)), TypeError, "iterable of batches, got function"),
        (((2, constant(1.0, 1)), Stream()), TypeError, "iterable of batches, got Stream"),
    ],
)
def test_stages_that_cannot_be(stages, kind, message):
    with pytest.raises(kind, match=message):
        staged(*stages)


# Functions of a key and a batch.


def changed(change, batch):
    return jax.jit(change)(KEY, batch)


def windows(shape=(6, 2, 3, 8, 8)):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(shape[0], f, *shape[2:])), jnp.float32) for f in (shape[1], 1))


@pytest.mark.parametrize("walk", [False, True])
def test_noise_has_the_deviation_that_is_asked_for(walk):
    batch = jnp.zeros((64, 4, 2, 32)), jnp.ones((64, 1, 2, 32))
    a, u = changed(noise((0.1, 10.0), walk=walk), batch)
    assert equal(u, batch[1])
    frames = np.asarray(a).transpose(1, 2, 0, 3).reshape(4, 2, -1)
    share = np.sqrt(np.arange(1, 5) / 4) if walk else np.ones(4)
    np.testing.assert_allclose(frames.std(axis=-1), share[:, None] * [0.1, 10.0], rtol=0.06)
    between = np.corrcoef(frames[0, 0], frames[3, 0])[0, 1]
    assert abs(between - (0.5 if walk else 0.0)) < 0.06


def test_noise_on_other_entries_and_types():
    batch = jnp.zeros((4, 3), jnp.bfloat16), jnp.zeros((4, 3)), jnp.zeros((4, 1))
    a, b, u = changed(noise(1.0, entries=(0, 1)), batch)
    assert a.dtype == jnp.bfloat16 and not equal(a.astype(jnp.float32), b) and equal(u, batch[2])
    with pytest.raises(ValueError, match="2 channels on axis 2"):
        changed(noise((1.0, 2.0)), windows())
    with pytest.raises(ValueError, match="not be negative"):
        noise(-1.0)
    with pytest.raises(TypeError, match="int32"):
        changed(noise(1.0), (jnp.zeros((2, 2), jnp.int32), jnp.zeros(2)))


class Convolution(eqx.Module):
    """A periodic convolution and a square: it commutes with translations of the grid."""

    layer: eqx.nn.Conv

    def __init__(self):
        self.layer = eqx.nn.Conv(2, 3, 3, 3, padding=1, padding_mode="circular", key=KEY)

    def __call__(self, window):
        return jax.vmap(lambda a: self.layer(a) ** 2)(window)


def test_shifts_commute_with_an_equivariant_model():
    model, (a, _) = Convolution(), windows()
    moved, images = changed(shifts(-2, -1), (a, jax.vmap(model)(a)))
    np.testing.assert_allclose(jax.vmap(model)(moved), images, rtol=1e-4, atol=1e-5)
    assert not any(equal(x, y) for x, y in zip(moved, a))
    # Rows move by amounts of their own, over the whole axis.
    many, _ = changed(shifts(-1), (jnp.tile(jnp.arange(8.0), (400, 1)), jnp.zeros((400, 8))))
    counts = np.bincount(np.asarray(many[:, 0], int), minlength=8)
    assert counts.min() > 25 and counts.sum() == 400


def test_shifts_leave_entries_without_a_grid():
    a, u = windows()
    numbers = jnp.arange(6.0)[:, None]
    with pytest.raises(ValueError, match="name those that have one"):
        changed(shifts(-1), (a, numbers, u))
    moved = changed(shifts(-1, entries=(0, -1)), (a, numbers, u))
    assert equal(moved[1], numbers) and not equal(moved[2], u)
    for axes in ((), (1,), (-1, -1)):
        with pytest.raises(ValueError, match="counted from the end"):
            shifts(*axes)


def test_padded_batches_keep_their_mask():
    a, u = windows()
    mask = jnp.arange(6) < 4
    (moved, image), same = changed(shifts(-1), ((a, u), mask))
    assert equal(same, mask) and moved.shape == a.shape and not equal(image, u)
    assert masked(misfit)(lambda w: w[:1], ((moved, image), same))["misfit"].shape == u.shape
    with pytest.raises(TypeError, match="tuple of arrays"):
        changed(shifts(-1), a)


def flow(window):
    """Commutes with the symmetries of the square: (u . grad) w + s w of all channels w = (u, v, s)."""
    u, v = window[:, 0:1], window[:, 1:2]
    d_x, d_y = ((jnp.roll(window, -1, axis) - jnp.roll(window, 1, axis)) / 2 for axis in (-2, -1))
    return u * d_x + v * d_y + window[:, 2:3] * window


def curl(window):
    u, v = window[:, 0:1], window[:, 1:2]
    return (jnp.roll(v, -1, -2) - jnp.roll(v, 1, -2) - jnp.roll(u, -1, -1) + jnp.roll(u, 1, -1)) / 2


def test_flips_commute_with_a_flow():
    a, _ = windows((40, 2, 3, 8, 8))
    change = flips(-2, -1, odd={-2: [0], -1: [1]})
    flipped, images = changed(change, (a, jax.vmap(flow)(a)))
    np.testing.assert_allclose(jax.vmap(flow)(flipped), images, rtol=1e-4, atol=1e-5)
    kinds = {tuple(np.sign(np.asarray(f[0, :2].mean((-2, -1)) / x[0, :2].mean((-2, -1))))) for f, x in zip(flipped, a)}
    assert len(kinds) == 4
    # A vorticity changes sign with each flip.
    vorticity = jax.vmap(curl)(a)
    (mirrored,) = changed(flips(-2, -1, odd={-2: [0], -1: [0]}), (vorticity,))
    np.testing.assert_allclose(jax.vmap(curl)(flipped), mirrored, rtol=1e-4, atol=1e-5)


def test_rotations_commute_with_a_flow():
    a, _ = windows((40, 2, 3, 8, 8))
    turned, images = changed(rotations(vectors=[(0, 1)]), (a, jax.vmap(flow)(a)))
    np.testing.assert_allclose(jax.vmap(flow)(turned), images, rtol=1e-4, atol=1e-5)
    (vorticity,) = changed(rotations(), (jax.vmap(curl)(a),))
    np.testing.assert_allclose(jax.vmap(curl)(turned), vorticity, rtol=1e-4, atol=1e-5)
    (spots,) = changed(rotations(), (jnp.zeros((40, 3, 3)).at[:, 0, 0].set(1.0),))
    corners = {int(jnp.argmax(x)) for x in spots}
    assert corners == {0, 2, 6, 8}


def test_a_quarter_turn_of_a_known_vector():
    # A vector along the first axis at the far end of it: turned by 90 degrees it points along the second, at its end.
    u = jnp.zeros((60, 2, 3, 3)).at[:, 0, 2, 1].set(1.0)
    turned = np.asarray(changed(rotations(vectors=[(0, 1)], channel_axis=1), (u,))[0])
    found = {tuple(int(i) for i in np.argwhere(x)[0]) + (int(x.sum()),) for x in turned}
    assert found == {(0, 2, 1, 1), (1, 1, 2, 1), (0, 0, 1, -1), (1, 1, 0, -1)}


def test_symmetries_that_do_not_fit():
    a, u = windows()
    with pytest.raises(ValueError, match="odd channels are given for axes"):
        flips(-1, odd={-2: [0]})
    with pytest.raises(ValueError, match="at least 4 channels on axis 2"):
        changed(flips(-1, odd={-1: [3]}), (a, u))
    with pytest.raises(ValueError, match="as many points"):
        changed(rotations(), (a[..., :4],))
    with pytest.raises(ValueError, match="at least 6 channels"):
        changed(rotations(vectors=[(0, 5)]), (a, u))
