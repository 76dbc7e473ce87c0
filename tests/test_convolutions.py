"""Convolutional operators against explicit sums, derivatives and integrals that are known, and symmetries."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from scipy.signal import correlate

import sciml
from sciml.operators._axes import Bounded, Cosine, Periodic, Sine, centres, ends, interior, left
from sciml.operators._convolution import (
    ChannelNorm,
    Convolution,
    Upsampling,
    coarse_size,
    max_pool,
)
from sciml.operators._dilated import DilatedResNet
from sciml.operators._local import DifferentialKernel, IntegralKernel, LocalOperator, _hat_integrals
from sciml.operators._unet import ConvNextUNet, UNet

KEY = jax.random.key(0)
MODELS = {
    UNet: {"width": 4, "levels": 2},
    ConvNextUNet: {"width": 4, "levels": 2, "blocks": 1},
    DilatedResNet: {"width": 4, "blocks": 1, "dilations": (1, 2, 1)},
    LocalOperator: {"width": 4, "layers": 1, "radius": 0.3},
}
# Each with a number of points that halves twice.
MIRRORED = [
    (Bounded(centres), 8),
    (Bounded(ends), 9),
    (Bounded(interior), 7),
    (Cosine(centres), 8),
    (Cosine(ends), 9),
    (Sine(interior), 11),
]

run = eqx.filter_jit(lambda model, a: model(a))
batched = eqx.filter_jit(lambda model, batch: jax.vmap(model)(batch))


def make(kind, *channels, **settings):
    """A layer or a model with other numbers than it is born with: none is zero, and nothing is compiled."""
    shapes = eqx.filter_eval_shape(lambda: kind(*channels, **settings, key=KEY))
    rng = np.random.default_rng(0)

    def numbers(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) * (2 / max(2, np.prod(leaf.shape[1:]))) ** 0.5, leaf.dtype)

    return jax.tree.map(lambda leaf: numbers(leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, shapes)


def without_bias(layer):
    return eqx.tree_at(lambda m: m.bias, layer, replace_fn=jnp.zeros_like)


def build(kind, in_channels=2, out_channels=3, **settings):
    return make(kind, in_channels, out_channels, **(MODELS[kind] | settings))


def field(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def beyond(axis, u, i):
    """The value at any integer i of a field along an axis, from the definition of the axis."""
    n = len(u)
    if isinstance(axis, Periodic):
        return u[i % n]
    if isinstance(axis, Bounded):
        return u[i] if 0 <= i < n else 0.0
    if axis.points is centres:
        return u[i] if 0 <= i < n else beyond(axis, u, -1 - i if i < 0 else 2 * n - 1 - i)
    if axis.points is ends:
        return u[i] if 0 <= i < n else beyond(axis, u, -i if i < 0 else 2 * n - 2 - i)
    assert isinstance(axis, Sine) and axis.points is interior
    if i in (-1, n):
        return 0.0
    return u[i] if 0 <= i < n else -beyond(axis, u, -2 - i if i < 0 else 2 * n - i)


@pytest.mark.parametrize("axis, n", [(Periodic(), 8), *MIRRORED])
@pytest.mark.parametrize("window, stride, dilation", [(5, 1, 2), (None, 2, 1), (None, 4, 1)])
def test_convolution_is_the_explicit_sum(axis, n, window, stride, dilation):
    layer = make(Convolution, 1, 1, dimensions=1, window=window, stride=stride, dilation=dilation, axes=axis)
    u, weight = field(n), np.asarray(layer.weight[0, 0])
    fine = axis.coordinates(n)
    m = coarse_size(axis, n, stride)
    # The windows are centred on the coarse points, wherever those lie on the fine grid.
    centre = np.interp(axis.coordinates(m), fine, np.arange(n))
    if isinstance(axis, Periodic) and stride > 1:
        centre = np.arange(m) * stride + (stride - 1) / 2
    offsets = dilation * (np.arange(len(weight)) - (len(weight) - 1) / 2)
    places = centre[:, None] + offsets
    np.testing.assert_allclose(places, np.round(places), atol=1e-9)
    expected = [sum(w * beyond(axis, u, round(i)) for w, i in zip(weight, row)) for row in places]
    np.testing.assert_allclose(run(layer, u[None])[0], np.add(expected, layer.bias[0]), atol=1e-5)


def test_convolution_of_channels_and_groups_in_two_dimensions():
    layer = make(Convolution, 4, 6, groups=2, axes=(Periodic(), Bounded()))
    u, weight = field(4, 5, 6), np.asarray(layer.weight)
    padded = np.pad(np.pad(u, ((0, 0), (1, 1), (0, 0)), mode="wrap"), ((0, 0), (0, 0), (1, 1)))
    for out in range(6):
        group = slice(0, 2) if out < 3 else slice(2, 4)
        expected = correlate(padded[group], weight[out], mode="valid")[0] + layer.bias[out]
        np.testing.assert_allclose(layer(u)[out], expected, atol=1e-5)


@pytest.mark.parametrize("grid", [(11,), (9, 8), (5, 6, 4)])
def test_long_channelwise_kernels_by_fourier_transform(grid):
    layer = make(Convolution, 3, 3, dimensions=len(grid), window=9 if len(grid) == 1 else 3, groups=3, use_bias=False)
    u = field(3, *grid)
    reach = layer.weight.shape[-1] // 2
    padded = np.pad(u, ((0, 0), *[(reach, reach)] * len(grid)), mode="wrap")
    expected = [correlate(padded[i], np.asarray(layer.weight[i, 0]), mode="valid") for i in range(3)]
    np.testing.assert_allclose(layer(u), expected, atol=1e-5)


@pytest.mark.parametrize("before, after", [(0, 0), (2, 0), (1, 3), (12, 9)])
def test_periodic_axis_goes_around(before, after):
    u = field(2, 5, 3)
    pad = lambda u: Periodic().pad(u, 1, before, after)  # noqa: E731
    np.testing.assert_array_equal(pad(u), u[:, np.arange(-before, 5 + after) % 5])
    assert "gather" not in str(jax.make_jaxpr(pad)(u))


@pytest.mark.parametrize("axis, n", MIRRORED)
def test_coarse_axis_has_the_points_that_its_kind_has(axis, n):
    """Averages of the coordinate over windows, and coordinates interpolated from the coarse ones, are exact."""
    m = coarse_size(axis, n, 2)
    fine, coarse = axis.coordinates(n), axis.coordinates(m)
    down = make(Convolution, 1, 1, dimensions=1, stride=2, use_bias=False, axes=axis)
    up = without_bias(make(Upsampling, 1, 1, dimensions=1, axes=axis))
    mean, line = ([0.5, 0.5], [1.0, 1.0]) if axis.points is centres else ([0.25, 0.5, 0.25], [0.5, 1.0, 0.5])
    down = eqx.tree_at(lambda m: m.weight, down, jnp.asarray(mean).reshape(1, 1, -1))
    up = eqx.tree_at(lambda m: m.weight, up, jnp.asarray(line).reshape(1, 1, -1))
    inner = slice(None) if axis.points is centres else slice(1, -1)
    np.testing.assert_allclose(down(jnp.asarray(fine, jnp.float32)[None])[0, inner], coarse[inner], atol=1e-6)
    found = up(jnp.asarray(coarse, jnp.float32)[None], (n,))[0]
    if axis.points is centres:  # each takes the value of its pair, whose mean is not shifted
        np.testing.assert_allclose(found, np.repeat(fine.reshape(-1, 2).mean(1), 2), atol=1e-6)
    else:
        np.testing.assert_allclose(found[inner], fine[inner], atol=1e-6)


@pytest.mark.parametrize("axis, n", [(Periodic(), 8), *MIRRORED])
def test_upsampling_is_the_transposed_convolution(axis, n):
    """With nothing beyond the ends; what comes from there is tested on its own."""
    axis = axis if isinstance(axis, Periodic) else Bounded(axis.points)
    down = make(Convolution, 3, 2, dimensions=1, stride=2, use_bias=False, axes=axis)
    up = without_bias(make(Upsampling, 2, 3, dimensions=1, axes=axis))
    up = eqx.tree_at(lambda m: m.weight, up, jnp.moveaxis(down.weight, 0, 1))
    v = field(2, coarse_size(axis, n, 2))
    transposed = jax.linear_transpose(down, jax.ShapeDtypeStruct((3, n), jnp.float32))
    np.testing.assert_allclose(up(v, (n,)), transposed(v)[0], atol=1e-5)


def test_upsampling_in_two_dimensions_of_different_kinds():
    axes = (Periodic(), Cosine(ends))
    up = without_bias(make(Upsampling, 1, 1, axes=axes))
    weight = np.asarray(up.weight[0, 0])
    u = field(1, 3, 4)
    expected = np.zeros((6, 9))  # from the mirrored points beyond the ends too, cut off below
    for i in range(3):
        for j in range(4):
            expected[2 * i : 2 * i + 2, 2 * j : 2 * j + 3] += weight * u[0, i, j]
    np.testing.assert_allclose(up(u, (6, 7))[0], expected[:, 1:-1], atol=1e-5)


@pytest.mark.parametrize("axis, n", [(Periodic(), 8), *MIRRORED, (Bounded(centres), 7), (Bounded(ends), 8)])
def test_max_pool_takes_the_largest_of_each_window(axis, n):
    u = field(n)
    start = {centres: (0, 1), ends: (-1, 0, 1), interior: (0, 1, 2), left: (0, 1)}[axis.points]
    m = -(-n // 2) if isinstance(axis, Bounded) and n in (7, 8) and axis.points is not interior else None
    m = m or coarse_size(axis, n, 2)
    expected = [max(beyond(axis, u, 2 * i + j) for j in start) for i in range(m)]
    np.testing.assert_array_equal(max_pool(u[None], [axis])[0], expected)


def flipped_weights(model):
    """The model with windows that are even along each axis, and blind to coordinates."""
    arrays, rest = eqx.partition(model, eqx.is_array)
    arrays = jax.tree.map(lambda w: (w + jnp.flip(w, range(2, w.ndim))) / 2 if w.ndim > 2 else w, arrays)
    return eqx.combine(arrays, rest)


@pytest.mark.parametrize(
    "kind, axis, n",
    [(kind, axis, n) for kind in (UNet, ConvNextUNet) for axis, n in MIRRORED[1::2]]
    + [(DilatedResNet, Cosine(), 6), (LocalOperator, Bounded(ends), 6)],
)
def test_flips_commute_with_even_windows(kind, axis, n):
    """Any shift between the grids would break this symmetry."""
    model = build(kind, dimensions=1, axes=axis)
    if kind is LocalOperator:  # of even stencils: second differences
        even = lambda w: w + jnp.flip(w, -1)  # noqa: E731
        model = eqx.tree_at(lambda m: m.layers[0].differential.weight, model, replace_fn=even)
    model = flipped_weights(model)
    lift = (lambda m: m.encoder[0].convolutions[0].weight) if kind is UNet else (lambda m: m.lift.weight)
    model = eqx.tree_at(lift, model, replace_fn=lambda w: w.at[:, -1].set(0))
    a = field(2, n)
    there, flipped = batched(model, jnp.stack([a, a[:, ::-1]]))
    np.testing.assert_allclose(flipped, there[:, ::-1], atol=1e-3 * np.abs(there - flipped).max())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("kind, step", [(UNet, 4), (ConvNextUNet, 4), (DilatedResNet, 1), (LocalOperator, 1)])
def test_translations_along_periodic_axes(kind, step, dimensions):
    model = build(kind, dimensions=dimensions, axes=(Periodic(), Cosine(ends), Bounded())[:dimensions])
    a = field(2, *(8, 5, 3)[:dimensions])
    out = batched(model, jnp.stack([a, jnp.roll(a, step, 1)]))
    assert out.shape == (2, 3, *a.shape[1:]) and out.dtype == np.float32
    np.testing.assert_allclose(out[1], np.roll(out[0], step, 1), atol=1e-3 * np.abs(out[1] - out[0]).max())


@pytest.mark.parametrize("kind", MODELS)
def test_one_sample_gradient_and_saving(kind, tmp_path):
    settings = {"levels": 1} if kind in (UNet, ConvNextUNet) else {}
    model = build(kind, axes=(Periodic(), Bounded()), **settings)
    a = field(2, 4, 5)
    np.testing.assert_allclose(run(model, a), batched(model, jnp.stack([0 * a, a]))[1], atol=1e-4)

    gradient = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.mean(m(a) ** 2)))(model)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0

    sciml.save(tmp_path / "model", model)
    restored = sciml.load(tmp_path / "model", jax.tree.map(lambda w: 0 * w if eqx.is_array(w) else w, model))
    assert eqx.tree_equal(restored, model)


@pytest.mark.parametrize("kind", MODELS)
def test_precision_of_the_model(kind):
    single = build(kind, dimensions=1, axes=Bounded())
    with sciml.double_precision():
        double = jax.tree.map(lambda w: w.astype(float) if eqx.is_array(w) else w, single)
        out = run(double, field(2, 8).astype(float))
        assert out.dtype == np.float64
    np.testing.assert_allclose(run(single, field(2, 8)), out, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_a_batch_is_one_convolution_and_not_many(kind):
    def sizes(model, a):
        found = []

        def visit(jaxpr):
            for equation in jaxpr.eqns:
                if equation.primitive.name == "conv_general_dilated":
                    found.append(equation.invars[0].aval.shape[0])
                for inner in jaxprs_in_params(equation.params):
                    visit(inner)

        visit(jax.make_jaxpr(model)(a).jaxpr)
        return found

    model = build(kind)
    one, many = sizes(model, field(2, 8, 8)), sizes(jax.vmap(model), field(5, 2, 8, 8))
    assert len(one) == len(many) > 0 and set(one) == {1} and set(many) == {5}


@pytest.mark.parametrize("kind", MODELS)
def test_bad_input_is_refused_and_nan_is_not_hidden(kind):
    model = build(kind)
    for shape in [(1, 8, 8), (2, 8), (4, 2, 8, 8)]:
        with pytest.raises(ValueError, match="expected one sample of shape"):
            model(jnp.zeros(shape))
    assert np.isnan(run(model, field(2, 8, 8).at[0, 3, 4].set(np.nan))).any()
    with pytest.raises(ValueError, match="one axis for each"):
        build(kind, axes=(Periodic(),))


@pytest.mark.parametrize("kind", [UNet, ConvNextUNet])
@pytest.mark.parametrize(
    "axis, n, fitting",
    [
        (Periodic(), 50, "48, 52"),
        (Periodic(), 3, "4"),
        (Cosine(centres), 4, "8"),
        (Cosine(ends), 16, "13, 17"),
        (Cosine(ends), 1, "5"),
        (Sine(interior), 12, "11, 15"),
        (Sine(interior), 8, "11"),
    ],
)
def test_sizes_that_do_not_halve_are_refused_with_the_nearest(kind, axis, n, fitting):
    model = build(kind, dimensions=1, axes=axis)
    with pytest.raises(ValueError, match=f"{kind.__name__}: {n} points along axis 0 .*that do: {fitting}[.]"):
        model(jnp.zeros((2, n)))
    for size in map(int, fitting.split(", ")):
        assert jax.eval_shape(model, jax.ShapeDtypeStruct((2, size), jnp.float32)).shape == (3, size)


@pytest.mark.parametrize("kind", [UNet, ConvNextUNet])
@pytest.mark.parametrize("points, least", [(centres, 1), (left, 1), (ends, 1), (interior, 4)])
def test_bounded_axes_take_any_size(kind, points, least):
    model = build(kind, dimensions=1, axes=Bounded(points))
    for n in (least, least + 1, 6, 7, 13):
        if points is ends and n == 1:  # its two ends would be one point
            continue
        assert jax.eval_shape(model, jax.ShapeDtypeStruct((2, n), jnp.float32)).shape == (3, n)
    if least > 1:
        with pytest.raises(ValueError, match=f"at least {least} are needed"):
            model(jnp.zeros((2, least - 1)))


def test_a_field_cut_short_is_a_field_with_zeros_beyond():
    """A bounded axis that does not halve: the same as a longer one, but for what layers put beyond the end."""
    axis = Bounded(centres)
    down = make(Convolution, 1, 1, dimensions=1, stride=2, axes=axis)
    u = field(1, 7)
    np.testing.assert_allclose(down(u), down(jnp.pad(u, ((0, 0), (0, 1)))), atol=1e-6)
    up = make(Upsampling, 1, 1, dimensions=1, axes=axis)
    np.testing.assert_array_equal(up(u, (13,)), up(u, (14,))[:, :13])


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="window of 4 points"):
        make(Convolution, 1, 1, window=4)
    with pytest.raises(ValueError, match="window of 2 points"):
        make(Convolution, 1, 1, window=2, stride=2, axes=Bounded(ends))
    with pytest.raises(ValueError, match="3 and 4 channels"):
        make(Convolution, 3, 4, groups=2)
    with pytest.raises(ValueError, match="4 channels do not divide into 3 groups"):
        build(UNet, groups=3)
    with pytest.raises(ValueError, match="stencil must have 3, 5"):
        build(LocalOperator, stencil=4)
    for settings in ({"radius": 0.0}, {"radius": (0.1, 0.1, 0.1)}, {"basis": 0}):
        with pytest.raises(ValueError, match="positive radius"):
            build(LocalOperator, **settings)
    with pytest.raises(ValueError, match="at least 2 points"):
        build(LocalOperator, dimensions=1, axes=Bounded())(jnp.zeros((2, 1)))


def test_groups_normalise_the_amplitude_and_none_keeps_it():
    a = 1000 * field(2, 8, 8)
    normalised, plain = build(UNet, groups=2), build(UNet)
    np.testing.assert_allclose(run(normalised, 10 * a), run(normalised, a), rtol=1e-2, atol=1e-3)
    assert np.abs(run(plain, 10 * a)).mean() > 5 * np.abs(run(plain, a)).mean()


def test_channel_norm():
    u = field(6, 5)
    norm = ChannelNorm(6)
    np.testing.assert_allclose(norm(u), (u - u.mean(0)) / u.std(0), atol=1e-4)
    assert norm(u.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_variance_of_a_new_layer():
    layer = Convolution(30, 40, dimensions=1, window=5, gain=2.0, key=KEY)
    assert float(layer.weight.var()) == pytest.approx(2 / 150, rel=0.1) and not layer.bias.any()


def test_reach_of_a_dilated_block():
    model = make(DilatedResNet, 1, 1, dimensions=1, width=4, blocks=1)
    slope = jax.jit(jax.grad(lambda a: model(a)[0, 40]))(field(1, 81))[0]
    # 1 + 2 + 4 + 8 + 4 + 2 + 1, and 1 for each of the first and the last convolution.
    assert set(np.flatnonzero(slope)) == set(range(40 - 24, 40 + 25))


# ----- local kernels: the limit of fine grids


def derivative_of(axes, *weights):
    """A kernel of one channel with these stencils."""
    kernel = make(DifferentialKernel, 1, 1, dimensions=len(weights), stencil=len(weights[0]), axes=axes)
    return eqx.tree_at(lambda m: m.weight, kernel, jnp.asarray(weights, float)[:, None, None])


def places(axes, *sizes):
    return np.meshgrid(*[axis.coordinates(n) for axis, n in zip(axes, sizes)], indexing="ij")


def order(errors):
    """Orders of convergence between grids, each twice as fine as the one before."""
    return np.log2(np.divide(errors[:-1], errors[1:]))


@pytest.mark.parametrize("offset", [0.0, 7.0])
def test_known_stencils_give_the_derivative_on_grids_of_unequal_steps(offset):
    axes = (Periodic(), Periodic())
    with sciml.double_precision():
        # The mean of a stencil is taken off: `offset` changes nothing.
        kernel = derivative_of(axes, [-1.0 + offset, offset, 1.0 + offset], [-0.25, 0.0, 0.25])
        errors = []
        for n in (16, 32, 64):
            x, y = places(axes, n, 3 * n)
            u = np.sin(2 * np.pi * x) * np.cos(2 * np.pi * y)
            exact = (
                2
                * np.pi
                * (
                    2 * np.cos(2 * np.pi * x) * np.cos(2 * np.pi * y)
                    - 0.5 * np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y)
                )
            )
            errors.append(np.abs(run(kernel, jnp.asarray(u)[None])[0] - exact).max())
    assert (order(errors) > 1.9).all()


@pytest.mark.parametrize("axis", [Bounded(centres), Bounded(ends), Sine(interior), Cosine(centres)])
@pytest.mark.parametrize("weight", [[0.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.5]])
def test_derivatives_hold_up_to_the_ends(axis, weight):
    with sciml.double_precision():
        kernel = derivative_of(axis, weight)
        errors = []
        for n in (32, 64, 128):
            x = axis.coordinates(n)
            found = run(kernel, jnp.asarray(np.exp(x))[None])[0]
            errors.append(np.abs(found - np.exp(x)).max())
            line = run(kernel, jnp.asarray(3 * x + 1)[None])[0]
            np.testing.assert_allclose(line, 3.0, atol=1e-9)
    assert (order(errors) > 0.9).all()


def test_derivatives_on_uneven_points():
    axis = Bounded(lambda n: np.linspace(0, 1, n) ** 2 / 2 + np.linspace(0, 1, n) / 2)
    with sciml.double_precision():
        errors = []
        for n in (32, 64, 128):
            x = axis.coordinates(n)
            found = run(derivative_of(axis, [-0.5, 0.0, 0.5]), jnp.asarray(np.sin(3 * x))[None])[0]
            errors.append(np.abs(found - 3 * np.cos(3 * x)))
    assert (order([e.max() for e in errors]) > 0.9).all()
    assert order([e[2:-2].max() for e in errors])[-1] > 1.85


def test_integrals_of_waves_against_the_exact_ones():
    """A hat of half width d about c takes cos(k x + s) to cos(k (x + c) + s) sinc(k d / 2)^2."""
    axes, radius, basis = (Periodic(), Periodic()), (0.2, 0.35), 3
    with sciml.double_precision():
        kernel = make(IntegralKernel, 2, 1, radius=radius, basis=basis, axes=axes)
        weight = np.asarray(kernel.weight[0])
        errors = []
        for n in (16, 32, 64):
            x, y = places(axes, n, n)
            waves = [(2 * np.pi, 4 * np.pi, 0.3), (4 * np.pi, -2 * np.pi, 1.0)]
            u = jnp.asarray(np.stack([np.cos(k * x + q * y + s) for k, q, s in waves]))
            exact = 0
            for channel, (k, q, s) in enumerate(waves):
                for i, a in enumerate((-radius[0] / 2, 0.0, radius[0] / 2)):
                    for j, b in enumerate((-radius[1] / 2, 0.0, radius[1] / 2)):
                        size = (np.sinc(k * radius[0] / 4 / np.pi) * np.sinc(q * radius[1] / 4 / np.pi)) ** 2
                        exact += weight[channel, i, j] * size * np.cos(k * (x + a) + q * (y + b) + s)
            errors.append(np.abs(run(kernel, u)[0] - exact).max())
    assert order(errors)[-1] > 1.9


def test_integrals_in_three_dimensions_against_all_sums_at_once():
    axes, radius, grid = (Periodic(), Bounded(), Cosine()), (0.4, 0.5, 0.6), (4, 5, 3)
    kernel = make(IntegralKernel, 2, 3, dimensions=3, radius=radius, basis=2, axes=axes)
    u = field(2, *grid)
    matrices = [_hat_integrals(axis, n, r, 2) for axis, n, r in zip(axes, grid, radius)]
    expected = np.einsum("oipqr,pax,qby,rcz,ixyz->oabc", kernel.weight, *matrices, u)
    np.testing.assert_allclose(run(kernel, u), expected, atol=1e-5)


@pytest.mark.parametrize("axis", [Bounded(centres), Bounded(ends), Cosine(centres), Cosine(ends), Sine(), Periodic()])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_integrals_of_constants_and_what_lies_beyond_the_ends(axis, dimensions):
    kernel = make(IntegralKernel, 1, 1, dimensions=dimensions, radius=0.2, basis=1, axes=axis)
    kernel = eqx.tree_at(lambda m: m.weight, kernel, jnp.ones_like(kernel.weight))
    n = 20
    found = run(kernel, jnp.ones((1, *(n,) * dimensions)))[0]
    x = axis.coordinates(n)
    distance = np.minimum(np.minimum(x, 1 - x) / 0.2, 1.0)
    inside = 0.5 + distance - distance**2 / 2  # the part of the hat within the domain
    exact = {Bounded: inside, Sine: 2 * inside - 1}.get(type(axis), np.ones(n))
    for _ in range(dimensions - 1):
        exact = np.multiply.outer(exact, {Bounded: inside, Sine: 2 * inside - 1}.get(type(axis), np.ones(n)))
    np.testing.assert_allclose(found, exact, atol=0.05 if isinstance(axis, Sine) else 1e-5)


def test_the_integral_of_each_hat_is_kept_on_the_coarsest_grid():
    for n in (1, 3):
        kernel = make(IntegralKernel, 1, 1, dimensions=1, radius=0.05, basis=4)
        np.testing.assert_allclose(run(kernel, jnp.ones((1, n)))[0], float(kernel.weight.sum()), rtol=1e-5)


@pytest.mark.parametrize(
    "axes, sizes",
    [
        ((Periodic(),), [(64,), (128,), (256,)]),
        ((Cosine(ends),), [(65,), (129,), (257,)]),
        ((Periodic(), Bounded(ends)), [(16, 17), (32, 33), (64, 65)]),
    ],
)
def test_local_operator_converges_as_the_grid_is_refined(axes, sizes):
    with sciml.double_precision():
        model = make(LocalOperator, 1, 2, dimensions=len(axes), width=6, layers=2, axes=axes)
        outputs = []
        for size in sizes:
            x = places(axes, *size)
            a = 1 + np.cos(2 * np.pi * x[0]) * np.cos(np.pi * x[-1]) ** 2 + 0.5 * np.sin(4 * np.pi * x[0])
            out = np.asarray(run(model, jnp.asarray(a)[None]))
            # The points of the coarsest grid.
            steps = [max(1, (n - 1) // (m - 1)) for n, m in zip(size, sizes[0])]
            steps = [n // m if isinstance(axis, Periodic) else s for axis, n, m, s in zip(axes, size, sizes[0], steps)]
            outputs.append(out[(slice(None), *[slice(None, None, s) for s in steps])])
        changes = [np.sqrt(np.mean((b - a) ** 2)) for a, b in zip(outputs, outputs[1:])]
    # Learnt stencils are of first order, as one-sided differences are.
    assert (order(changes) > 0.7).all()
    assert changes[-1] < 0.1 * np.abs(outputs[-1]).max()
