"""The problems of `pinns.py` as its peers get them, in plain arithmetic, and what both peers share.

Nothing here needs more than NumPy: `xp` is NumPy, `jax.numpy` or `torch`. `pinns.py` compares all of it with the
problems of this package, before anything is measured.
"""

import json
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PI = math.pi
VISCOSITY = 0.01 / PI  # of burgers
WIDTH = 1e-4  # of allen_cahn
SPEED = 2.0  # of wave
REYNOLDS = 100.0  # of lid_driven


@dataclass(frozen=True)
class PeerProblem:
    """A problem on a box, time first where there is time.

    - `derivatives`: the partial derivatives that `equations` needs, as `u_xx`.
    - `equations(xp, values)`: the residuals, given coordinates, fields and derivatives by name.
    - `initial(xp, x)`: the field at t = 0. `wall(xp, values)`: each field on the walls, by name, but for periodic ones.
    - `lift(xp, values, outputs)`: fields that satisfy the conditions on walls, and at t = 0 if `lifts_initial`, for
      any outputs of a network, as a list.
    - `corner`: the field that is zero at the lowest corner, for a pressure.
    """

    axes: tuple[str, ...]
    box: dict[str, tuple[float, float]]
    derivatives: tuple[str, ...]
    equations: Callable
    fields: tuple[str, ...] = ("u",)
    initial: Callable | None = None
    rests: bool = False  # whether u_t = 0 at t = 0
    wall: Callable | None = None
    periodic: bool = False  # along x
    lift: Callable | None = None
    corner: str | None = None

    @property
    def space(self) -> tuple[str, ...]:
        return tuple(a for a in self.axes if a != "t")

    @property
    def is_evolution(self) -> bool:
        return "t" in self.axes


def _zero(xp, values) -> dict:
    return {"u": 0 * values["x"]}


def _sine(xp, x):
    return -xp.sin(PI * x)


def _burgers(xp, v) -> list:
    return [v["u_t"] + v["u"] * v["u_x"] - VISCOSITY * v["u_xx"]]


def _burgers_lift(xp, v, outputs) -> list:
    return [_sine(xp, v["x"]) + v["t"] * (1 - v["x"] ** 2) * outputs[0]]


def _poisson(xp, v) -> list:
    return [v["u_xx"] + v["u_yy"] + 2 * PI**2 * xp.sin(PI * v["x"]) * xp.sin(PI * v["y"])]


def _bubble(v):
    return v["x"] * (1 - v["x"]) * v["y"] * (1 - v["y"])


def _hump(xp, x):
    return x**2 * xp.cos(PI * x)


def _allen_cahn(xp, v) -> list:
    return [v["u_t"] - WIDTH * v["u_xx"] + 5 * v["u"] ** 3 - 5 * v["u"]]


def _two_modes(xp, x):
    return xp.sin(PI * x) + 0.5 * xp.sin(4 * PI * x)


def _wave(xp, v) -> list:
    return [v["u_tt"] - SPEED**2 * v["u_xx"]]


def _wave_lift(xp, v, outputs) -> list:
    return [_two_modes(xp, v["x"]) + v["t"] ** 2 * v["x"] * (1 - v["x"]) * outputs[0]]


def _cavity(xp, v) -> list:
    return [
        v["u"] * v["u_x"] + v["v"] * v["u_y"] + v["p_x"] - (v["u_xx"] + v["u_yy"]) / REYNOLDS,
        v["u"] * v["v_x"] + v["v"] * v["v_y"] + v["p_y"] - (v["v_xx"] + v["v_yy"]) / REYNOLDS,
        v["u_x"] + v["v_y"],
    ]


def _lid(xp, v) -> dict:
    # The lid is the wall y = 1, and no other wall has y above 1 where x (1 - x) is not zero.
    return {"u": 4 * v["x"] * (1 - v["x"]) * (abs(v["y"] - 1) < 1e-9), "v": 0 * v["x"]}


def _cavity_lift(xp, v, outputs) -> list:
    lid = 4 * v["x"] * (1 - v["x"]) * v["y"] ** 2
    return [lid + _bubble(v) * outputs[0], _bubble(v) * outputs[1], outputs[2]]


UNIT = (0.0, 1.0)
PROBLEMS = {
    "burgers": PeerProblem(
        axes=("t", "x"),
        box={"t": UNIT, "x": (-1.0, 1.0)},
        derivatives=("u_t", "u_x", "u_xx"),
        equations=_burgers,
        initial=_sine,
        wall=_zero,
        lift=_burgers_lift,
    ),
    "poisson": PeerProblem(
        axes=("x", "y"),
        box={"x": UNIT, "y": UNIT},
        derivatives=("u_xx", "u_yy"),
        equations=_poisson,
        wall=_zero,
        lift=lambda xp, v, outputs: [_bubble(v) * outputs[0]],
    ),
    # Without a lift: one that carries the initial values to all times keeps the corner that they have at x = 1.
    "allen_cahn": PeerProblem(
        axes=("t", "x"),
        box={"t": UNIT, "x": (-1.0, 1.0)},
        derivatives=("u_t", "u_xx"),
        equations=_allen_cahn,
        initial=_hump,
        periodic=True,
    ),
    "wave": PeerProblem(
        axes=("t", "x"),
        box={"t": UNIT, "x": UNIT},
        derivatives=("u_tt", "u_xx"),
        equations=_wave,
        initial=_two_modes,
        rests=True,
        wall=_zero,
        lift=_wave_lift,
    ),
    "lid_driven": PeerProblem(
        axes=("x", "y"),
        box={"x": UNIT, "y": UNIT},
        fields=("u", "v", "p"),
        derivatives=("u_x", "u_y", "u_xx", "u_yy", "v_x", "v_y", "v_xx", "v_yy", "p_x", "p_y"),
        equations=_cavity,
        wall=_lid,
        lift=_cavity_lift,
        corner="p",
    ),
}


def periodic_features(xp, values) -> list:
    """What a network of a problem that repeats along x gets for inputs."""
    angle = PI * (values["x"] + 1)
    return [values["t"], xp.cos(angle), xp.sin(angle)]


def probe(xp, values, fields) -> list:
    """A function that solves nothing, to compare residuals on: waves with a phase of their own for each field."""
    first, second = values.values()
    return [xp.sin((1.3 + k) * first + (0.7 - k) * second + 0.4 * k) for k in range(len(fields))]


class Task:
    """What a peer's process is given: a file of arrays, a time limit and when the process was started."""

    def __init__(self, name: str, arrays: str | Path, limit: float, began: float, seed: int):
        self.problem, self.name, self.limit, self.began, self.seed = PROBLEMS[name], name, limit, began, seed
        stored = np.load(arrays)
        self.points, self.reference = stored["points"], stored["reference"]
        self.probe_points, self.probe_residuals = stored["probe_points"], stored["probe_residuals"]
        self.states: list[tuple[float, Any]] = []

    def elapsed(self) -> float:
        """Seconds since the start of the process, imports and compilation included."""
        return time.time() - self.began

    def is_due(self) -> bool:
        """Whether the state should be kept: about 20 times for each factor of ten in time."""
        last = self.states[-1][0] if self.states else 0.0
        return self.elapsed() > max(1.12 * last, last + 0.2)

    def is_over(self) -> bool:
        return self.elapsed() > self.limit

    def keep(self, state: Any) -> None:
        """Keeps a state; it is evaluated when the training is over, so that this costs no time."""
        now = self.elapsed()
        if self.states and now - self.states[-1][0] < 0.05:
            self.states.pop()
        self.states.append((now, state))

    def check_residuals(self, found: np.ndarray) -> None:
        """Raises ValueError if the peer's residuals of `probe` are not those of this package."""
        worst = np.abs(found - self.probe_residuals).max() / np.abs(self.probe_residuals).max()
        if not worst < 1e-10:
            raise ValueError(f"{self.name}: the peer's equation is another one: its residual is off by {worst:.1e}")

    def error(self, values: np.ndarray) -> float:
        """The relative L2 norm over the fields and points that the reference has; `values` has a column per field."""
        known = np.isfinite(self.reference)
        difference = np.where(known, values - self.reference, 0.0)
        return float(np.linalg.norm(difference) / np.linalg.norm(self.reference[known]))

    def finish(self, evaluate: Callable[[Any], np.ndarray], keep_best: bool, **entries: Any) -> None:
        """Prints the record of the run: the curve, and the best state on it (`keep_best`) or the last.

        A state that came after the limit counts only if there is no other.
        """
        in_time = [(s, state) for s, state in self.states if s <= self.limit + 1]
        errors = [(self.error(evaluate(state)), s) for s, state in in_time or self.states[:1]]
        finite = [(e, s) for e, s in errors if math.isfinite(e)]
        quoted, when = (min(finite) if keep_best else finite[-1]) if finite else (None, self.elapsed())
        curve = {"seconds": [round(s, 2) for _, s in finite], "relative_l2": [e for e, _ in finite]}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        record = {"metrics": {"relative_l2": quoted}, "seconds": when, "curve": curve, "peak_memory_mb": memory}
        print(json.dumps(record | entries))
