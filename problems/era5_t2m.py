"""Temperature at 2 m over the British Isles: forecasts of 6 and 24 hours from a month of ERA5.

Hourly fields of March 2019, 33 x 49 points: hours before `learned` are learned from, those after are forecast. A model
sees five frames six hours apart and gives the next one; four such steps are a forecast of 24 hours. Errors are in K:
`rmse` after 6 hours, `rmse_24` after 24. Of the baselines, persistence forecasts the last frame, yesterday the one of
the same hour a day before, climatology the mean of that hour over what is learned from; a linear map and kernel ridge
regression take the same five frames.

A month of one region holds no other weather, and what comes over its sides is not in the data: these figures say how
models compare here, and nothing of weather forecasts.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sciml
from sciml import operators

EXPECTED = {"rmse": 1.371}
BUDGET = 180.0
# A window: as many frames, so many hours apart.
FRAMES, APART = 5, 6
AXIS = operators.Bounded(points=operators.ends)


class Climatology(eqx.Module):
    """The mean field of each hour of the day."""

    fields: jax.Array


def problem(
    steps: int = 400,
    through: int = 4,
    width: int = 16,
    modes: int = 4,
    layers: int = 4,
    batch: int = 16,
    rate: float = 2e-3,
    decay: float = 0.1,
    noise: float = 0.3,
    learned: int = 600,
    seed: int = 0,
) -> sciml.Problem:
    """steps: of training; through: steps through time in its last quarter; width, modes, layers: of the FNO; batch:
    samples of a step; rate: largest learning rate; decay: of the weights; noise: on the frames, K; learned: hours to
    learn from.
    """
    data = sciml.dataset("era5_t2m").stack(t2m=["t2m"])
    train = data.isel(time=slice(0, learned))
    pairs, longer = (train.windows(FRAMES, k, steps=APART) for k in (1, through))
    statistics = train.statistics(steps=APART)
    options = {"modes": (modes, modes), "width": width, "layers": layers, "axes": AXIS}
    network = operators.FNO(FRAMES, 1, **options, key=jax.random.key(seed))
    model = sciml.nn.normalised(
        operators.Stepper(network, frames_in=FRAMES),
        sciml.nn.normaliser(statistics, "t2m", channel_axis=1),
        sciml.nn.normaliser(statistics, "t2m", channel_axis=1, difference=True),
        residual=True,
    )
    stages = [windows.batches(batch, seed=seed) for windows in (pairs, longer)]
    batches = sciml.data.augmented(
        sciml.data.staged((3 * steps // 4, stages[0]), stages[1]), sciml.data.noise(noise), seed=seed
    )
    fields = train.read()["t2m"]
    tests = {lead: held_out(data, learned, lead) for lead in (1, 4)}

    def figure(model):
        windows, target, _ = tests[1]
        names = {"name": "temperature", "input_name": "6 hours before", "units": "K", "input_units": "K"}
        places = {"axes": ("latitude", "longitude"), "across": 1}
        values = [np.asarray(data.coords[axis].values) for axis in places["axes"]]
        predicted = jax.vmap(model)(windows)[:, 0]
        return operators.field_figure(windows[:, -1], predicted, target, coordinates=values, **places, **names)

    return sciml.Problem(
        model,
        operators.rollout_misfit(relative=False),
        batches,
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps), weight_decay=decay),
        steps,
        lambda model: {n: error(model, lead, *tests[lead]) for n, lead in (("rmse", 1), ("rmse_24", 4))},
        baselines={
            "persistence": lambda window: window[-1:],
            "yesterday": lambda window: window[1:2],
            "climatology": Climatology(jnp.stack([fields[hour::24].mean(axis=0) for hour in range(24)])),
            "linear": operators.linear(pairs),
            "kernel_ridge": operators.kernel_ridge(pairs),
        },
        figure=figure,
    )


def held_out(data, learned, lead):
    """Windows that end at an hour not learned from, the frames `lead` steps after them, and the hours of those."""
    first = learned - (FRAMES - 1) * APART
    windows, targets = data.isel(time=slice(first, None)).windows(FRAMES, lead, steps=APART).samples()
    return windows, targets[:, -1], learned + lead * APART + np.arange(len(targets))


def error(model, lead, windows, target, hours):
    """The root mean square error after `lead` steps, K."""
    if isinstance(model, Climatology):
        return sciml.metrics.rmse(model.fields[hours % 24], target)
    forecast = jax.vmap(lambda window: operators.rollout(model, window, lead)[-1])(windows)
    return sciml.metrics.rmse(forecast, target)
