"""The training loop: what it computes, how it ends, and how it resumes."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sciml import NonFiniteWarning, Stream, fit, hold, misfit, train

TRUTH = np.array([[1.0, -2.0, 0.5]], np.float32)


def batch_of(key):
    x = jax.random.normal(key, (32, 3))
    return x, x @ TRUTH.T + 0.25


def linear(seed=0):
    return eqx.nn.Linear(3, 1, key=jax.random.key(seed))


def leaves(model):
    return [np.asarray(x) for x in jax.tree.leaves(eqx.filter(model, eqx.is_array))]


def equal(a, b):
    return all((x == y).all() for x, y in zip(leaves(a), leaves(b), strict=True))


def test_regression_finds_the_truth():
    model, history = fit(linear(), misfit, batch_of, optax.adam(3e-2), steps=800, report=None)
    np.testing.assert_allclose(model.weight, TRUTH, atol=1e-3)
    np.testing.assert_allclose(model.bias, 0.25, atol=1e-3)
    assert list(history["step"].values) == list(range(100, 801, 100))
    assert set(history.data_vars) == {"misfit", "loss"} and history.attrs["stopped"] == "steps"
    assert (np.diff(history["seconds"]) >= 0).all()


def test_compiled_and_iterated_data_agree():
    key = jax.random.key(5)
    batches = [batch_of(jax.random.fold_in(key, i)) for i in range(30)]
    compiled, _ = fit(linear(), misfit, batch_of, optax.adam(1e-2), steps=30, key=key, report=None)
    iterated, _ = fit(linear(), misfit, batches, optax.adam(1e-2), steps=30, report=None)
    for a, b in zip(leaves(compiled), leaves(iterated)):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_list_is_repeated_and_an_iterator_is_not():
    batches = [batch_of(jax.random.key(i)) for i in range(3)]
    twice, _ = fit(linear(), misfit, batches, optax.sgd(0.01), steps=6, report=None)
    written, _ = fit(linear(), misfit, batches + batches, optax.sgd(0.01), steps=6, report=None)
    assert equal(twice, written)
    with pytest.warns(UserWarning, match="ended after 3 batches"):
        model, history = fit(linear(), misfit, iter(batches), optax.sgd(0.01), steps=6, report=None)
    assert equal(model, fit(linear(), misfit, batches, optax.sgd(0.01), steps=3, report=None)[0])
    assert history["step"].values[-1] == 3


def test_reporting_does_not_change_the_result():
    runs = [fit(linear(), misfit, batch_of, optax.adam(1e-2), steps=60, every=n, report=None)[0] for n in (7, 60)]
    assert equal(*runs)
    states = list(train(linear(), misfit, batch_of, optax.adam(1e-2), steps=60, every=25))
    assert [s.step for s in states] == [25, 50, 60] and equal(states[-1].model, runs[0])
    assert states[0].losses["loss"] > states[-1].losses["loss"]


def test_the_loss_is_compiled_once():
    traced = []

    def counted(model, batch):
        traced.append(1)
        return misfit(model, batch)

    fit(linear(), counted, batch_of, optax.adam(1e-2), steps=5, every=5, report=None)
    short = len(traced)
    traced.clear()
    fit(linear(), counted, batch_of, optax.adam(1e-2), steps=437, every=50, report=None)
    assert len(traced) == short


def test_lbfgs_of_optax_runs_in_the_loop():
    def quadratic(model, batch):
        return jnp.sum(jnp.array([1.0, 10.0, 100.0]) * (model - 1) ** 2) + 0 * jnp.sum(batch)

    model, history = fit(
        jnp.zeros(3), quadratic, lambda key: jnp.zeros(1), optax.lbfgs(), steps=30, every=30, report=None
    )
    np.testing.assert_allclose(model, 1.0, atol=1e-4)
    assert set(history.data_vars) == {"loss"}


def test_extra_arguments_reach_the_optimiser():
    seen = {}

    def update(updates, state, params, *, value, grad, value_fn, residual_fn, batch, fresh, **extra):
        residuals = residual_fn(params, batch)
        seen["terms"] = list(residuals)
        consistent = jnp.isclose(value, value_fn(params)) & jnp.isclose(value, jnp.mean(residuals["misfit"] ** 2))
        steps = jax.tree.map(lambda g: jnp.where(consistent, -0.1 * g, jnp.nan), grad)
        return steps, state + fresh

    own = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros((), jnp.int32), update)
    held = hold(batch_of, 4)
    states = list(train(linear(), misfit, held, own, steps=12, every=12))
    assert seen["terms"] == ["misfit"] and states[-1].losses["loss"] < 1
    # The batch changes at steps 4 and 8, after the first one.
    assert int(states[-1].optimiser) == 2


def test_a_stream_sees_the_model():
    class Follows(Stream):
        def init(self, key, model):
            return model

        def next(self, key, step, model, batch):
            return model, jnp.array(True)

    # Each step goes a tenth of the way from where the model is to one beyond.
    model, _ = fit(jnp.zeros(()), lambda m, b: (m - (b + 1)) ** 2, Follows(), optax.sgd(0.05), steps=10, report=None)
    assert float(model) == pytest.approx(1.0, rel=1e-5)
    with pytest.raises(ValueError, match="every must be"):
        hold(batch_of, 0)


def test_time_budget():
    start = time.perf_counter()
    _, history = fit(linear(), misfit, batch_of, optax.adam(1e-3), seconds=4.0, report=None)
    assert time.perf_counter() - start < 8.0
    assert history.attrs["stopped"] == "time" and history["step"].values[-1] > 100


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "budget"),
        ({"steps": -1}, ValueError, "positive"),
        ({"seconds": 0.0}, ValueError, "positive"),
        ({"steps": 1, "every": 0}, ValueError, "positive"),
    ],
)
def test_budgets_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        fit(linear(), misfit, batch_of, optax.sgd(0.1), report=None, **arguments)


def test_models_without_numbers_and_wrong_data_are_refused():
    with pytest.raises(ValueError, match="no floating-point arrays"):
        fit({"n": 3}, misfit, batch_of, optax.sgd(0.1), steps=1, report=None)
    with pytest.raises(TypeError, match="iterable of batches|Expected type"):
        fit(linear(), misfit, 3, optax.sgd(0.1), steps=1, report=None)


def breaks(model, batch):
    """The term 'root' has no real value once the model has moved below 0.5."""
    return {"fine": model["a"] + 0 * batch, "root": 0 * jnp.sqrt(model["a"] - 0.5) + 0 * batch}


@pytest.mark.parametrize("data", [lambda key: jnp.zeros(2), [jnp.zeros(2)]])
def test_nan_stops_and_names_step_and_term(data):
    # From 1 the gradient step 0.1 * 2 a leaves 0.8, 0.64, 0.512, and then 0.41.
    with pytest.warns(NonFiniteWarning, match="step 5 in term 'root'.*step 4"):
        model, history = fit({"a": jnp.array(1.0)}, breaks, data, optax.sgd(0.1), steps=50, every=1, report=None)
    assert np.isfinite(float(model["a"]))
    assert "non-finite at step 5" in history.attrs["stopped"]


def test_a_loss_that_is_nan_at_the_start_is_an_error():
    with pytest.raises(ValueError, match="'root' is nan before the first step"):
        fit({"a": jnp.array(0.0)}, breaks, lambda key: jnp.zeros(2), optax.sgd(0.1), steps=5, report=None)


def test_double_precision_within_a_context():
    with jax.enable_x64(True):
        model, _ = fit(jnp.ones(2), lambda m, b: jnp.sum(m**2), lambda k: 0.0, optax.sgd(0.1), steps=3, report=None)
    assert model.dtype == np.float64 and not jax.config.jax_enable_x64


def test_interrupted_data_ends_the_fit_with_the_last_good_model(capsys):
    def batches():
        yield from (batch_of(jax.random.key(i)) for i in range(4))
        raise KeyboardInterrupt

    model, history = fit(linear(), misfit, batches(), optax.sgd(0.01), steps=10, report=None)
    whole = [batch_of(jax.random.key(i)) for i in range(4)]
    assert equal(model, fit(linear(), misfit, whole, optax.sgd(0.01), steps=4, report=None)[0])
    assert history.attrs["stopped"] == "interrupted" and "interrupted at step 4" in capsys.readouterr().err


# Checkpoints.


def test_a_resumed_run_equals_the_whole_one(tmp_path):
    path, optimiser, data = tmp_path / "run", optax.adam(1e-2), hold(batch_of, 7)
    whole, history = fit(linear(), misfit, data, optimiser, steps=50, every=10, report=None)
    fit(linear(), misfit, data, optimiser, steps=23, every=10, checkpoint=path, report=None)
    resumed, again = fit(linear(), misfit, data, optimiser, steps=50, every=10, checkpoint=path, report=None)
    assert equal(whole, resumed)
    assert history.drop_vars("seconds").equals(again.drop_vars("seconds"))
    same, _ = fit(linear(), misfit, data, optimiser, steps=50, every=10, checkpoint=path, report=None)
    assert equal(same, whole)


def test_another_run_is_refused(tmp_path):
    path = tmp_path / "run"
    fit(linear(), misfit, batch_of, optax.adam(1e-2), steps=3, checkpoint=path, report=None)
    for arguments in ({"optimiser": optax.sgd(0.1)}, {"key": jax.random.key(9)}, {"model": linear(0).weight}):
        kept = {"model": linear(), "optimiser": optax.adam(1e-2), "steps": 5, "checkpoint": path} | arguments
        with pytest.raises(ValueError, match="does not match"):
            fit(loss=misfit, data=batch_of, report=None, **kept)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="not a complete file"):
        fit(linear(), misfit, batch_of, optax.adam(1e-2), steps=5, checkpoint=path, report=None)


SCRIPT = """
import sys, time, jax, numpy as np, optax, equinox as eqx, jax.numpy as jnp
import sciml, sciml._fit
from sciml import fit, hold, misfit
sciml._fit.CHECKPOINT_SECONDS = sciml._fit.BLOCK_SECONDS = 0.0
kind, path, out, threads = sys.argv[1:5]
def batch_of(key):
    x = jax.random.normal(key, (32, 3))
    return x, jnp.sin(x @ jnp.ones((3, 1)))
model = eqx.nn.MLP(3, 1, 16, 2, key=jax.random.key(0))
if kind == "compiled":
    data = hold(batch_of, 30)
elif kind == "iterated":
    data = [batch_of(jax.random.key(i)) for i in range(7)]
else:
    data = sciml.open(kind)["a", "u"].batches(32, pool=96, threads=int(threads))
slow = path != "none"
def report(state):
    print(state.step, flush=True)
    if slow: time.sleep(0.02)
model, history = fit(model, misfit, data, optax.adam(1e-2), steps=120, every=10,
                     checkpoint=None if path == "none" else path, report=report)
np.savez(out, *jax.tree.leaves(eqx.filter(model, eqx.is_array)), loss=history["loss"].values)
"""


@pytest.mark.parametrize("kind", ["compiled", "iterated", "files"])
def test_killed_and_resumed_bit_for_bit(kind, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    data = kind if kind != "files" else str(tmp_path / "data.h5")
    if kind == "files":
        with h5py.File(data, "w") as file:
            a = np.random.default_rng(0).normal(size=(250, 3)).astype(np.float32)
            for name, values in (("a", a), ("u", np.sin(a.sum(1, keepdims=True)))):
                file.create_dataset(name, data=values, chunks=(8, values.shape[1]), compression="gzip")

    def start(path, out, threads=2):
        command = [sys.executable, str(script), data, str(path), str(out), str(threads)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    whole = start("none", tmp_path / "whole.npz")
    whole.communicate(timeout=120)
    victim = start(tmp_path / "run", tmp_path / "killed.npz")
    for line in victim.stdout:
        if int(line) >= 40:
            victim.send_signal(signal.SIGKILL)
            break
    victim.communicate(timeout=120)
    assert victim.returncode == -signal.SIGKILL and not (tmp_path / "killed.npz").exists()
    # The order of batches does not depend on the number of threads that read.
    resumed = start(tmp_path / "run", tmp_path / "resumed.npz", threads=3)
    first, _ = resumed.communicate(timeout=120)
    assert int(first.split()[0]) > 10
    with np.load(tmp_path / "whole.npz") as a, np.load(tmp_path / "resumed.npz") as b:
        assert all((a[name] == b[name]).all() for name in a.files)


def test_ctrl_c_returns_the_last_good_model(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import signal, jax, jax.numpy as jnp, numpy as np, optax
        from sciml import fit
        # Shells start jobs in the background with the signal ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def report(state):
            if state.step > 1: print("going", flush=True)
        model, history = fit(jnp.ones(3), lambda m, b: jnp.sum(m**2), lambda k: 0.0, optax.sgd(1e-9),
                             steps=10**9, report=report)
        assert np.isfinite(np.asarray(model)).all()
        print(history.attrs["stopped"])
        """)
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "going\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out.split()[-1] == "interrupted" and "last good model is kept" in err


def test_sharded_batches_give_the_same_model(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import jax, jax.numpy as jnp, numpy as np, optax, equinox as eqx
        from jax.sharding import AxisType, NamedSharding, PartitionSpec
        from sciml import fit, misfit
        assert jax.device_count() == 8
        def batch_of(key):
            x = jax.random.normal(key, (32, 3))
            return x, x @ jnp.ones((3, 1))
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        batches = [batch_of(jax.random.key(i)) for i in range(5)]
        for data in (batch_of, batches):
            models = [fit(eqx.nn.Linear(3, 1, key=jax.random.key(0)), misfit, data, optax.adam(1e-2), steps=20,
                          sharding=s, report=None)[0] for s in (None, sharding)]
            for a, b in zip(*(jax.tree.leaves(m) for m in models)):
                np.testing.assert_allclose(a, b, rtol=1e-5)
        print("same")
        """)
    )
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == "same", done.stderr


def test_progress_bar_on_a_terminal_only(capfd):
    pty = pytest.importorskip("pty")
    fit(linear(), misfit, batch_of, optax.adam(1e-2), steps=20)
    assert capfd.readouterr() == ("", "")
    code = textwrap.dedent("""
        import jax, jax.numpy as jnp, optax
        from sciml import fit
        fit(jnp.ones(3), lambda m, b: {"my term": m}, lambda k: 0.0, optax.sgd(0.1), steps=200)
    """)
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        shown += data
        if not data:
            break
    os.close(master)
    assert process.wait(timeout=60) == 0 and b"my term" in shown and b"200" in shown
