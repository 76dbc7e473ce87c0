"""Statistics: one pass in boxes agrees with the whole array in float64, whatever the chunks, threads and gaps."""

import hashlib
import warnings

import numpy as np
import pytest
from memory_source import InMemory

from sciml.data import Coordinate, DataError, Dataset
from sciml.data import _moments as moments
from sciml.data._lazy import Joined, Lazy, Stored
from sciml.data._statistics import Statistics, statistics

RNG = np.random.default_rng(0)


class Memory(InMemory):
    """A source in memory that is known by its numbers."""

    def fingerprint(self):
        digest = hashlib.sha256()
        for name, (_, values) in self.arrays.items():
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()

    @property
    def numbers_read(self):
        return sum(int(np.prod(c.shape)) for c in self.reads)


def dataset(chunks=None, coords=None, attributes=None, **arrays):
    """A data set of `name=(dims, values)`."""
    source = Memory({n: (dims, np.asarray(a)) for n, (dims, a) in arrays.items()}, chunks, attributes)
    found = {n: c if isinstance(c, Coordinate) else Coordinate((n,), np.asarray(c)) for n, c in (coords or {}).items()}
    return Dataset({n: Stored(source, n) for n in arrays}, found, sources=(source,))


def joined(*values):
    """One series over several files."""
    sources = tuple(Memory({"u": (("time", "x"), v)}) for v in values)
    return Dataset({"u": Joined(tuple(Stored(s, "u") for s in sources), 0)}, sources=sources)


@pytest.fixture(autouse=True)
def small_boxes_and_own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SCIML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(moments, "BOX", 500)


def series(shape=(3, 40, 7, 5), dtype=np.float32):
    return (RNG.normal(size=shape) + np.arange(shape[1]).reshape(-1, 1, 1)).astype(dtype)


def check(found, values, changes=None):
    wide = values.astype(np.float64)
    assert found.count == np.isfinite(wide).sum()
    np.testing.assert_allclose(found.missing, np.isnan(wide).mean(), atol=1e-15)
    for key, function in {"mean": np.nanmean, "std": np.nanstd, "min": np.nanmin, "max": np.nanmax}.items():
        np.testing.assert_allclose(getattr(found, key), function(wide), rtol=1e-12, err_msg=key)
    np.testing.assert_allclose(found.rms, np.sqrt(np.nanmean(wide**2)), rtol=1e-12)
    if changes is not None:
        assert found.difference_count == np.isfinite(changes).sum()
        np.testing.assert_allclose(found.difference_mean, np.nanmean(changes), rtol=1e-11)
        np.testing.assert_allclose(found.difference_std, np.nanstd(changes), rtol=1e-11)


@pytest.mark.parametrize("chunks", [None, (1, 1, 7, 5), (3, 11, 7, 5), (2, 40, 3, 2), (1, 6, 2, 5)])
@pytest.mark.parametrize("steps", [1, 3, 13])
def test_boxes_agree_with_the_whole_and_each_number_is_read_once(chunks, steps):
    u = series()
    u[RNG.random(u.shape) < 0.1] = np.nan
    data = dataset({"u": chunks}, u=(("sample", "time", "y", "x"), u))
    found = data.statistics(steps=steps)
    check(found["u"], u, u.astype(np.float64)[:, steps:] - u.astype(np.float64)[:, :-steps])
    assert (found.time, found.steps) == ("time", steps)
    assert data.sources[0].numbers_read == u.size


@pytest.mark.parametrize("mean, std", [(1e5, 1e-1), (300.0, 20.0), (1e-7, 1e-9)])
def test_large_mean_and_small_deviation(mean, std):
    u = (mean + std * RNG.normal(size=(50, 40, 10))).astype(np.float32)
    found = dataset({"u": (1, 40, 10)}, u=(("time", "y", "x"), u)).statistics()["u"]
    wide = u.astype(np.float64)
    np.testing.assert_allclose(found.mean, wide.mean(), rtol=1e-14)
    np.testing.assert_allclose(found.std, wide.std(), rtol=1e-9)
    np.testing.assert_allclose(found.difference_std, np.diff(wide, axis=0).std(), rtol=1e-9)


def test_threads_do_not_change_a_bit():
    u = series((2, 60, 9, 8))
    data = dataset({"u": (1, 7, 4, 8)}, {"lat": np.linspace(-80, 80, 9)}, u=(("sample", "time", "lat", "x"), u))
    texts = {data.statistics(threads=n, cache=False).to_json() for n in (1, 2, 5, 16)}
    assert len(texts) == 1


@pytest.mark.parametrize("poles", [True, False])
@pytest.mark.parametrize("falling", [True, False])
def test_area_of_a_sphere(poles, falling):
    count = 181
    latitude = np.linspace(-90, 90, count) if poles else (np.arange(180) + 0.5) - 90
    latitude = latitude[::-1] if falling else latitude
    field = np.broadcast_to(np.sin(np.radians(latitude))[:, None] ** 2, (len(latitude), 20))
    coord = Coordinate(("y",), latitude, {"units": "degrees_north"})
    data = dataset({"u": (17, 6)}, {"y": coord}, u=(("y", "x"), field))
    found = data.statistics()["u"]
    assert found.area
    # The mean of sin^2 is 1/3 and of sin^4 is 1/5, to the second order of the midpoint rule.
    np.testing.assert_allclose(found.mean, 1 / 3, atol=1e-4)
    np.testing.assert_allclose(found.std**2, 1 / 5 - 1 / 9, atol=1e-4)
    plain = data.statistics(area=False)["u"]
    np.testing.assert_allclose(plain.mean, field.mean(), rtol=1e-13)
    assert not plain.area


def test_area_with_missing_numbers_and_channels():
    latitude = np.array([-60.0, -20.0, 10.0, 50.0, 85.0])
    u = RNG.normal(size=(6, 3, 5, 8))
    u[RNG.random(u.shape) < 0.3] = np.nan
    data = dataset({"u": (2, 1, 2, 8)}, {"lat": latitude}, u=(("time", "channel", "lat", "lon"), u))
    edges = np.array([-80, -40, -5, 30, 67.5, 90.0])
    weights = np.broadcast_to(np.diff(np.sin(np.radians(edges)))[:, None], u.shape)
    found = data.statistics()["u"]
    assert found.dims == ("channel",)
    for c in range(3):
        w = np.where(np.isnan(u[:, c]), 0, weights[:, c])
        mean = np.nansum(w * u[:, c]) / w.sum()
        np.testing.assert_allclose(found.mean[c], mean, rtol=1e-12)
        np.testing.assert_allclose(found.std[c] ** 2, np.nansum(w * (u[:, c] - mean) ** 2) / w.sum(), rtol=1e-12)
        change = np.diff(u[:, c], axis=0)
        w = np.where(np.isnan(change), 0, weights[1:, c])
        np.testing.assert_allclose(found.difference_mean[c], np.nansum(w * change) / w.sum(), rtol=1e-12)


@pytest.mark.parametrize("latitude", [[-90.0, 0.0, 100.0], [10.0, 30.0, 20.0], ["a", "b", "c"]])
def test_what_is_no_latitude_has_no_area(latitude):
    data = dataset(None, {"lat": latitude}, u=(("lat",), np.array([1.0, 2.0, 6.0])))
    assert data.statistics()["u"].mean == 3
    with pytest.raises(ValueError, match="degrees_north"):
        data.statistics(area=True)


def test_channels_have_their_own_and_names():
    u, v = series((4, 30, 6, 2)), 100 * series((4, 30, 6, 2)) + 1000
    dims = ("sample", "time", "y", "x")
    data = dataset({"u": (1, 7, 6, 2), "v": (2, 30, 2, 2)}, u=(dims, u), v=(dims, v)).stack(state=["u", "v"])
    found = data.statistics()
    assert found["state"].mean.shape == (2,)
    for i, part in enumerate((u, v)):
        np.testing.assert_allclose(found["state"].mean[i], part.astype(float).mean(), rtol=1e-12)
        change = np.diff(part.astype(float), axis=1)
        np.testing.assert_allclose(found["state"].difference_std[i], change.std(), rtol=1e-11)
    assert "state[v]" in repr(found)
    table = found.to_xarray()
    assert float(table["state"].sel(statistic="std", channel="v")) == found["state"].std[1]
    levels = data.statistics(channels=["channel", "y"])["state"]
    assert levels.dims == ("channel", "y") and levels.mean.shape == (2, 6)
    np.testing.assert_allclose(levels.mean[1, 3], v[:, :, 3].astype(float).mean(), rtol=1e-12)


def test_differences_go_over_files_but_not_over_trajectories():
    whole = series((1, 30, 1, 5))[0, :, 0]
    data = joined(whole[:7], whole[7:8], whole[8:9], whole[9:25], whole[25:])
    check(data.statistics()["u"], whole, np.diff(whole.astype(float), axis=0))
    jump = np.stack([np.arange(10.0), 1e6 + np.arange(10.0)])
    found = dataset(None, u=(("trajectory", "time"), jump)).statistics()["u"]
    assert (found.difference_mean, found.difference_std, found.difference_count) == (1, 0, 18)


def test_differences_stop_at_gaps():
    values = np.arange(40.0) ** 2
    times = np.datetime64("2000-01-01", "ns") + np.arange(40) * np.timedelta64(6, "h")
    kept = np.r_[0:13, 20:40]
    data = dataset({"u": (4,)}, {"time": times[kept]}, u=(("time",), values[kept]))
    inside = np.concatenate([np.diff(values[:13]), np.diff(values[20:])])
    check(data.statistics()["u"], values[kept], inside)
    twice = np.concatenate([values[2:13] - values[:11], values[22:] - values[20:38]])
    check(data.statistics(steps=2)["u"], values[kept], twice)
    # Without a coordinate the selection itself tells what it leaves out.
    train, _ = dataset({"u": (4,)}, u=(("time",), values)).split(0.5, 0.5, seed=3)
    places = np.sqrt(train.read()["u"])
    linked = np.diff(places) == 1
    assert not linked.all()
    check(train.statistics()["u"], places**2, np.diff(places**2)[linked])
    # A month is not a gap.
    months = np.arange("2001-01", "2004-05", dtype="datetime64[M]").astype("datetime64[ns]")
    assert dataset(None, {"time": months}, u=(("time",), values)).statistics()["u"].difference_count == 39


def test_windows_tell_the_steps_of_differences_and_nothing_else():
    u = series((2, 30, 3, 2))
    data = dataset({"u": (1, 4, 3, 2)}, u=(("sample", "time", "y", "x"), u))
    found = data.windows(2, 1, steps=6, stride=5).patches(x=1).statistics()
    assert found.steps == 6
    check(found["u"], u, u[:, 6:].astype(float) - u[:, :-6].astype(float))


def test_statistics_of_a_part_and_of_every_second():
    u = series((10, 20, 3, 2))
    data = dataset({"u": (4, 6, 3, 2)}, u=(("sample", "time", "y", "x"), u))
    train, test = data.split(7)
    check(train.statistics()["u"], u[:7])
    check(test.statistics()["u"], u[7:])
    thin = u[:, 1::3].astype(float)
    check(data.isel(time=slice(1, None, 3)).statistics()["u"], thin, np.diff(thin, axis=1))


def test_logarithm():
    rain = RNG.exponential(size=(50, 8)) ** 3 * (RNG.random((50, 8)) > 0.5)
    humidity = np.exp(RNG.normal(size=(50, 8)))
    arrays = {"rain": (("time", "x"), rain), "q": (("time", "x"), humidity)}
    found = dataset({"rain": (7, 8)}, **arrays).statistics(log=["rain", "q"])
    assert found["q"].log_offset == 0
    np.testing.assert_allclose(found["rain"].log_offset, 0.01 * rain.mean(), rtol=1e-12)
    logged = np.log(rain + found["rain"].log_offset)
    check(found["rain"], logged, np.diff(logged, axis=0))
    check(found["q"], np.log(humidity))
    data = dataset(None, **arrays)["rain"]
    check(data.statistics(log={"rain": 1e-3})["rain"], np.log(rain + 1e-3))
    assert data.sources[0].numbers_read == rain.size
    with pytest.raises(ValueError, match="'rain' \\+ 0 is not positive at time .*, x"):
        data.statistics(log={"rain": 0.0})
    below = dataset(None, u=(("x",), np.array([-3.0, -1.0, 5.0]))).statistics(log="u")["u"]
    assert np.isfinite(below.mean) and below.log_offset > 3
    zero = dataset(None, u=(("x",), np.zeros(3))).statistics(log="u")["u"]
    assert (zero.log_offset, zero.mean, zero.std) == (1, 0, 0)


def test_constants_are_constant():
    found = dataset({"u": (7, 3)}, u=(("time", "x"), np.full((100, 3), 0.1))).statistics()["u"]
    assert (found.mean, found.std, found.difference_std) == (0.1, 0, 0)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, bool, np.float16, ">f4"])
def test_types(dtype):
    u = (RNG.random((30, 4)) * 50).astype(dtype)
    wide = u.astype(float)
    check(dataset({"u": (4, 4)}, u=(("time", "x"), u)).statistics()["u"], wide, np.diff(wide, axis=0))


def test_scalars_static_fields_and_short_series():
    data = dataset(
        None, s=((), np.float64(3.0)), mask=(("x",), np.array([1.0, 2.0])), u=(("time", "x"), np.ones((1, 2)))
    )
    found = data.statistics()
    assert found["s"].mean == 3 and found["mask"].mean == 1.5
    assert all(found[n].difference_mean is None for n in ("s", "mask", "u"))
    assert data["u"].statistics(difference="x")["u"].difference_count == 1
    assert np.isnan(found.to_xarray()["u"].sel(statistic="difference_std"))


def test_no_two_frames_without_a_gap_in_the_numbers():
    u = np.array([1.0, np.nan, 2.0, np.nan])
    assert dataset(None, u=(("time",), u)).statistics()["u"].difference_mean is None
    assert dataset(None, u=(("time",), u)).statistics(difference=False).time is None


# The cache.


def test_a_second_call_reads_nothing(tmp_path):
    u = series()
    data = dataset(None, {"channel": ["a", "b", "c"]}, u=(("channel", "time", "y", "x"), u))
    first = data.statistics()
    data.sources[0].reads.clear()
    again = data.statistics()
    assert not data.sources[0].reads
    assert again.to_json() == first.to_json() and again.labels == {"channel": ("a", "b", "c")}
    data.statistics(difference=False)
    assert data.sources[0].reads
    file = next((tmp_path / "cache" / "statistics").glob("*.json"))
    other = dataset(None, u=(("channel", "time", "y", "x"), u + 1)).statistics()
    np.testing.assert_allclose(other["u"].mean, first["u"].mean + 1, rtol=1e-6)
    for damage in ("", "{", "[]", '{"format": "sciml statistics 1"}', file.read_text()[:-200]):
        for path in (tmp_path / "cache" / "statistics").glob("*.json"):
            path.write_text(damage)
        assert data.statistics().to_json() == first.to_json()
    data.sources[0].reads.clear()
    assert data.statistics().to_json() == first.to_json() and not data.sources[0].reads


def test_latitudes_and_times_are_part_of_the_key():
    u = RNG.normal(size=(4, 3))
    first = dataset(None, {"lat": [0.0, 20.0, 40.0]}, u=(("time", "lat"), u)).statistics()["u"]
    second = dataset(None, {"lat": [40.0, 60.0, 80.0]}, u=(("time", "lat"), u)).statistics()["u"]
    assert first.mean != second.mean
    gap = dataset(None, {"lat": [0.0, 20.0, 40.0], "time": [0, 1, 7, 8]}, u=(("time", "lat"), u)).statistics()["u"]
    assert (first.difference_count, gap.difference_count) == (9, 6)


def test_what_cannot_be_told_apart_is_not_cached(tmp_path):
    def plain(values):
        source = InMemory({"u": (("x",), values)})
        return Dataset({"u": Stored(source, "u")}, sources=(source,))

    assert plain(np.zeros(3)).statistics()["u"].mean == 0
    assert plain(np.ones(3)).statistics()["u"].mean == 1
    data = dataset(None, u=(("x",), np.ones(3)))
    assert [data.map(u=lambda u: k * u).statistics()["u"].mean for k in (2, 3)] == [2, 3]  # noqa: B023
    assert not (tmp_path / "cache").exists()
    data.map(u=np.float32).statistics()
    assert (tmp_path / "cache").exists()


def test_an_unwritable_cache_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCIML_CACHE", str(tmp_path / "file"))
    assert dataset(None, u=(("x",), np.ones(3))).statistics()["u"].mean == 1


def test_json_is_exact():
    found = dataset(None, u=(("channel", "time"), RNG.normal(size=(3, 9)))).statistics(log={"u": 9.0})
    again = Statistics.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert again["u"].std.tobytes() == found["u"].std.tobytes() and again["u"].count.dtype == np.int64
    for text in ("no", "{}", '{"format": "other"}'):
        with pytest.raises(ValueError, match="not statistics of this package"):
            Statistics.from_json(text)


# Mistakes.


def test_infinite_and_missing_numbers_are_named():
    u = np.zeros((20, 6), np.float32)
    u[13, 4] = -np.inf
    with pytest.raises(DataError, match="'u' is infinite at time 13, x 4"):
        dataset({"u": (3, 6)}, u=(("time", "x"), u)).statistics()
    with pytest.raises(ValueError, match="'u': all numbers are missing"):
        dataset(None, u=(("time",), np.full(4, np.nan))).statistics()
    u = np.zeros((4, 2))
    u[:, 1] = np.nan
    with pytest.raises(ValueError, match="'u' \\(channel v\\): all"):
        dataset(None, {"channel": ["u", "v"]}, u=(("time", "channel"), u)).statistics()


def test_what_cannot_be_read_is_named():
    class Broken(Memory):
        def read(self, chunk):
            if chunk.slices[0].start >= 6:
                raise OSError("filter returned failure")
            return super().read(chunk)

    source = Broken({"u": (("time",), np.zeros(12))}, {"u": (3,)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "BOX", 3)
        with pytest.raises(DataError, match="'u': cannot read time 6 to 8: filter"):
            Dataset({"u": Stored(source, "u")}, sources=(source,)).statistics(threads=3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"log": "v"}, "no variable 'v'"),
        ({"channels": ["z"]}, "no dimension 'z'"),
        ({"difference": "z"}, "no dimension 'z'"),
        ({"steps": 0}, "steps must be above 0"),
    ],
)
def test_unknown_names(options, message):
    with pytest.raises(ValueError, match=message):
        dataset(None, u=(("time",), np.ones(3))).statistics(**options)


def test_only_real_numbers():
    for values in (np.array(["a", "b"]), np.ones(2) * 1j, np.array([0, 1], "datetime64[s]")):
        with pytest.raises(ValueError, match="'u' is not real numbers"):
            dataset(None, u=(("x",), values)).statistics()
    with pytest.raises(ValueError, match="'u' has no entries"):
        dataset(None, u=(("x",), np.ones(0))).statistics()
    with pytest.raises(KeyError, match="no statistics of 'v'"):
        dataset(None, u=(("x",), np.ones(2))).statistics()["v"]


# Boxes.


@pytest.mark.parametrize("most", [1, 10, 64, 10**6])
def test_boxes_cover_each_entry_once_and_keep_to_chunks(most, monkeypatch):
    monkeypatch.setattr(moments, "BOX", most)
    source = Memory({"u": (("time", "y", "x"), np.zeros((13, 9, 7)))}, {"u": (4, 3, 7)})
    parts = tuple(Dataset({"u": Stored(source, "u")}).isel(time=s).arrays["u"] for s in (slice(0, 6), slice(7, 13)))
    array = Joined(parts, 0)
    seen = np.zeros(array.shape, int)
    for box in moments.boxes_of(array, 0):
        seen[box] += 1
        assert box[0].start in (0, 6) or most > 84 or array.shape[0] > box[0].start
    assert (seen == 1).all()
    sizes = [int(np.prod([s.stop - s.start for s in b])) for b in moments.boxes_of(array, 0)]
    assert max(sizes) <= max(most, 84)


def test_memory_stays_under_the_stated_bound(monkeypatch):
    import tracemalloc

    class Made(Lazy):
        dims, shape, dtype, attributes, chunks = ("time", "x"), (4000, 2000), np.dtype(np.float32), {}, (10, 2000)

        def read_into(self, box, out):
            out[...] = 1e5

        def segments(self, axis):
            return [self.shape[axis]]

    monkeypatch.setattr(moments, "BOX", 100_000)
    tracemalloc.start()
    try:
        statistics(Dataset({"u": Made()}), threads=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * moments.BYTES_PER_NUMBER * 100_000 + 500_000


def test_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        u = np.full((4, 3), np.nan)
        u[1, 1] = 2.0
        dataset({"u": (1, 1)}, u=(("time", "x"), u)).statistics(progress=False)
