"""Poisson's equation on random domains with unstructured meshes: source and domain to solution.

-Laplace(u) = f, u = 0 on the boundary of star-shaped domains, half of them with a hole (data set `poisson_mesh`): 800
samples for training, 200 for the test, of 150 to 400 vertices, no two of one domain or mesh. Models see the vertices,
their areas w, f and the distance d to the boundary; outputs are multiplied by tanh(d / 0.2), so that u vanishes on the
boundary, and u changes sign with f at random in training. Errors are relative L2 norms with the weights w.
`relative_l2_fine` is of the same test domains and sources on meshes with twice as many vertices, never seen before.

Baselines go from the integrals of 1, f and d times bilinear hat functions on 16 x 16 points to the sum of hat functions
that, times tanh(d / 0.2), is nearest to u; the nearest itself has an error of 0.019. The sources have no preferred
sign, so that the mean is nearly zero. `--steps 40000 --width 64 --samples 5000` is a longer run, for a GPU.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sciml
from sciml import operators

EXPECTED = {"relative_l2": 0.14, "relative_l2_fine": 0.14}
BUDGET = 180.0
# Of the grid between two kernel integrals, and of the hat functions of the baselines.
GRID = {"grid": (24, 24), "box": 2 * [(-2.0, 2.0)], "axes": operators.Periodic()}
BOX = 2 * [(-1.8, 1.8)]
SIMPLE = {"mean": lambda _, u: operators.mean(u), "linear": operators.linear, "kernel_ridge": operators.kernel_ridge}


def problem(
    samples: int = 1000,
    tests: int = 200,
    steps: int = 1500,
    batch: int = 8,
    width: int = 32,
    layers: int = 4,
    rate: float = 2e-3,
    seed: int = 0,
) -> sciml.Problem:
    """samples: in all; tests: of these the first, for the test; batch: samples of a step; width, layers: of the model;
    rate: largest learning rate."""
    latent = operators.FNO(width // 2, width, modes=(8, 8), width=width, layers=layers, key=jax.random.key(seed))
    inner = operators.FourierGraphOperator(2, 1, latent, **GRID, width=width // 2, key=jax.random.key(seed + 1))
    test, train = (part.read() for part in sciml.dataset("poisson_mesh", samples=samples).split(tests))
    fine = sciml.dataset("poisson_mesh", samples=tests, fewest=300, most=800).read()
    cells, (test, train, fine) = test["triangle"], (clouds(data, inner) for data in (test, train, fine))

    def draw(key):
        rows, signs = jax.random.split(key)
        chosen = jax.random.choice(rows, len(train[0]), (batch,), replace=False)
        features, *rest, u = jax.tree.map(lambda a: jnp.asarray(a)[chosen], train)
        sign = jax.random.rademacher(signs, (batch, 1, 1), u.dtype)
        return jnp.concatenate([sign * features[:, :1], features[:, 1:]], axis=1), *rest, sign * u

    def evaluate(model):
        sets = {"relative_l2": test, "relative_l2_fine": fine}
        return {name: errors(predicted(model, batch), batch).mean() for name, batch in sets.items()}

    return sciml.Problem(
        Vanishing(inner, *(float(np.std(f[train[-2]])) for f in (train[0][:, 0], train[-1][:, 0]))),
        operators.cloud_misfit,
        draw,
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps), weight_decay=1e-4),
        steps,
        evaluate,
        baselines={name: operators.on_hats(fit, train, box=BOX, factor=vanishing) for name, fit in SIMPLE.items()},
        figure=lambda model: operators.mesh_figure(test, predicted(model, test), cells, input_name="source"),
    )


def clouds(data: dict, network: operators.FourierGraphOperator) -> tuple:
    """What `cloud_misfit` takes: features f and d, places, edges to and from the grid, areas, masks and u."""
    names, mask = ("f", "distance", "position", "weight", "u"), data["mask"] > 0
    f, d, x, w, u = ([values[there] for values, there in zip(data[name], mask)] for name in names)
    features, targets = [np.stack(pair) for pair in zip(f, d)], [one[None] for one in u]
    settings = {"weights": w, "targets": targets, "size": mask.shape[1]}
    return operators.stack_clouds(features, x, *zip(*map(network.edges, x)), **settings)


def predicted(model, batch: tuple) -> np.ndarray:
    return np.asarray(jax.lax.map(lambda one: model(*one), batch[:-1], batch_size=20))


def errors(prediction: np.ndarray, batch: tuple) -> np.ndarray:
    """The relative error of each sample, with the areas as weights."""
    weights = np.sqrt(batch[-3])[:, None]
    return np.asarray(sciml.metrics.relative_l2(weights * prediction, weights * batch[-1], per_sample=True))


def vanishing(features):
    return jnp.tanh(features[1] / 0.2)


class Vanishing(eqx.Module):
    """A network on numbers of order one, times a function that vanishes at the boundary."""

    network: eqx.Module
    source: float = eqx.field(static=True)
    solution: float = eqx.field(static=True)

    def __call__(self, features, points, *rest):
        scaled = jnp.stack([features[0] / self.source, 2 * features[1]])
        return self.solution * vanishing(features) * self.network(scaled, points, *rest)


if __name__ == "__main__":
    made = problem()
    model, _ = sciml.fit(made.model, made.loss, made.data, made.optimiser, steps=made.steps)
    print(made.evaluate(model))
