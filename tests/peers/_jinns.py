"""jinns on the problems of `pinns.py`, with the settings of its notebooks and with the network of this package.

jinns has boxes only, which these problems are; conditions it has no term for (rest, periodicity, a lid that moves) hold
by construction, as in its notebook of a pipe flow. Its `validation` hook keeps the states and ends the run.
"""

import contextlib
import sys
from collections.abc import Callable
from importlib import metadata

import jax

jax.config.update("jax_enable_x64", True)

import equinox as eqx  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jinns  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from _pinn_problems import PROBLEMS, Task, periodic_features, probe  # noqa: E402
from jax.experimental import io_callback  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402
from jinns.validation._validation import AbstractValidationModule  # noqa: E402

BURGERS = {
    "network": [16, 16, 16],
    "points": [900, 2000, 2000],
    "weights": [1, 100, 1],
    "optimiser": "AdamW 1e-3",
}
NATURAL = {"network": [16, 16], "points": [2028, 2028, 2028], "weights": [1, 1, 1], "optimiser": "natural gradient"}
EXAMPLES = {
    "burgers": {"source": "1D_non_stationary_Burgers.ipynb", "conditions": "penalties"} | BURGERS,
    "poisson": {"source": "heat_equation_ngd.ipynb", "conditions": "penalties"} | NATURAL,
    "allen_cahn": {"source": "1D_non_stationary_Burgers.ipynb, periodic", "conditions": "penalties"} | BURGERS,
    "wave": {"source": "1D_non_stationary_Burgers.ipynb", "conditions": "exact"} | BURGERS,
    "lid_driven": {
        "source": "2D_Navier_Stokes_PipeFlow_ngd.ipynb",
        "conditions": "exact",
        "network": "25 x 3 for velocity, 25 x 3 for pressure",
        "points": [10000, 4, 0],
        "batch": 256,
        "weights": [1, None, 1],
        "optimiser": "natural gradient",
    },
}
# How often the states are looked at, and more steps than any time limit allows.
EVERY = {"AdamW 1e-3": 20, "natural gradient": 1, "self-scaled Broyden": 5}
STEPS = {"AdamW 1e-3": 400_000, "natural gradient": 20_000, "self-scaled Broyden": 100_000}


def settings(name: str, variant: str) -> dict:
    """What is set, of the notebook or (`sciml, OPTIMISER`) with the network and points that this package takes."""
    if variant == "example":
        return dict(EXAMPLES[name])
    problem = PROBLEMS[name]
    return {
        "source": "network and points of sciml.solve",
        "conditions": "exact" if problem.lift else "penalties",
        "network": [20 if len(problem.fields) == 1 else 30] * 3,
        "points": [4096, 512, 512],
        "weights": [1, 100, 1],
        "optimiser": variant.removeprefix("sciml, "),
    }


class Watch(AbstractValidationModule):
    """Keeps states for the curve, and ends the run when the time is over."""

    call_every: int
    task: Task = eqx.field(static=True)

    def __call__(self, params):
        def look(numbers) -> np.ndarray:
            if self.task.is_due():
                self.task.keep(np.array(numbers))
            return np.array(self.task.is_over())

        flat, _ = ravel_pytree(params.nn_params)
        over = io_callback(look, jax.ShapeDtypeStruct((), bool), flat)
        return self, over, jnp.zeros(()), jnp.array(False)


def by_name(problem, point) -> dict:
    return dict(zip(problem.axes, point))


def residual_of(problem, function: Callable, point):
    """The residuals at one point, by nested forward derivatives of `function` (point -> fields)."""
    basis = jnp.eye(len(problem.axes))

    def along(f, axis):
        return lambda p: jax.jvp(f, (p,), (basis[axis],))[1]

    found = {}
    for letters in sorted({name.split("_")[1] for name in problem.derivatives}):
        f = function
        for letter in letters:
            f = along(f, problem.axes.index(letter))
        found[letters] = f(point)
    values = by_name(problem, point) | dict(zip(problem.fields, function(point)))
    for name in problem.derivatives:
        field, letters = name.split("_")
        values[name] = found[letters][problem.fields.index(field)]
    return jnp.stack(problem.equations(jnp, values))


class Evolution(jinns.loss.PDENonStatio):
    """The equation of a problem with time."""

    problem: object = eqx.field(static=True, kw_only=True)

    def equation(self, t_x, u, params):
        return residual_of(self.problem, lambda p: u(p, params), t_x)


class Steady(jinns.loss.PDEStatio):
    """The equation of a problem without time."""

    problem: object = eqx.field(static=True, kw_only=True)

    def equation(self, x, u, params):
        return residual_of(self.problem, lambda p: u(p, params), x)


class Corner(jinns.loss.BoundaryConditionAbstract):
    """The field that is zero at the lowest corner."""

    problem: object = eqx.field(static=True)

    def equation_u(self, inputs, u, params):
        which = self.problem.fields.index(self.problem.corner)
        low = jnp.array([self.problem.box[a][0] for a in self.problem.axes])
        return (u(low, params)[which : which + 1],)

    def equation_f(self, inputs, params, gridify=False):
        return (jnp.zeros((1,)),)


def make_network(problem, chosen: dict, key):
    """jinns' network with the inputs and the constraints of the problem, and its first parameters."""
    kind = "PDENonStatio" if problem.is_evolution else "PDEStatio"
    options = {"eq_type": kind, "key": key}
    if problem.periodic:
        options["input_transform"] = lambda p, _: jnp.stack(periodic_features(jnp, by_name(problem, p)))
    if chosen["conditions"] == "exact":

        def lift(point, outputs, _):
            return jnp.stack(problem.lift(jnp, by_name(problem, point), jnp.atleast_1d(outputs)))

        options["output_transform"] = lift
    size = len(problem.axes) + problem.periodic
    if isinstance(chosen["network"], str):
        nets = [_layers([size, 25, 25, 25, 2]), _layers([size, 25, 25, 25, 1])]
        return jinns.nn.PPINN_MLP.create(eqx_list_list=nets, **options)
    return jinns.nn.PINN_MLP.create(eqx_list=_layers([size, *chosen["network"], len(problem.fields)]), **options)


def _layers(widths: list[int]) -> tuple:
    pairs = [((eqx.nn.Linear, a, b), (jax.nn.tanh,)) for a, b in zip(widths, widths[1:])]
    return tuple(layer for pair in pairs for layer in pair)[:-1]


def make_data(problem, chosen: dict, key):
    interior, boundary, initial = chosen["points"]
    low, high = zip(*(problem.box[a] for a in problem.space))
    common = {"key": key, "n": interior, "nb": boundary, "dim": len(low), "min_pts": low, "max_pts": high}
    if not problem.is_evolution:
        batch = {"omega_batch_size": chosen["batch"]} if "batch" in chosen else {}
        return jinns.data.CubicMeshPDEStatio(method="uniform", **batch, **common)
    begin, end = problem.box["t"]
    return jinns.data.CubicMeshPDENonStatio(method="uniform", ni=initial, tmin=begin, tmax=end, **common)


def make_loss(problem, chosen: dict, u, params):
    penalties = chosen["conditions"] == "penalties"
    walls = jinns.loss.Dirichlet() if penalties and problem.wall else None
    walls = Corner(problem) if problem.corner else walls
    interior, initial, boundary = chosen["weights"]
    weights = {"dyn_loss": float(interior), "boundary_loss": float(boundary) if walls else None}
    if not problem.is_evolution:
        return jinns.loss.LossPDEStatio(
            u=u,
            dynamic_loss=Steady(problem=problem),
            loss_weights=jinns.loss.LossWeightsPDEStatio(**weights),
            boundary_condition=walls,
            params=params,
        )
    start = (lambda x: problem.initial(jnp, x)) if penalties else None
    weights["initial_condition"] = float(initial) if penalties else None
    return jinns.loss.LossPDENonStatio(
        u=u,
        dynamic_loss=Evolution(problem=problem),
        loss_weights=jinns.loss.LossWeightsPDENonStatio(**weights),
        boundary_condition=walls,
        initial_condition_fun=start,
        params=params,
    )


def make_optimiser(name: str):
    """An optimiser and the extra arguments that jinns hands to it."""
    if name == "AdamW 1e-3":
        return optax.adamw(1e-3), None
    if name == "natural gradient":
        quiet = optax.scale_by_backtracking_linesearch(max_backtracking_steps=15)
        return jinns.optimizers.vanilla_ngd(linesearch=quiet), None

    def callback_value_fn(params, batch, loss):
        return loss.evaluate(params, batch)[0]

    def callback_grad_fn(params, batch, loss):
        return loss.ponderate_and_sum_gradient(loss.values_and_grads(params, batch)[1])

    variable = jinns.solver.GetJinnsVariableName
    extra = {
        "value": variable("train_loss_value"),
        "grad_pt": variable("grads"),
        "value_fn": callback_value_fn,
        "grad_fn": callback_grad_fn,
        "batch": variable("batch"),
        "loss": variable("loss"),
    }
    return jinns.optimizers.scale_by_SSBroyden_family(), extra


def check(task: Task) -> None:
    """The residuals of the probe, by the derivatives that the loss takes."""
    problem = task.problem

    def waves(point):
        return jnp.stack(probe(jnp, by_name(problem, point), problem.fields))

    points = jnp.asarray(task.probe_points)
    task.check_residuals(np.asarray(jax.vmap(lambda p: residual_of(problem, waves, p))(points)))


def run(task: Task, variant: str, threads: int) -> None:
    """A run in this process, printed as JSON. Threads are those of the cores that the process may use."""
    chosen, problem = settings(task.name, variant), task.problem
    network_key, data_key = jax.random.split(jax.random.key(task.seed))
    optimiser, extra = make_optimiser(chosen["optimiser"])
    with contextlib.redirect_stdout(sys.stderr):
        check(task)
        u, first = make_network(problem, chosen, network_key)
        params = jinns.parameters.Params(nn_params=first, eq_params={})
        found = jinns.solve(
            n_iter=STEPS[chosen["optimiser"]],
            init_params=params,
            data=make_data(problem, chosen, data_key),
            loss=make_loss(problem, chosen, u, params),
            optimizer=optimiser,
            validation=Watch(call_every=EVERY[chosen["optimiser"]], task=task),
            extra_optax_args_and_kwargs=extra,
            verbose=False,
        )
        flat, unravel = ravel_pytree(found[0].nn_params)
        task.keep(np.array(flat))

    @jax.jit
    def fields(numbers, points):
        at = jinns.parameters.Params(nn_params=unravel(numbers), eq_params={})
        return jax.vmap(lambda p: u(p, at))(points)

    def evaluate(state) -> np.ndarray:
        return np.asarray(fields(state, task.points)).reshape(len(task.points), len(problem.fields))

    task.finish(evaluate, keep_best=True, parameters=flat.size, version=metadata.version("jinns"), settings=chosen)
