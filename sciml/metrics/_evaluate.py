"""A model's errors on a data set, by variable and lead time, in one pass."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from ._fields import Fields, fields, root

LONG_NAMES = {
    "rmse": "root mean square error",
    "mae": "mean absolute error",
    "bias": "mean of prediction minus target",
    "max_error": "largest absolute error",
    "relative_l2": "L2 norm of the error over that of the target, mean over samples",
    "vrmse": "root mean square error over the target's standard deviation on the grid, mean over samples",
}
RELATIVE = ("relative_l2", "vrmse")


class About(NamedTuple):
    """What a target's axes are, and what lies along them."""

    channel: int | None
    time: int | None
    names: tuple[str, ...]
    units: Mapping[str, str]
    lead_times: np.ndarray | None


def evaluate(
    model: Callable,
    data: Any,
    *,
    size: int = 32,
    grid: int | Sequence[int] | None = None,
    channel: int | None = None,
    time: int | None = None,
    names: Sequence[str] | None = None,
    units: Mapping[str, str] | None = None,
    lead_times: ArrayLike | Sequence[Any] | None = None,
    weights: ArrayLike | None = None,
    skip_missing: bool = False,
):
    """The errors of a model on data in the data's units, as an xarray Dataset: `rmse`, `mae`, `bias`, `max_error`,
    `relative_l2` and `vrmse`, as the functions of these names define them, on the dimensions `variable` and (where
    targets have a time) `lead_time`.

    - `model`: called on one sample. What it gives must be in the units of the target: see `sciml.nn.normalised`.
    - `data`: a data set, which is read in batches of `size` rows in order, or any iterable of batches
      `(*arguments, target)`, or `(batch, mask)` as padded ones are.
    - `channel`, `time`, `grid`: axes of the target's batch, as for all metrics; `names` and `units` of the variables;
      `lead_times`. A data set knows them; what is given here comes before that.
    - `weights`: of the points of the grid, such as `latitude_weights`.
    - `skip_missing`: points where the target is NaN do not count.

    One batch is in memory at a time. Sums over the grid are in JAX's default precision, those over samples in float64.
    Units are the coordinate `units` of `variable`, or an attribute where all variables have the same. Raises ValueError
    for names or lead times that do not fit and for data without a batch, TypeError for batches that are none.
    """
    measure = _measure(dict(grid=grid, weights=weights, skip_missing=skip_missing))
    shaped = data if hasattr(data, "arrays") else getattr(data, "dataset", None)
    given = About(
        channel, time, tuple(names or ()), units or {}, None if lead_times is None else np.asarray(lead_times)
    )
    about, sums = given, Sums()
    for batch, mask in _batches(data, size, skip_missing):
        *arguments, target = batch
        if not sums.samples and shaped is not None:
            about = _completed(given, _described(shaped, np.ndim(target)))
        values = measure(model, tuple(arguments), target, about.channel, about.time)
        sums.add({n: np.asarray(v) for n, v in values.items()}, mask)
    if not sums.samples:
        raise ValueError("evaluate: the data gave no batch")
    return _table(sums, about)


def _batches(data: Any, size: int, missing: bool) -> Iterable[tuple[tuple, np.ndarray | None]]:
    if hasattr(data, "batches"):
        data = data.batches(size, shuffle=False, pad=True, nan=missing)
    for batch in data:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise TypeError(f"evaluate: expected batches (*arguments, target), got {type(batch).__name__}")
        if len(batch) == 2 and isinstance(batch[0], tuple):
            yield batch[0], np.asarray(batch[1], bool)
        else:
            yield tuple(batch), None


def _measure(options: dict[str, Any]) -> Callable[..., dict[str, Array]]:
    """The compiled function that gives what is added up of each sample, `(samples, *kept)`."""

    @eqx.filter_jit
    def measure(model, arguments, target, channel, time):
        found = fields(jax.vmap(model)(*arguments), target, channel=channel, time=time, **options)
        return _sums(found)

    return measure


def _sums(found: Fields) -> dict[str, Array]:
    error, target, axes = found.error, found.target, found.layout.summed
    weight = found.sum(1.0)
    mean = jnp.expand_dims(found.sum(target) / weight, axes)
    square = found.sum(error**2)
    counted = jnp.where(found.weight > 0, jnp.abs(error), 0)
    return {
        "weight": weight,
        "square": square,
        "absolute": found.sum(jnp.abs(error)),
        "error": found.sum(error),
        "largest": jnp.max(counted, axes),
        "relative_l2": root(square) / root(found.sum(target**2)),
        "vrmse": root(square) / root(found.sum((target - mean) ** 2)),
    }


class Sums:
    """Sums over samples in float64."""

    def __init__(self):
        self.samples = 0
        self.values: dict[str, np.ndarray] = {}
        self.largest = np.zeros(())

    def add(self, values: dict[str, np.ndarray], mask: np.ndarray | None) -> None:
        """Those of a batch, of the rows that the mask names. Raises ValueError for a target of another shape."""
        if mask is not None:
            values = {n: v[mask] for n, v in values.items()}
        weight, largest = values["weight"], values.pop("largest")
        shape = weight.shape[1:]
        if self.values and shape != self.values["weight"].shape:
            raise ValueError(f"evaluate: batches with variables and times {shape} and {self.values['weight'].shape}")
        some = weight > 0
        # A sample without any point that counts has no relative error.
        for name, value in {**values, "some": some}.items():
            total = np.where(some, value, 0).sum(0, dtype=np.float64)
            self.values[name] = self.values.get(name, 0.0) + total
        self.largest = np.maximum(self.largest, largest.max(0, initial=0.0))
        self.samples += len(weight)

    def results(self) -> dict[str, np.ndarray]:
        """The metrics, `(*kept)`; NaN where no point counts."""
        sums = self.values
        with np.errstate(invalid="ignore", divide="ignore"):
            found = {
                "rmse": np.sqrt(sums["square"] / sums["weight"]),
                "mae": sums["absolute"] / sums["weight"],
                "bias": sums["error"] / sums["weight"],
                "max_error": np.where(sums["some"] > 0, self.largest, np.nan),
                "relative_l2": sums["relative_l2"] / sums["some"],
                "vrmse": sums["vrmse"] / sums["some"],
            }
        return {n: np.asarray(v) for n, v in found.items()}


def _table(sums: Sums, about: About):
    import xarray as xr

    axes = sorted(
        (axis, dim) for axis, dim in ((about.channel, "variable"), (about.time, "lead_time")) if axis is not None
    )
    dims = [dim for _, dim in axes]
    results = sums.results()
    if about.channel is None:
        dims, results = ["variable", *dims], {n: v[None] for n, v in results.items()}
    lengths = dict(zip(dims, results["rmse"].shape))
    names = list(about.names) or [str(i) for i in range(lengths["variable"])]
    if len(names) != lengths["variable"]:
        raise ValueError(f"evaluate: {len(names)} names, {', '.join(names)}, for {lengths['variable']} variables")
    coords: dict[str, Any] = {"variable": names}
    units = [about.units.get(n, "") for n in names]
    if any(units):
        coords["units"] = ("variable", units)
    if "lead_time" in lengths:
        leads = np.arange(1, lengths["lead_time"] + 1) if about.lead_times is None else about.lead_times
        if np.shape(leads) != (lengths["lead_time"],):
            raise ValueError(f"evaluate: lead_times of shape {np.shape(leads)} for {lengths['lead_time']} lead times")
        coords["lead_time"] = leads
    variables = {n: (dims, v, _attributes(n, units)) for n, v in results.items()}
    table = xr.Dataset(variables, coords=coords, attrs={"samples": sums.samples})
    return table.transpose("variable", ...)


def _attributes(name: str, units: list[str]) -> dict[str, str]:
    found = {"long_name": LONG_NAMES[name]}
    if name in RELATIVE:
        return found | {"units": "1"}
    return found | ({"units": units[0]} if units[0] and len(set(units)) == 1 else {})


# What a data set knows.


def _completed(given: About, known: About) -> About:
    names = given.names or known.names
    leads = known.lead_times if given.lead_times is None else given.lead_times
    channel = known.channel if given.channel is None else given.channel
    return About(
        channel, known.time if given.time is None else given.time, names, {**known.units, **given.units}, leads
    )


def _described(dataset: Any, count: int) -> About:
    """The axes of the last array of a data set's batches, which has `count` of them."""
    window, arrays = dataset.window, dataset.arrays
    if window is None:
        name, array = list(arrays.items())[-1]
        dims = ["", *(d for d in array.dims if d != dataset.sample_dim)]
        time, leads = _time(dataset, dims)
        names = (name,)
    else:
        moving = [n for n, a in arrays.items() if window.dim in a.dims]
        rest = [d for d in arrays[moving[0]].dims if d != window.dim]
        stacked = ["channel"] if len(moving) > 1 else []
        # Trajectories are rows, not part of the grid.
        grid = rest if len(rest) == count - 2 - len(stacked) else [d for d in rest if d != dataset.sample_dim]
        dims = ["", window.dim, *stacked, *grid]
        time, leads = 1, _lead_times(dataset, window)
        names = tuple(moving)
    channel = next((i for i, d in enumerate(dims) if d == "channel" or d == f"{names[0]}_channel"), None)
    if channel is not None and dims[channel] in dataset.coords and len(names) == 1:
        names = tuple(str(v) for v in dataset.coords[dims[channel]].values)
    elif channel is not None and len(names) == 1:
        names = ()
    return About(channel, time, names, dataset.units, leads)


def _time(dataset: Any, dims: list[str]) -> tuple[int | None, np.ndarray | None]:
    try:
        dim = dataset.time_dim
    except ValueError:
        return None, None
    if dim not in dims:
        return None, None
    values = dataset.coords[dim].values if dim in dataset.coords else None
    return dims.index(dim), values if values is not None and values.dtype.kind in "iuf" else None


def _lead_times(dataset: Any, window: Any) -> np.ndarray | None:
    """Times of the targets after the last input, where frames have equal steps."""
    if window.dim not in dataset.coords:
        return None
    values = dataset.coords[window.dim].values
    steps = np.diff(values)
    step = steps[0]
    if not (steps == step).all():
        if values.dtype.kind != "f" or not np.allclose(steps.astype(float), float(step), rtol=1e-3):
            return None
        step = (values[-1] - values[0]) / len(steps)
    if not isinstance(step, np.generic):  # of dates of another calendar
        step = np.timedelta64(cast(Any, step))
    return np.arange(1, window.targets + 1) * window.steps * step
