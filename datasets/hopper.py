"""A hopping robot that falls: simulated trajectories of seven positions and seven velocities.

The planar hopper of the DeepMind Control Suite, thrown without control from random states, with contacts with the
ground and stops of its joints. The recipe is that of Rubanova et al.: positions x and z uniform in (0, 0.5), angles in
(-2, 2), velocities in (-5, 5), then `frames` states, one after each step of 5 ms of the simulator. Random numbers are
drawn in the order of their program, with its seed: the trajectories are those of their data set, as far as the
versions of the simulator agree.

- What: x(sample, time, component): rootx, rootz, rooty, waist, hip, knee, ankle (m and rad), then their velocities.
- Who: made here with dm_control 1.0.50 and mujoco 3.17.0 (Apache-2.0), which `pip install "sciml-jax[mujoco]"`
  installs, on one processor. A mirror (SCIML_DATA) may hold the first 200, which are read where no more are asked for.
- Citation: Rubanova, Chen & Duvenaud, "Latent ODEs for irregularly-sampled time series", NeurIPS 2019 (arXiv
  1907.03907); Tassa et al., "DeepMind Control Suite", arXiv 1801.00690.
- Size: 200 trajectories of 200 times are 2.2 MB; 10,000 are those of the paper.
- Baselines: Rubanova et al. have 0.285e-2 as the mean square error of a latent ODE that interpolates windows of 100
  times from a half of them, where each component is scaled by (x - min) / max.
"""

import numpy as np

import sciml

PATH = "mujoco_hopper/hopper_stand_200x200x14.npz"
SHA256 = "326cdd14111f01e3b3ac43264e367e3263f0edd5727a09b1d8acedea08010158"
MIRRORED = (200, 200, 123)
# Limits of the initial state: two positions, five angles, seven velocities.
LOW = np.array([0.0] * 2 + [-2.0] * 5 + [-5.0] * 7)
HIGH = np.array([0.5] * 2 + [2.0] * 5 + [5.0] * 7)


def make(samples: int = 200, frames: int = 200, seed: int = 123, dtype: str = "float32") -> sciml.data.Recipe:
    """frames: stored times, 5 ms apart."""
    if samples < 1 or frames < 1:
        raise ValueError(f"samples and frames must be above 0, got {samples} and {frames}")
    whole, length, own = MIRRORED
    local = sciml.data.find_local(PATH, SHA256) if samples <= whole and frames <= length and seed == own else None

    def generate(start, stop):
        if local is not None:
            with np.load(local) as kept:
                return {"x": kept["x"][start:stop, :frames]}
        return {"x": simulate(initial_states(stop, seed)[start:], frames)}

    return sciml.data.Recipe.on_grid(
        {"x": (("time", "component"), {"long_name": "positions and velocities", "units": "m, rad, m/s, rad/s"})},
        {"time": (0.005 * np.arange(frames), {"units": "s"}), "component": (np.arange(14), {"units": "1"})},
        samples=samples,
        generate=generate,
        # A divisor of what the mirror holds, as the last batch is made whole.
        batch=50,
        dtype=dtype,
    )


def initial_states(count: int, seed: int) -> np.ndarray:
    """The states (count, 14) from which the trajectories start, in the order of the original data set."""
    return LOW + (HIGH - LOW) * np.random.RandomState(seed).random_sample((count, len(LOW)))


def simulate(states: np.ndarray, frames: int) -> np.ndarray:
    """Trajectories (n, frames, 14) from states (n, 14). Raises ImportError without dm_control."""
    try:
        from dm_control import suite
    except ImportError as error:
        raise ImportError(
            'the data set hopper is simulated with dm_control: pip install "sciml-jax[mujoco]", or set SCIML_DATA to a '
            "mirror that holds it"
        ) from error
    physics = suite.load("hopper", "stand").physics
    found = np.empty((len(states), frames, states.shape[1]))
    for trajectory, state in zip(found, states):
        with physics.reset_context():
            physics.data.qpos[:], physics.data.qvel[:] = np.split(state, 2)
        for t in range(frames):
            trajectory[t] = np.concatenate([physics.data.qpos, physics.data.qvel])
            physics.step()
    return found
