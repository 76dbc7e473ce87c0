"""Files that are damaged, incomplete or do not fit: a clear error or a reported skip, never a hang or wrong numbers."""

import os
import re
import shutil
import threading
import zipfile
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import torch_archive as torch
import zarr
import zarr.codecs
from random_boxes import numbers

import sciml
from sciml.data import DataError, DataWarning

U = numbers("f4", (40, 6, 8))
CUT = {"chunks": (5, 6, 8)}


def in_time(action, seconds=30.0):
    """The result of an action, or its error; fails if it hangs."""
    found = {}

    def run():
        try:
            found["result"] = action()
        except BaseException as error:
            found["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"no end within {seconds} s"
    if "error" in found:
        raise found["error"]
    return found["result"]


def read(path, **options):
    return in_time(lambda: sciml.open(path, **options).read())


def refuses(path, *words, action=read, **options):
    """DataError that names the file and the words."""
    with pytest.raises(DataError, match=re.escape(Path(path).name)) as raised:
        action(path, **options)
    for word in words:
        assert word in str(raised.value), f"'{word}' is not in: {raised.value}"


def through_batches(path, **options):
    return in_time(lambda: list(sciml.open(path)["u"].batches(4, shuffle=False, **options)))


def flip(path, place, count=8):
    with open(path, "r+b") as file:
        file.seek(place)
        old = file.read(count)
        file.seek(place)
        file.write(bytes(b ^ 0xA5 for b in old))


# How files with the same numbers are made, by format.


def make_hdf5(path, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("u", data=U, **options)


def make_netcdf(path, format):
    with netCDF4.Dataset(path, "w", format=format) as file:
        for name, size in {"time": None, "y": 6, "x": 8}.items():
            file.createDimension(name, size)
        # A single record of odd length, and text that takes space, too.
        file.createVariable("day", "i1", ("time",))[:] = np.arange(len(U))
        file.createVariable("u", "f4", ("time", "y", "x"))[:] = U


def make_zarr(path, version=2, **options):
    zarr.open_group(path, mode="w", zarr_format=version).create_array("u", data=U, **CUT | options)


def make_zip(path):
    make_zarr(path.with_suffix(".zarr"))
    shutil.move(shutil.make_archive(str(path.with_suffix("")), "zip", path.with_suffix(".zarr")), path)
    shutil.rmtree(path.with_suffix(".zarr"))


FORMATS = {
    "contiguous.h5": make_hdf5,
    "chunked.h5": lambda path: make_hdf5(path, compression="gzip", **CUT),
    "lzf.h5": lambda path: make_hdf5(path, compression="lzf", **CUT),
    "user_block.h5": lambda path: h5py.File(path, "w", userblock_size=512).create_dataset("u", data=U).file.close(),
    "classic.nc": lambda path: make_netcdf(path, "NETCDF3_CLASSIC"),
    "offset.nc": lambda path: make_netcdf(path, "NETCDF3_64BIT_OFFSET"),
    "data.nc": lambda path: make_netcdf(path, "NETCDF3_64BIT_DATA"),
    "four.nc": lambda path: make_netcdf(path, "NETCDF4"),
    "a.npy": lambda path: np.save(path, U),
    "stored.npz": lambda path: np.savez(path, u=U, v=U[0]),
    "compressed.npz": lambda path: np.savez_compressed(path, u=U, v=U[0]),
    "tensors.pt": lambda path: torch.save({"u": torch.tensor(U), "v": torch.tensor(U[0])}, path),
    "zarr.zip": make_zip,
}


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_files_are_refused_or_whole(tmp_path, name):
    FORMATS[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    expected = read(tmp_path / name)
    size = len(whole)
    cut = tmp_path / f"cut_{name}"
    for length in (1, 7, 60, 200, size // 20, size // 3, size // 2, size - 500, size - 9, size - 1):
        cut.write_bytes(whole[:length])
        try:
            found = read(cut)
        except DataError as error:
            assert cut.name in str(error)
            continue
        # Only what holds no numbers may be missing.
        assert length > size - 10 and found.keys() == expected.keys()
        assert all(np.array_equal(found[n], expected[n]) for n in found)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("after", ["open", "read"])
def test_files_that_change_after_open_are_refused(tmp_path, name, after):
    path, other = tmp_path / name, tmp_path / f"other_{name}"
    FORMATS[name](other)
    whole = other.read_bytes()
    changes = {
        "vanished": path.unlink,
        "overwritten": lambda: path.write_bytes(whole[:-99] + whole[:99]),
        "replaced": lambda: (other.write_bytes(whole + b"0"), other.replace(path)),
        "shortened": lambda: os.truncate(path, len(whole) // 2),
    }
    for kind, change in changes.items():
        path.write_bytes(whole)
        os.utime(path, ns=(1, 1))
        data = sciml.open(path)
        expected = data.read() if after == "read" else None
        change()
        try:
            found = in_time(data.read)
        except DataError as error:
            assert path.name in str(error) and re.search("vanished|changed", str(error)), error
        else:
            # What is still open holds the old numbers.
            assert kind in ("vanished", "replaced") and expected is not None
            assert all(np.array_equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
        {"fletcher32": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf", "fletcher32": True},
    ],
)
def test_a_corrupt_chunk_of_hdf5_is_named_or_skipped(tmp_path, options):
    path, u = tmp_path / "a.h5", np.tile(U.reshape(40, 48), (1, 400))
    with h5py.File(path, "w") as file:
        file.create_dataset("u", data=u, chunks=(5, 48 * 400), **options)
        chunk = file["u"].id.get_chunk_info_by_coord((15, 0))
    flip(path, chunk.byte_offset + chunk.size // 2)
    refuses(path, "'u'", "(15, 0)" if "lzf" not in options.values() else "")
    refuses(path, "'u'", action=through_batches)
    batches = sciml.open(path).batches(8, skip_bad=True, pad=True)
    with pytest.warns(DataWarning, match="unreadable: sample 1[5-9].*a.h5"):
        rows = in_time(lambda: np.concatenate([np.asarray(b)[np.asarray(mask)] for (b,), mask in batches]))
    kept = np.delete(np.arange(len(U)), slice(15, 20))
    assert sorted(rows[:, 0]) == sorted(u[kept, 0]) and batches.skipped


@pytest.mark.parametrize("place", range(0, 60, 5))
def test_a_flipped_byte_of_a_checked_file_is_found_wherever_it_is(tmp_path, place):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("u", data=U, compression="gzip", fletcher32=True, **CUT)
    size = path.stat().st_size
    for start in range(place * size // 60, (place + 5) * size // 60, 97):
        flip(path, start, 1)
        try:
            found = read(path)
        except DataError as error:
            assert "a.h5" in str(error)
        else:
            assert list(found) == ["u"] and np.array_equal(found["u"], U)
        flip(path, start, 1)


@pytest.mark.parametrize("name", ["classic.nc", "offset.nc", "data.nc"])
def test_damaged_headers_end_neither_the_process_nor_in_a_hang(tmp_path, name):
    FORMATS[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    refused = 0
    for place in range(4, 240, 3):
        (tmp_path / name).write_bytes(whole[:place] + b"\xa1" + whole[place + 1 :])
        try:
            read(tmp_path / name)  # of another name or type, if that is what the header says now
        except DataError as error:
            assert name in str(error)
            refused += 1
    assert refused > 40


# Zarr.


@pytest.mark.parametrize("version, options", [(2, {}), (3, {}), (3, {"shards": (20, 6, 8)})])
def test_a_missing_chunk_of_zarr_is_named_or_filled(tmp_path, version, options):
    make_zarr(tmp_path / "a.zarr", version, **options)
    key = "u/2.0.0" if version == 2 else f"u/c/{1 if options else 2}/0/0"
    (tmp_path / "a.zarr" / key).unlink()
    refuses(tmp_path / "a.zarr", "'u'", "missing", "absent='fill'")
    refuses(tmp_path / "a.zarr", "'u'", "missing", action=through_batches)
    found = read(tmp_path / "a.zarr", absent="fill")["u"]
    lost = slice(20, 40) if options else slice(10, 15)
    assert not found[lost].any() and np.array_equal(np.delete(found, lost, 0), np.delete(U, lost, 0))


@pytest.mark.parametrize("kind", ["checksum", "gzip", "blosc_cut", "plain_cut", "zstd_cut", "shard_cut", "empty"])
def test_a_corrupt_chunk_of_zarr_is_named(tmp_path, kind):
    c = zarr.codecs
    compressors = {
        "checksum": [c.ZstdCodec(), c.Crc32cCodec()],
        "gzip": [c.GzipCodec()],
        "blosc_cut": [c.BloscCodec()],
        "plain_cut": None,
    }
    options = {"compressors": compressors.get(kind, [c.ZstdCodec()])} | (
        {"shards": (40, 6, 8)} if "shard" in kind else {}
    )
    make_zarr(tmp_path / "a.zarr", 3, **options)
    chunk = tmp_path / "a.zarr/u/c/0/0/0"
    if "cut" in kind or kind == "empty":
        os.truncate(chunk, 0 if kind == "empty" else chunk.stat().st_size - 4)
    else:
        flip(chunk, chunk.stat().st_size // 2)
    refuses(tmp_path / "a.zarr", "'u'", "damaged")
    refuses(tmp_path / "a.zarr", "'u'", action=through_batches)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"zarr_format": 9, "node_type": "array"}'])
def test_damaged_metadata_of_zarr(tmp_path, version, content):
    make_zarr(tmp_path / "a.zarr", version)
    (tmp_path / "a.zarr/u" / (".zarray" if version == 2 else "zarr.json")).write_text(content)
    refuses(tmp_path / "a.zarr", "")


# Files that are something else.


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.h5", b"", "empty (0 bytes)"),
        ("empty.nc", b"", "empty (0 bytes)"),
        ("empty.npz", b"", "empty (0 bytes)"),
        ("text.h5", b"time,value\n1,2\n" * 100, "not an HDF5 or NetCDF file"),
        ("page.nc", b"<!DOCTYPE html>", "not an HDF5 or NetCDF file"),
        ("era5.grib", b"GRIB\0\0\0\2" + bytes(100), "cfgrib"),
        ("era5.nc", b"GRIB\0\0\0\2" + bytes(100), "cfgrib"),
        ("old.mat", b"MATLAB 5.0 MAT-file" + bytes(100), "not a MATLAB file, or truncated"),
        ("old.hdf", b"\x0e\x03\x13\x01" + bytes(100), "h4toh5"),
        ("old.pt", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + bytes(100), "save it again"),
        ("a.doc", b"time,value\n1,2\n", "unknown format"),
        ("a.zip", b"PK\x03\x04" + bytes(100), "truncated or damaged zip"),
    ],
)
def test_other_files_are_named_with_a_remedy(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    refuses(tmp_path / name, message)
    make_hdf5(tmp_path / "good.h5")
    with pytest.raises(DataError, match=re.escape(name)):
        read([tmp_path / "good.h5", tmp_path / name])


def test_a_folder_does_not_hide_a_broken_file(tmp_path):
    make_hdf5(tmp_path / "0.h5")
    (tmp_path / "1.h5").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="1.h5: the file is empty"):
        read(tmp_path)


def test_nothing_is_found(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    refuses(tmp_path, "folder of data files")
    for path, message in {"absent.h5": "no file or folder", "*.h5": "no file matches the pattern"}.items():
        with pytest.raises(FileNotFoundError, match=message):
            sciml.open(tmp_path / path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path):
    for name in FORMATS:
        FORMATS[name](tmp_path / name)
        (tmp_path / name).chmod(0)
        refuses(tmp_path / name, "no permission")


class Attack:
    """Makes a file when it is unpickled by `pickle.load`."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_that_asks_for_code_is_refused_and_not_run(tmp_path):
    torch.save({"u": torch.tensor(U), "x": Attack(f"touch {tmp_path}/owned")}, tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", "system", "not read", "torch.save")
    assert not (tmp_path / "owned").exists()
    endless = [torch.tensor(U)]
    endless.append(endless)
    torch.save(endless, tmp_path / "b.pt")
    refuses(tmp_path / "b.pt", "damaged")


def test_tensors_that_reach_beyond_their_storage(tmp_path):
    storage = torch.Storage(U)
    for broken in (
        torch.Tensor(storage, (U.size + 1,)),
        torch.Tensor(storage, (4,), (1,), offset=U.size - 3),
        torch.Tensor(storage, (4,), (-1,), offset=10),
        torch.Tensor(storage, (4,), (1,), offset=-1),
        torch.Tensor(storage, (-4,), (1,)),
    ):
        torch.save({"u": broken}, tmp_path / "a.pt")
        refuses(tmp_path / "a.pt", "damaged")
    torch.save({"u": torch.tensor(U)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        new.writestr("archive/data.pkl", old.read("archive/data.pkl"))
    refuses(tmp_path / "b.pt", "'u'", "missing")


# Values that are missing.


def test_missing_and_infinite_numbers_in_batches(tmp_path):
    packed = np.arange(40 * 6, dtype="i2").reshape(40, 6)
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("sample", 40)
        file.createDimension("x", 6)
        u = file.createVariable("u", "i2", ("sample", "x"), fill_value=6 * 23 + 1)
        u.set_auto_maskandscale(False)
        u.scale_factor, u[:] = 0.5, packed
    refuses_missing = pytest.raises(DataError, match="'u' has missing .* in sample 23.*nan=True")
    with refuses_missing:
        through_batches(tmp_path / "a.nc")
    rows = np.concatenate([b for (b,) in through_batches(tmp_path / "a.nc", nan=True)])
    assert np.isnan(rows[23, 1]) and np.isnan(rows).sum() == 1
    with pytest.warns(DataWarning, match="sample 23"):
        rows = np.concatenate([b for (b,) in through_batches(tmp_path / "a.nc", skip_bad=True)])
    assert np.isfinite(rows).all() and len(rows) == 40
    with h5py.File(tmp_path / "b.h5", "w") as file:
        values = U.copy()
        values[7, 2, 3] = np.inf
        file["u"] = values
    with pytest.raises(DataError, match="'u' has missing .* in sample 7"):
        through_batches(tmp_path / "b.h5")


def test_dimensions_without_entries(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["u"] = np.zeros((0, 5), np.float32)
    np.save(tmp_path / "a.npy", np.zeros((3, 0)))
    torch.save({"u": torch.tensor(np.zeros((0, 5), np.float32))}, tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", u=np.zeros((0, 5)))
    zarr.create_array(tmp_path / "a.zarr", shape=(0, 5), chunks=(1, 5), dtype="f4")
    with netCDF4.Dataset(tmp_path / "a.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("time", None)
        file.createVariable("u", "f4", ("time",))
    for path in sorted(tmp_path.iterdir()):
        refuses(path, "is empty", "has no entries")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["text"], file["scalar"] = "hello", 3.0
    refuses(tmp_path / "b.h5", "no variables of numbers", "scalar", "text")


def test_a_file_of_many_vanishes_while_batches_are_made(tmp_path):
    for i in range(8):
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            file["u"] = 100.0 * i + np.arange(8.0)[:, None] + np.zeros(40_000)
    data = sciml.open(tmp_path)
    (tmp_path / "5.h5").unlink()
    with pytest.raises(DataError, match="5.h5: the file has vanished"):
        in_time(lambda: list(data.batches(8, shuffle=False, pool=16)))
    batches = data.batches(8, pad=True, skip_bad=True)
    with pytest.warns(DataWarning, match="unreadable: sample 4.*5.h5: the file has vanished"):
        rows = in_time(lambda: np.concatenate([np.asarray(b)[np.asarray(mask)] for (b,), mask in batches]))
    assert sorted(rows[:, 0]) == [100 * i + row for i in range(8) if i != 5 for row in range(8)]
