"""DeepXDE (PyTorch) on the problems of `pinns.py`: Adam, then L-BFGS, then Nystroem-Newton-CG while time is left.

The settings are those of the example named in each `source`, in its repository's `examples/pinn_forward`; in double
precision, which DeepXDE's documentation advises where L-BFGS stops early. Adam gets at most 35 % of the time, as
L-BFGS gains more in what is left.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

os.environ["DDE_BACKEND"] = "pytorch"

with contextlib.redirect_stdout(sys.stderr):
    import deepxde as dde
import numpy as np
import torch
from _pinn_problems import PROBLEMS, Task, periodic_features, probe

ADAM_SHARE = 0.35
EXAMPLES = {
    "burgers": {
        "source": "Burgers.py, Burgers_NNCG.py",
        "network": [20, 20, 20],
        "points": [2540, 80, 160],
        "conditions": "penalties",
        "adam": 15000,
    },
    "poisson": {
        "source": "Helmholtz_Dirichlet_2d.py with a = 2, and L-BFGS",
        "network": [150, 150, 150],
        "activation": "sin",
        "initialiser": "Glorot uniform",
        "points": [400, 80, 0],
        "conditions": "exact",
        "adam": 5000,
    },
    "allen_cahn": {
        "source": "Allen_Cahn.py; periodic, and u(t=0) a penalty of weight 100, as the problem differs",
        "network": [20, 20, 20],
        "points": [8000, 400, 800],
        "conditions": "penalties",
        "weights": [1, 100],
        "adam": 40000,
    },
    "wave": {
        "source": "wave_1d.py, and L-BFGS",
        "network": [100, 100, 100],
        "features": "spatio-temporal multi-scale, sigma 1 along x, 1 and 10 along t",
        "initialiser": "Glorot uniform",
        "points": [360, 360, 360],
        "resample": True,
        "conditions": "penalties",
        "weights": "5 / initial losses",
        "decay": ["inverse time", 2000, 0.9],
        "adam": 10000,
    },
    "lid_driven": {
        "source": "Kovasznay_flow.py",
        "network": [50, 50, 50, 50],
        "points": [2601, 400, 0],
        "conditions": "penalties",
        "adam": 30000,
    },
}


def settings(name: str, variant: str) -> dict:
    """What is set, of the example or with the network and points that this package takes."""
    if variant == "example":
        return {"activation": "tanh", "initialiser": "Glorot normal"} | EXAMPLES[name]
    problem = PROBLEMS[name]
    return {
        "source": "network and points of sciml.solve",
        "network": [20 if len(problem.fields) == 1 else 30] * 3,
        "activation": "tanh",
        "initialiser": "Glorot normal",
        "points": [4096, 512, 512],
        "conditions": "exact" if problem.lift else "penalties",
        "weights": None if problem.lift else [1, 100],
        "adam": 5000,
    }


class Features(dde.nn.NN):
    """DeepXDE's spatio-temporal multi-scale Fourier features, which it has for TensorFlow only."""

    def __init__(self, widths: list[int], initialiser: str, sigmas_x=(1.0,), sigmas_t=(1.0, 10.0)):
        super().__init__()
        rows = widths[0] // 2
        self.along_x = torch.nn.ParameterList([_fixed(s, rows) for s in sigmas_x])
        self.along_t = torch.nn.ParameterList([_fixed(s, rows) for s in sigmas_t])
        self.body = dde.nn.FNN([*widths[:-1], widths[-1]], "tanh", initialiser)
        self.last = dde.nn.FNN([len(sigmas_x) * len(sigmas_t) * widths[-1], 1], "tanh", initialiser)

    def forward(self, inputs):
        scaled = (inputs - 0.5) * 2 * 3**0.5
        of_x = [self._branch(scaled[:, :-1], b) for b in self.along_x]
        of_t = [self._branch(scaled[:, -1:], b) for b in self.along_t]
        return self.last(torch.cat([a * b for a in of_x for b in of_t], dim=1))

    def _branch(self, inputs, frequencies):
        angles = inputs @ frequencies
        return torch.tanh(self.body(torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)))


def _fixed(sigma: float, rows: int):
    return torch.nn.Parameter(sigma * torch.randn(1, rows), requires_grad=False)


class TimeIsOver(Exception):
    """The limit came inside an iteration; one of Newton-CG can have 1,000 products with a Hessian."""


@contextlib.contextmanager
def stopping_at(seconds: float):
    """Ends what runs within after so many seconds."""

    def stop(number, frame):
        raise TimeIsOver

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    except TimeIsOver:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Watch(dde.callbacks.Callback):
    """Keeps states for the curve, and ends a phase of training at its time."""

    def __init__(self, task: Task, until: float):
        super().__init__()
        self.task, self.until = task, until

    def on_epoch_end(self):
        if self.task.is_due():
            keep(self.task, self.model)
        self.model.stop_training = self.task.elapsed() > self.until


def keep(task: Task, model) -> None:
    task.keep({k: v.detach().clone() for k, v in model.net.state_dict().items()})


def by_name(problem, columns, points) -> dict:
    """Coordinates by name, in the order of the problem's axes."""
    return {a: points[:, columns.index(a) : columns.index(a) + 1] for a in problem.axes}


def make_residual(problem, columns) -> Callable:
    """The residuals as DeepXDE wants them, from its own derivatives."""

    def residual(points, outputs):
        values = by_name(problem, columns, points)
        values |= {f: outputs[:, k : k + 1] for k, f in enumerate(problem.fields)}
        for name in problem.derivatives:
            field, letters = name.split("_")
            which, along = problem.fields.index(field), [columns.index(a) for a in letters]
            if len(along) == 1:
                values[name] = dde.grad.jacobian(outputs, points, i=which, j=along[0])
            else:
                values[name] = dde.grad.hessian(outputs, points, component=which, i=along[0], j=along[1])
        return problem.equations(torch, values)

    return residual


def make_wall(problem, columns, field: str) -> Callable:
    """The value of a field on the walls; DeepXDE takes functions of one argument."""
    return lambda points: problem.wall(np, by_name(problem, columns, points))[field]


def make_conditions(problem, columns, geometry) -> list:
    """All conditions as penalties: walls, initial values, rest."""
    found = []
    if problem.wall is not None:
        for field in (f for f in problem.fields if f != problem.corner):
            wall, which = make_wall(problem, columns, field), problem.fields.index(field)
            found.append(dde.icbc.DirichletBC(geometry, wall, lambda _, on: on, component=which))
    if problem.initial is not None:
        found.append(dde.icbc.IC(geometry, lambda p: problem.initial(np, p[:, :1]), lambda _, on: on))
    if problem.rests:
        at_rest = dde.icbc.OperatorBC(
            geometry, lambda p, u, _: dde.grad.jacobian(u, p, i=0, j=1), lambda p, _: dde.utils.isclose(p[1], 0)
        )
        found.append(at_rest)
    return found


def make_corner(problem) -> list:
    if problem.corner is None:
        return []
    low = [[problem.box[a][0] for a in problem.space]]
    return [dde.icbc.PointSetBC(np.array(low), np.zeros((1, 1)), component=problem.fields.index(problem.corner))]


def make_network(problem, columns, chosen: dict):
    widths, size = chosen["network"], len(columns) + problem.periodic
    if "features" in chosen:
        net = Features(widths, chosen["initialiser"])
    else:
        layers = [size, *widths, len(problem.fields)]
        net = dde.nn.FNN(layers, chosen["activation"], chosen["initialiser"])
    if problem.periodic:
        net.apply_feature_transform(lambda p: torch.cat(periodic_features(torch, by_name(problem, columns, p)), dim=1))
    if chosen["conditions"] == "exact":

        def lift(points, outputs):
            columns_out = [outputs[:, k : k + 1] for k in range(len(problem.fields))]
            return torch.cat(problem.lift(torch, by_name(problem, columns, points), columns_out), dim=1)

        net.apply_output_transform(lift)
    return net


def make_data(problem, columns, chosen: dict):
    low, high = zip(*(problem.box[a] for a in problem.space))
    geometry = dde.geometry.Interval(low[0], high[0]) if len(low) == 1 else dde.geometry.Rectangle(low, high)
    interior, boundary, initial = chosen["points"]
    penalties = chosen["conditions"] == "penalties"
    residual = make_residual(problem, columns)
    if not problem.is_evolution:
        conditions = (make_conditions(problem, columns, geometry) if penalties else []) + make_corner(problem)
        return dde.data.PDE(geometry, residual, conditions, num_domain=interior, num_boundary=boundary)
    geometry = dde.geometry.GeometryXTime(geometry, dde.geometry.TimeDomain(*problem.box["t"]))
    conditions = make_conditions(problem, columns, geometry) if penalties else []
    return dde.data.TimePDE(
        geometry, residual, conditions, num_domain=interior, num_boundary=boundary, num_initial=initial
    )


def check(task: Task, columns) -> None:
    """The residuals of the probe, by DeepXDE's derivatives."""
    order = [task.problem.axes.index(a) for a in columns]
    points = torch.tensor(task.probe_points[:, order], requires_grad=True)
    outputs = torch.cat(probe(torch, by_name(task.problem, columns, points), task.problem.fields), dim=1)
    found = make_residual(task.problem, columns)(points, outputs)
    dde.grad.clear()
    task.check_residuals(torch.cat(found, dim=1).detach().numpy())


def train(task: Task, model, chosen: dict) -> None:
    """Adam, L-BFGS and, where that has converged before the time is over, Newton-CG."""
    silent = {"verbose": 0, "display_every": 10**9}
    weights = chosen.get("weights")
    compiled = {"lr": 1e-3, "verbose": 0, "decay": tuple(chosen["decay"]) if "decay" in chosen else None}
    if isinstance(weights, str):
        model.compile("adam", **compiled)
        losses, _ = model.train(iterations=0, **silent)
        weights = list(5 / losses.loss_train[0])
    model.compile("adam", loss_weights=weights, **compiled)
    watch = Watch(task, until=ADAM_SHARE * task.limit)
    resample = [dde.callbacks.PDEPointResampler(period=1)] if chosen.get("resample") else []
    model.train(iterations=chosen["adam"], callbacks=[watch, *resample], **silent)
    options = dde.optimizers.config.LBFGS_options
    options["iter_per_step"], options["fun_per_step"] = 20, 25
    for optimiser in ("L-BFGS", "NNCG"):
        if not task.is_over():
            model.compile(optimiser, loss_weights=weights, verbose=0)
            length = {} if optimiser == "L-BFGS" else {"iterations": 10**6}
            model.train(callbacks=[Watch(task, until=task.limit)], **length, **silent)
            keep(task, model)


def run(task: Task, variant: str, threads: int) -> None:
    """A run in this process, printed as JSON."""
    torch.set_num_threads(threads)
    chosen, problem = settings(task.name, variant), task.problem
    columns = (*problem.space, "t") if problem.is_evolution else problem.space
    with contextlib.redirect_stdout(sys.stderr):
        dde.config.set_default_float("float64")
        dde.config.set_random_seed(task.seed)
        dde.optimizers.set_NNCG_options(rank=50, mu=1e-1)
        check(task, columns)
        model = dde.Model(make_data(problem, columns, chosen), make_network(problem, columns, chosen))
        with stopping_at(task.limit - task.elapsed()):
            train(task, model, chosen)
    order = [problem.axes.index(a) for a in columns]
    points = torch.tensor(task.points[:, order])

    def evaluate(state) -> np.ndarray:
        model.net.load_state_dict(state)
        with torch.no_grad():
            return torch.cat([model.net(part) for part in points.split(20000)]).numpy()

    count = sum(p.numel() for p in model.net.parameters())
    task.finish(evaluate, keep_best=True, parameters=count, version=dde.__version__, settings=chosen)
