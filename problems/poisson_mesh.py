"""Poisson's equation on random domains with unstructured meshes: source and domain to solution.

-Laplace(u) = f, u = 0 on the boundary of star-shaped domains, half of them with a hole (data set `poisson_mesh`): 800
samples for training, 200 for the test, of 150 to 400 vertices, no two of one domain or mesh. Models see the vertices,
their areas w, f and the distance d to the boundary; outputs are multiplied by tanh(d / 0.2), so that u vanishes on the
boundary, and u changes sign with f at random in training. Errors are relative L2 norms with the weights w.
`relative_l2_fine` is of the same test domains and sources on meshes with twice as many vertices, never seen before.

Baselines: `mean`, the best multiple of f * d. `linear` and `kernel_ridge`: from the integrals of 1 and f times bilinear
hat functions on 16 x 16 points to the sum of hat functions that, times tanh(d / 0.2), is nearest to u; the nearest
itself has an error of 0.019. `--steps 40000 --width 64 --samples 5000` is a longer run, for a GPU.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sciml
from sciml import operators

EXPECTED = {"relative_l2": 0.092, "relative_l2_fine": 0.094}
BUDGET = 180.0
# Of the grid in FourierGraphOperator, and of the hat functions of the baselines.
GRID = {"grid": (24, 24), "box": 2 * [(-2.0, 2.0)], "axes": operators.Periodic()}
NODES = np.linspace(-1.8, 1.8, 16)


def problem(
    network: str = "fourier_graph",
    samples: int = 1000,
    tests: int = 200,
    steps: int = 1500,
    batch: int = 8,
    width: int = 32,
    layers: int = 4,
    rate: float = 3e-3,
    seed: int = 0,
) -> sciml.Problem:
    """network: fourier_graph (an FNO on a grid between two kernel integrals), graph (GraphOperator) or transolver;
    samples: of both sets; tests: those of the test, the first ones; batch: samples of a step; width, layers: of the
    network; rate: largest learning rate.
    """
    inner = make_network(network, width, layers, jax.random.key(seed))
    test, train = (part.read() for part in sciml.dataset("poisson_mesh", samples=samples).split(tests))
    fine = sciml.dataset("poisson_mesh", samples=tests, fewest=300, most=800).read()
    cells = test["triangle"]
    test, train, fine = (clouds(data, inner) for data in (test, train, fine))

    def draw(key):
        rows, signs = jax.random.split(key)
        chosen = jax.random.choice(rows, len(train[0]), (batch,), replace=False)
        features, *rest, u = jax.tree.map(lambda a: jnp.asarray(a)[chosen], train)
        sign = jax.random.rademacher(signs, (batch, 1, 1), u.dtype)
        return jnp.concatenate([sign * features[:, :1], features[:, 1:]], axis=1), *rest, sign * u

    def evaluate(model):
        sets = {"relative_l2": test, "relative_l2_fine": fine}
        return {name: errors(predicted(model, batch), batch).mean() for name, batch in sets.items()}

    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps)
    return sciml.Problem(
        Vanishing(inner, float(np.std(train[-1][train[-2][:, None]]))),
        operators.cloud_misfit,
        draw,
        optax.adamw(schedule, weight_decay=1e-4),
        steps,
        evaluate,
        baselines=baselines(train),
        figure=lambda model: figure(predicted(model, test), test, cells),
    )


def make_network(network: str, width: int, layers: int, key: jax.Array) -> Callable:
    if network == "transolver":
        return operators.Transolver(2, 1, width=width, layers=layers, key=key)
    if network == "graph":
        return operators.GraphOperator(2, 1, radius=0.3, width=width, layers=layers, key=key)
    if network != "fourier_graph":
        raise ValueError(f"network must be fourier_graph, graph or transolver, got '{network}'")
    latent = operators.FNO(width // 2, width, modes=(8, 8), width=width, layers=layers, key=key)
    return operators.FourierGraphOperator(2, 1, latent, **GRID, width=width // 2, key=key)


def clouds(data: dict, network: Callable) -> tuple:
    """What `cloud_misfit` takes: features f and d, places, the edges that the network needs, areas, masks and u."""
    names, mask = ("f", "distance", "position", "weight", "u"), data["mask"] > 0
    f, d, x, w, u = ([values[there] for values, there in zip(data[name], mask)] for name in names)
    graphs = []
    if isinstance(network, operators.GraphOperator):
        graphs = [[operators.radius_edges(one, 0.3) for one in x]]
    elif isinstance(network, operators.FourierGraphOperator):
        graphs = zip(*map(network.edges, x))
    features, targets = [np.stack(pair) for pair in zip(f, d)], [one[None] for one in u]
    return operators.stack_clouds(features, x, *graphs, weights=w, targets=targets, size=mask.shape[1])


def predicted(model: Callable, batch: tuple) -> np.ndarray:
    return np.asarray(jax.lax.map(lambda one: model(*one), batch[:-1], batch_size=20))


def errors(prediction: np.ndarray, batch: tuple) -> np.ndarray:
    """The relative error of each sample, with the areas as weights."""
    weights = np.sqrt(batch[-3])[:, None]
    return np.asarray(sciml.metrics.relative_l2(weights * prediction, weights * batch[-1], per_sample=True))


class Vanishing(eqx.Module):
    """A network times a function that vanishes at the boundary, in the units of u."""

    network: Callable
    unit: float = eqx.field(static=True)

    def __call__(self, features, points, *rest):
        return self.unit * jnp.tanh(features[1:] / 0.2) * self.network(features, points, *rest)


class OnHats(eqx.Module):
    """A map from integrals over hat functions to coefficients of hat functions, as a model on points."""

    model: Callable

    def __call__(self, features, points, *rest):
        return (hats(features, points) @ self.model(integrals(features, points, rest[-2])))[None]


def hats(features, points):
    """The values of the hat functions at the points, times the function that vanishes at the boundary."""
    x, y = (jnp.maximum(0, 1 - jnp.abs(c[:, None] - NODES) / (NODES[1] - NODES[0])) for c in points.T)
    return jnp.tanh(features[1] / 0.2)[:, None] * (x[:, :, None] * y[:, None]).reshape(len(points), -1)


def integrals(features, points, weights):
    return jnp.concatenate([(weights * f) @ hats(features, points) for f in (1, features[0])])


def coefficients(features, points, weights, u):
    """Those of the sum nearest to u; small where the domain is not."""
    sums, root = hats(features, points), jnp.sqrt(weights / jnp.sum(weights))
    sums = sums * root[:, None]
    return jnp.linalg.solve(sums.T @ sums + 1e-6 * jnp.eye(len(sums.T)), sums.T @ (root * u[0]))


def baselines(train: tuple) -> dict:
    features, points, *_, weights, _, u = train
    inputs = jax.lax.map(lambda one: integrals(*one), (features, points, weights), batch_size=20)
    best = jax.lax.map(lambda one: coefficients(*one), (features, points, weights, u), batch_size=20)
    product = features[:, :1] * features[:, 1:]
    factor = float((product * u).sum() / (product**2).sum())
    fitted = {"linear": operators.linear(inputs, best), "kernel_ridge": operators.kernel_ridge(inputs, best)}
    return {"mean": lambda a, *_: factor * a[:1] * a[1:]} | {name: OnHats(model) for name, model in fitted.items()}


def figure(predictions: np.ndarray, batch: tuple, cells: np.ndarray):
    """Source, prediction, truth and error of the best, the median and the worst sample, and error against distance."""
    from matplotlib.figure import Figure

    (features, points), (mask, u), size = batch[:2], batch[-2:], errors(predictions, batch)
    out = Figure(figsize=(18, 9), layout="constrained")
    for row, i in zip(out.subplots(3, 5), np.argsort(size)[[0, len(size) // 2, -1]]):
        f, d, p, truth, x, y = np.stack([*features[i], predictions[i, 0], u[i, 0], *points[i].T])[:, mask[i]]
        triangles = cells[i][cells[i, :, 0] != cells[i, :, 1]]
        fields = {"source": f, f"prediction, error {size[i]:.3f}": p, f"truth, sample {i}": truth, "error": p - truth}
        for panel, (name, field) in zip(row, fields.items()):
            top = np.abs(truth if field is p else field).max()
            shown = panel.tripcolor(x, y, triangles, field, cmap="RdBu_r", vmin=-top, vmax=top, shading="gouraud")
            out.colorbar(shown, ax=panel)
            panel.set(title=name, aspect="equal")
        row[4].plot(d, np.abs(p - truth), ".")
        row[4].set(xlabel="distance to the boundary", ylabel="|error|")
    return out


if __name__ == "__main__":
    made = problem()
    model, _ = sciml.fit(made.model, made.loss, made.data, made.optimiser, steps=made.steps)
    print(made.evaluate(model))
