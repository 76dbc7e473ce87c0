"""The published layouts of PDEBench and The Well, made as their generators and documents say: variables and windows."""

import h5py
import numpy as np
import pytest
from random_boxes import same_boxes

import sciml
from sciml.data import DataError

SAMPLES, TIMES, X, Y = 5, 7, 8, 6


def field(*shape, start=0.0):
    """Numbers that tell sample, frame and point: all differ."""
    return (start + np.arange(np.prod(shape)).reshape(shape)).astype(np.float32)


def line(n):
    return np.linspace(0, 1, n, dtype=np.float32)


def sees_all_frames(data, u, inputs, targets, stride=1, steps=1):
    """Windows through `.batches` are the frames of `u` (sample, time, ...), each window once."""
    span = (inputs + targets - 1) * steps + 1
    expected = {}
    for sample in range(u.shape[0]):
        for first in range(0, u.shape[1] - span + 1, stride):
            frames = u[sample, first : first + span : steps]
            expected[float(frames[0].flat[0])] = frames
    seen = []
    for (x, y), mask in data.windows(inputs, targets, stride=stride, steps=steps).batches(4, pad=True):
        x, y = np.asarray(x), np.asarray(y)
        for row in np.flatnonzero(mask):
            frames = expected[float(x[row].flat[0])]
            np.testing.assert_array_equal(x[row], frames[:inputs])
            np.testing.assert_array_equal(y[row], frames[inputs:])
            seen.append(float(x[row].flat[0]))
    assert sorted(seen) == sorted(expected)


# PDEBench.


@pytest.mark.parametrize("extra", [0, 1])
def test_pdebench_in_one_dimension(tmp_path, extra):
    u = field(SAMPLES, TIMES, X)
    with h5py.File(tmp_path / "1D_Burgers_Sols_Nu0.01.hdf5", "w") as file:
        file["tensor"], file["x-coordinate"], file["t-coordinate"] = u, line(X), line(TIMES + extra)
        file.attrs["Nu"] = 0.01
    data = sciml.open(tmp_path / "1D_Burgers_Sols_Nu0.01.hdf5")
    assert list(data.arrays) == ["tensor"] and data.attributes["Nu"] == 0.01
    assert data.dims == {"sample": SAMPLES, "time": TIMES, "x": X}
    np.testing.assert_array_equal(data.coords["x"].values, line(X))
    np.testing.assert_array_equal(data.coords["time"].values, line(TIMES + extra)[:TIMES])
    same_boxes(data.arrays["tensor"], u)
    sees_all_frames(data, u, 2, 1)
    sees_all_frames(data, u, 1, 2, stride=2, steps=2)


def test_pdebench_darcy_flow_has_no_time(tmp_path):
    nu, u = field(SAMPLES, X, Y), field(SAMPLES, 1, X, Y, start=1e4)
    with h5py.File(tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5", "w") as file:
        file["tensor"], file["nu"], file["x-coordinate"], file["y-coordinate"] = u, nu, line(X), line(Y)
        file.attrs["beta"] = 1.0
    data = sciml.open(tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5")["nu", "tensor"]
    assert data.dims == {"sample": SAMPLES, "x": X, "y": Y} and set(data.coords) == {"x", "y"}
    same_boxes(data.arrays["tensor"], u[:, 0])
    ((a, b),) = list(data.batches(SAMPLES, shuffle=False))
    np.testing.assert_array_equal(a, nu)
    np.testing.assert_array_equal(b, u[:, 0])


def test_pdebench_compressible_flow_in_one_and_three_dimensions(tmp_path):
    names = ("density", "pressure", "Vx")
    with h5py.File(tmp_path / "1D_CFD_Rand_Eta0.01_Zeta0.01_periodic_Train.hdf5", "w") as file:
        for i, name in enumerate(names):
            file.create_dataset(name, data=field(SAMPLES, TIMES, X, start=1000.0 * i), chunks=(2, 3, 4))
        file["x-coordinate"], file["t-coordinate"] = line(X), line(TIMES + 1)
        file.attrs.update({"eta": 0.01, "zeta": 0.01})
    data = sciml.open(tmp_path)
    assert set(data.arrays) == set(names) and all(a.dims == ("sample", "time", "x") for a in data.arrays.values())
    stacked = np.stack([field(SAMPLES, TIMES, X, start=1000.0 * i) for i in range(3)], axis=2)
    sees_all_frames(data[names], stacked, 2, 2)
    with h5py.File(tmp_path / "3D.hdf5", "w") as file:
        for name in (*names, "Vy", "Vz"):
            file[name] = field(2, 3, 4, 5, 6)
        file["x-coordinate"], file["y-coordinate"], file["z-coordinate"] = line(4), line(5), line(6)
        file["t-coordinate"] = line(4)
    data = sciml.open(tmp_path / "3D.hdf5")
    assert data.dims == {"sample": 2, "time": 3, "x": 4, "y": 5, "z": 6} and set(data.coords) == {"time", *"xyz"}


def test_pdebench_has_a_group_for_each_sample(tmp_path):
    u = field(12, TIMES, X, Y, 2)
    with h5py.File(tmp_path / "2D_diff-react_NA_NA.h5", "w") as file:
        for i in range(12):
            file.create_dataset(f"{i:04d}/data", data=u[i], compression="lzf")
            for name, size in {"x": X, "y": Y, "t": TIMES}.items():
                file.create_dataset(f"{i:04d}/grid/{name}", data=line(size), compression="lzf")
            file[f"{i:04d}"].attrs["config"] = "yaml"
    data = sciml.open(tmp_path / "2D_diff-react_NA_NA.h5")
    assert data.dims == {"sample": 12, "time": TIMES, "x": X, "y": Y, "component": 2}
    np.testing.assert_array_equal(data.coords["time"].values, line(TIMES))
    np.testing.assert_array_equal(data.coords["y"].values, line(Y))
    same_boxes(data.arrays["data"], u)
    sees_all_frames(data, u, 3, 1)
    test, train = data.split(4, seed=1)
    rows = np.concatenate([part.read()["data"][:, 0, 0, 0, 0] for part in (test, train)])
    assert sorted(rows) == u[:, 0, 0, 0, 0].tolist()


@pytest.mark.parametrize("same_times", [True, False])
def test_pdebench_incompressible_flow(tmp_path, same_times):
    velocity, particles = field(2, TIMES, X, Y, 2), field(2, TIMES, X, Y, 1, start=1e4)
    force, times = field(2, X, Y, 2, start=2e4), np.tile(line(TIMES), (2, 1))
    times[1] += 0 if same_times else 1
    with h5py.File(tmp_path / "ns_incom_inhom_2d_512-0.h5", "w") as file:
        for name, a in {"velocity": velocity, "particles": particles, "force": force, "t": times}.items():
            file.create_dataset(name, data=a, compression="lzf", chunks=(1, 1, *a.shape[2:]), shuffle=True)
        file.attrs["latestIndex"] = TIMES - 1
    data = sciml.open(tmp_path / "ns_incom_inhom_2d_512-0.h5")
    assert data.arrays["velocity"].dims == ("sample", "time", "x", "y", "component")
    assert data.arrays["particles"].dims == ("sample", "time", "x", "y")
    assert data.arrays["force"].dims == ("sample", "x", "y", "component")
    found = data.coords["time"]
    np.testing.assert_array_equal(found.values, line(TIMES) if same_times else times)
    assert found.dims == (("time",) if same_times else ("sample", "time"))
    same_boxes(data.arrays["particles"], particles[..., 0])
    sees_all_frames(data["velocity"], velocity, 2, 1)
    for x, f, y in data["velocity", "force"].windows(1, 1).batches(4):
        sample = np.searchsorted(velocity[:, 0, 0, 0, 0], x[:, 0, 0, 0, 0], side="right") - 1
        np.testing.assert_array_equal(f, force[sample])
        np.testing.assert_array_equal(y, x + X * Y * 2)


def test_pdebench_files_that_break_its_rules_are_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tensor"], file["x-coordinate"] = field(2, 3, 4, 5, 6), line(4)
    with pytest.raises(DataError, match=r"a.h5: 'tensor' of shape \(2, 3, 4, 5, 6\) is not PDEBench's"):
        sciml.open(tmp_path / "a.h5")
    assert sciml.open(tmp_path / "a.h5", layout="plain").arrays["tensor"].shape == (2, 3, 4, 5, 6)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["0000/data"], file["0001/data"] = field(3, 4, 1), field(2, 4, 1)
        file["0000/grid/x"], file["0000/grid/t"] = line(4), line(3)
    with pytest.raises(DataError, match=r"b.h5: '0001/data' has the shape \(2, 4, 1\), '0000/data' has \(3, 4, 1\)"):
        sciml.open(tmp_path / "b.h5")


# The Well.


def well(path, number=0) -> dict[str, np.ndarray]:
    """A file as its document of the format describes it, with one field of each kind."""
    b, t, w, h = 3, TIMES, X, Y
    arrays = {
        "t0_fields/density": field(b, t, w, h, start=1e5 * number),
        "t0_fields/forcing": field(b, w, h),
        "t0_fields/profile": field(b, t, w),
        "t0_fields/mask": field(w, h),
        "t1_fields/velocity": field(b, t, w, h, 2),
        "t2_fields/stress": field(b, t, w, h, 2, 2),
    }
    varying = {"forcing": (True, False), "mask": (False, False)}
    with h5py.File(path, "w") as file:
        file.attrs.update({"dataset_name": "example", "grid_type": "cartesian", "n_spatial_dims": 2})
        file.attrs.update({"n_trajectories": b, "simulation_parameters": ["nu"], "nu": 0.1})
        file.create_group("dimensions").attrs["spatial_dims"] = ["x", "y"]
        for name, size in {"time": t, "x": w, "y": h}.items():
            axis = file["dimensions"].create_dataset(name, data=line(size))
            axis.attrs.update({"sample_varying": False} | ({} if name == "time" else {"time_varying": False}))
        for name, (dim, kind, size) in {"x_wall": ("x", "WALL", w), "y_periodic": ("y", "PERIODIC", h)}.items():
            boundary = file.create_group(f"boundary_conditions/{name}")
            boundary.attrs.update({"associated_dims": [dim], "associated_fields": [], "bc_type": kind})
            boundary.attrs.update({"sample_varying": False, "time_varying": False})
            boundary["mask"] = np.isin(np.arange(size), (0, size - 1))
            boundary["values"] = np.zeros(2, np.float32)
        file.create_group("scalars").attrs["field_names"] = ["nu", "power", "energy"]
        scalars = {"nu": (np.float32([0.1]), False, False), "power": (line(b), True, False)}
        for name, (values, sample, time) in (scalars | {"energy": (line(t), False, True)}).items():
            file[f"scalars/{name}"] = values
            file[f"scalars/{name}"].attrs.update({"sample_varying": sample, "time_varying": time})
        for rank in range(3):
            group = file.create_group(f"t{rank}_fields")
            own = [n for n in arrays if n.startswith(group.name[1:])]
            group.attrs["field_names"] = [n.partition("/")[2] for n in own]
            for name in own:
                short = name.partition("/")[2]
                sample, time = varying.get(short, (True, True))
                file[name] = arrays[name]
                file[name].attrs.update({"sample_varying": sample, "time_varying": time})
                file[name].attrs["dim_varying"] = [True, short != "profile"]
    return {n.partition("/")[2]: a for n, a in arrays.items()} | {"power": line(b), "energy": line(t)}


def test_the_well_has_fields_of_all_ranks(tmp_path):
    arrays = well(tmp_path / "a.hdf5")
    data = sciml.open(tmp_path / "a.hdf5")
    grid, moving = ("x", "y"), ("sample", "time", "x", "y")
    dims = {"density": moving, "velocity": (*moving, "component"), "stress": (*moving, "component", "component_2")}
    dims |= {"forcing": ("sample", *grid), "profile": ("sample", "time", "x"), "mask": grid}
    dims |= {"power": ("sample",), "energy": ("time",)}
    assert {n: a.dims for n, a in data.arrays.items()} == dims
    for name, a in arrays.items():
        same_boxes(data.arrays[name], a, 5)
    assert data.sample_dim == "sample" and data.time_dim == "time"
    assert data.attributes["nu"] == 0.1 and data.attributes["grid_type"] == "cartesian"
    np.testing.assert_allclose(data.coords["nu"].values, 0.1, rtol=1e-7)


def test_the_well_has_coordinates_and_boundaries(tmp_path):
    well(tmp_path / "a.hdf5")
    data = sciml.open(tmp_path / "a.hdf5")
    for name, size in {"time": TIMES, "x": X, "y": Y}.items():
        np.testing.assert_array_equal(data.coords[name].values, line(size))
    assert data.attributes["boundary_conditions"] == {"x": "WALL", "y": "PERIODIC"}
    assert data.coords["x"].attributes["boundary"] == "wall" and data.coords["y"].attributes["boundary"] == "periodic"
    mask = data.coords["boundary/x_wall/mask"]
    assert mask.dims == ("x",) and mask.values.tolist() == [True, *[False] * (X - 2), True]
    assert data["density"].to_xarray()["density"].dims == ("sample", "time", "x", "y")


def test_the_well_is_read_in_windows_over_several_files(tmp_path):
    density = [well(tmp_path / f"trajectories_{i}.hdf5", number=i)["density"] for i in range(3)]
    data = sciml.open(tmp_path / "trajectories_*.hdf5")["density", "forcing", "mask"]
    assert data.dims["sample"] == 9
    sees_all_frames(data["density"], np.concatenate(density), 4, 1)
    for x, forcing, mask, y in data.windows(2, 1).batches(5):
        assert x.shape == (5, 2, X, Y) and y.shape == (5, 1, X, Y) and mask.shape == (5, X, Y)
        np.testing.assert_array_equal(y[:, 0], x[:, 1] + X * Y)
        sample = np.floor((np.asarray(x)[:, 0, 0, 0] % 1e5) / (TIMES * X * Y)).astype(int)
        np.testing.assert_array_equal(forcing, field(3, X, Y)[sample])


def test_the_well_refuses_fields_that_lack_a_dimension(tmp_path):
    well(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["t0_fields/mask"].attrs["time_varying"] = True
    with pytest.raises(DataError, match=r"a.hdf5: 't0_fields/mask' of shape \(8, 6\).*: time, x, y"):
        sciml.open(tmp_path / "a.hdf5")


# Writing.


@pytest.mark.parametrize("layout", ["pdebench", "the_well"])
def test_what_is_written_in_a_layout_is_read_in_it(tmp_path, layout):
    u = field(SAMPLES, TIMES, X, Y)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tensor"], file["t-coordinate"] = u, line(TIMES)
        file["x-coordinate"], file["y-coordinate"] = line(X), line(Y)
    data = sciml.open(tmp_path / "a.h5")
    sciml.data.write(data, tmp_path / "b.h5", layout=layout)
    again = sciml.open(tmp_path / "b.h5", layout=layout)
    same_boxes(again.arrays["tensor"], u)
    assert again.arrays["tensor"].dims == data.arrays["tensor"].dims
    for name in ("time", "x", "y"):
        np.testing.assert_allclose(again.coords[name].values, data.coords[name].values, rtol=1e-6)
