"""Every operator on grids: one table of constructors, the same properties for each."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError

import sciml
from sciml import operators as ops

KEY = jax.random.key(0)
PERIODIC, WALLS = ops.Periodic(), ops.Bounded()
SMALL = {"width": 8, "layers": 1}

# Name: (constructor of a model from 2 to 3 channels, grid, axes that are periodic, step of a translation it commutes
# with, a second grid on which it agrees for band-limited input or None).
TABLE = {
    "FNO": (partial(ops.FNO, modes=(3, 3), **SMALL), (16, 12), (0, 1), 1, (24, 18)),
    "FNO 1-D": (partial(ops.FNO, modes=4, **SMALL), (16,), (0,), 1, (24,)),
    "FNO 3-D": (partial(ops.FNO, modes=(2, 2, 2), **SMALL), (8, 6, 8), (0, 1, 2), 1, None),
    "FNO bounded": (partial(ops.FNO, modes=(3, 3), axes=(PERIODIC, WALLS), **SMALL), (12, 9), (0,), 1, None),
    "FNO cosine, sine": (
        partial(ops.FNO, modes=(3, 3), axes=(ops.Cosine(), ops.Sine()), **SMALL),
        (12, 9),
        (),
        1,
        None,
    ),
    "FNO Tucker": (
        partial(ops.FNO, modes=(3, 3), weights=partial(ops.Tucker, rank=0.5), **SMALL),
        (8, 8),
        (0, 1),
        1,
        None,
    ),
    "FNO CP": (partial(ops.FNO, modes=(3, 3), weights=partial(ops.CP, rank=4), **SMALL), (8, 8), (0, 1), 1, None),
    "FNO separable": (partial(ops.FNO, modes=(3, 3), weights=ops.Separable, **SMALL), (8, 8), (0, 1), 1, None),
    "UNO": (partial(ops.UNO, modes=(3, 3), width=4, depth=1), (16, 12), (0, 1), 2, None),
    "UNet": (partial(ops.UNet, width=4, levels=2), (16, 8), (0, 1), 4, None),
    "UNet bounded": (partial(ops.UNet, width=4, levels=2, axes=WALLS), (13, 9), (), 4, None),
    "ConvNextUNet": (partial(ops.ConvNextUNet, width=4, levels=2, blocks=1), (16, 8), (0, 1), 4, None),
    "DilatedResNet": (partial(ops.DilatedResNet, width=4, blocks=1, dilations=(1, 2, 1)), (12, 8), (0, 1), 1, None),
    "LocalOperator": (partial(ops.LocalOperator, width=4, layers=1, radius=0.25), (12, 12), (0, 1), 1, None),
    "AxialTransformer": (partial(ops.AxialTransformer, width=8, layers=1, heads=2), (8, 6), (0, 1), 1, None),
    "VisionTransformer": (
        partial(ops.VisionTransformer, patch=4, width=8, layers=1, heads=2),
        (8, 12),
        (0, 1),
        4,
        None,
    ),
    "Transolver on a grid": (
        lambda i, o, key: ops.OnGrid(ops.Transolver(i, o, width=8, layers=1, heads=2, slices=4, key=key)),
        (8, 6),
        (),
        1,
        None,
    ),
    "SphericalFNO": (partial(ops.SphericalFNO, degree=3, **SMALL), (8, 16), (1,), 1, None),
}
NAMES = list(TABLE)


def made(name, key=KEY):
    """A model, and a smooth input on its grid."""
    constructor, grid, *_ = TABLE[name]
    return constructor(2, 3, key=key), smooth(grid)


def smooth(grid):
    """Two channels of waves that any of the grids holds."""
    x = np.meshgrid(*(2 * np.pi * np.arange(n) / n for n in grid), indexing="ij")
    return jnp.asarray(
        np.stack([sum(np.sin(p + i) for i, p in enumerate(x)), np.prod([np.cos(p) for p in x], axis=0)]), float
    )


@pytest.mark.parametrize("name", NAMES)
def test_compiled_and_batched_as_one_by_one(name):
    model, a = made(name)
    batch = jnp.stack([a, -2 * a])
    one = eqx.filter_jit(model)(a)
    assert one.shape == (3, *a.shape[1:]) and bool(jnp.isfinite(one).all())
    both = eqx.filter_jit(lambda m, b: jax.vmap(m)(b))(model, batch)
    np.testing.assert_allclose(both[0], one, rtol=2e-4, atol=2e-5)
    assert float(jnp.abs(both[1] - both[0]).max()) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name):
    """The gradient is finite, reaches every array, and a step along it lowers the loss."""
    model, a = made(name)
    batch = (jnp.stack([a, -2 * a]), jnp.stack([jnp.ones((3, *a.shape[1:])), jnp.zeros((3, *a.shape[1:]))]))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def value_and_grad(p):
        return jax.value_and_grad(lambda p: jnp.mean(sciml.misfit(eqx.combine(p, static), batch)["misfit"] ** 2))(p)

    value, gradient = value_and_grad(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert bool(jnp.isfinite(leaf).all()) and float(jnp.abs(leaf).max()) > 0, jax.tree_util.keystr(path)
        assert not jnp.iscomplexobj(leaf)
    size = optax.tree_utils.tree_norm(gradient)
    lower, _ = value_and_grad(jax.tree.map(lambda p, g: p - 1e-3 * g / size, params, gradient))
    assert lower < value


@pytest.mark.parametrize("name", NAMES)
def test_translations(name):
    """Translations along periodic axes commute with the model."""
    _, grid, periodic, step, _ = TABLE[name]
    model, a = made(name)
    model = eqx.filter_jit(model)
    for axis in periodic:
        moved = model(jnp.roll(a, step, axis + 1))
        np.testing.assert_allclose(moved, jnp.roll(model(a), step, axis + 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in NAMES if TABLE[n][4]])
def test_a_second_resolution(name):
    """With a linear activation the output is band-limited: the same at the points that two grids share."""
    constructor, grid, _, _, other = TABLE[name]
    with sciml.double_precision():
        model = constructor(2, 3, activation=lambda x: x, key=KEY)
        coarse, fine = model(smooth(grid)), model(smooth(other))
        shared = ops.resample(fine, grid)
    np.testing.assert_allclose(coarse, shared, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded(name, tmp_path):
    model, a = made(name)
    sciml.save(tmp_path / "model.zip", model)
    loaded = sciml.load(tmp_path / "model.zip", made(name, jax.random.key(1))[0])
    for one, two in zip(jax.tree.leaves(loaded), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_other_shapes(name):
    model, a = made(name)
    # Shapes in the signature are checked in tests only, and then before the model looks.
    with pytest.raises((ValueError, TypeCheckError), match="expected|Expected|channels|shape"):
        model(jnp.concatenate([a, a]))
    with pytest.raises((ValueError, TypeCheckError), match="expected|Expected|dimensions"):
        model(a[None])


def test_double_precision_throughout():
    with sciml.double_precision():
        model, a = made("FNO")
        assert eqx.filter_eval_shape(model, a).dtype == np.float64
    for name in ("FNO", "UNet", "AxialTransformer"):
        model, a = made(name)
        assert eqx.filter_eval_shape(model, a.astype(jnp.float32)).dtype == np.float32


def test_vanishing_holds_the_boundary():
    model = ops.vanishing(lambda a: a + 1, (ops.Bounded(points=ops.ends), PERIODIC))
    out = model(jnp.zeros((1, 5, 4)))
    np.testing.assert_allclose(out[0, :, 0], [0, 0.75, 1, 0.75, 0], atol=1e-7)
    np.testing.assert_array_equal(out[0, 2], 1.0)
    with pytest.raises(ValueError, match="expected"):
        model(jnp.zeros((1, 5)))


def test_a_grid_cut_over_devices():
    """Eight devices, two for the samples times four for the first axis of the grid: the same loss and gradient."""
    script = Path(__file__).with_name("sharded_operator.py")
    done = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found.pop("devices") == 8 and len(found) == 4
    assert max(found.values()) < 1e-5, found
