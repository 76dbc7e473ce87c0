"""Where data or their derivatives jump: found wherever it is, and nowhere in functions that are only steep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml import PDE, Box, value
from sciml.pde._kinks import kink

WALLS = {"x": (0.0, 2.0)}


def found(data, order=2):
    with sciml.double_precision():
        return kink(lambda p: data(p[1]), jnp.zeros((1, 2)), 1, WALLS["x"], order)


@pytest.mark.parametrize("place", [0.5, 1 / 3, np.pi / 2, 1.999])
@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_jumps_are_found(place, size):
    assert found(lambda x: jnp.sin(x) + jnp.where(x > place, size, 0.0)) == pytest.approx(place, abs=1e-6)


def test_kinks_are_found_where_second_derivatives_are_asked_for():
    def data(x):
        return jnp.abs(x - 0.7)

    assert found(data) == pytest.approx(0.7, abs=1e-6)
    assert found(data, order=1) is None
    assert found(lambda x: jnp.maximum(x - 0.7, 0.0) ** 2) is None
    assert found(lambda x: jnp.maximum(x - 0.7, 0.0) ** 2, order=3) == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize(
    "data",
    [
        lambda x: jnp.tanh((x - 0.7) / 1e-5),
        lambda x: jnp.exp(-(((x - 1) / 1e-3) ** 2)),
        lambda x: jnp.sin(3000 * x),
        lambda x: jnp.sqrt(x),
        lambda x: 0 * x + 3.0,
        lambda x: 2.5,
    ],
)
def test_steep_functions_and_those_with_infinite_slopes_at_an_end_are_smooth(data):
    assert found(data) is None


def test_a_jump_across_one_axis_of_two():
    with sciml.double_precision():
        points = jax.random.uniform(jax.random.key(0), (4, 3))
        plane = lambda p: jnp.where(p[2] > 0.4, p[1], 0.0)  # noqa: E731
        assert kink(plane, points, 1, (0.0, 1.0), 2) is None
        assert kink(plane, points, 2, (0.0, 1.0), 2) == pytest.approx(0.4, abs=1e-6)


def advection(initial, **options):
    domain = Box(t=(0, 1), x=(0, 2))
    return PDE(
        domain,
        lambda u_t, u_x: u_t + u_x,
        value(u=initial, on=domain.at(t=0), **options),
        value(u=0.0, on=domain.at(x=0)),
    )


def square(x):
    return jnp.where((x > 0.25) & (x < 0.75), 1.0, 0.0)


def test_initial_values_that_jump_are_a_penalty():
    """As a lift they would solve the equations everywhere but at the jumps, without moving."""
    with pytest.warns(
        UserWarning, match=r"the data of u on t=0, .* jump near x = 0\.[27]5: t=0 is imposed by a penalty"
    ):
        pde = advection(square)
    assert [v.on.label for v in pde.exact] == ["x=0"]
    assert "u on t=0" in pde.residuals(pde.model(lambda p: jnp.zeros(1)), pde.points(64, 16)(jax.random.key(0)))
    with pytest.raises(ValueError, match="the data of u on t=0, .* jump near x .* leave out exact=True"):
        advection(square, exact=True)
    assert len(advection(lambda x: jnp.maximum(x - 1, 0.0)).exact) == 2, "a kink does not matter to first derivatives"


@pytest.mark.filterwarnings("ignore:the data of u on t=0")
def test_the_residual_of_a_jump_says_that_there_is_an_error():
    pde = advection(square)
    solution = sciml.solve(pde, budget=5, key=jax.random.key(0), report=None)
    assert solution.chosen["residual"] > 0.02
    x = np.linspace(0.01, 1.99, 100)
    error = np.asarray(solution(t=np.full(100, 0.5), x=x)) - np.asarray(square(x - 0.5))
    assert np.sqrt(np.mean(error**2)) < 0.3
