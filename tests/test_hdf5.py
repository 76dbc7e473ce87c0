"""HDF5: what is read equals h5py's own slices, whatever the type, the filters, the chunks and the links."""

import zlib

import h5py
import numpy as np
import pytest
from random_boxes import boxes, numbers, same_boxes

import sciml
from sciml.data import Chunk, DataError
from sciml.data._filters import fletcher32

SHAPE = (7, 10, 11)
CUT = {"chunks": (3, 4, 5)}
TYPES = ("<f4", ">f8", "<f2", "?", "i1", "u2", ">i4", "<u8", "c8", ">c16")
STORAGE = {
    "contiguous": {},
    "chunked": CUT,
    "growing": CUT | {"maxshape": (None, None, None)},
    "gzip": CUT | {"compression": "gzip"},
    "shuffle": CUT | {"shuffle": True},
    "fletcher32": CUT | {"fletcher32": True},
    "gzip_shuffle_fletcher32": CUT | {"compression": 4, "shuffle": True, "fletcher32": True},
    "lzf": CUT | {"compression": "lzf", "shuffle": True},
    "one_chunk": {"chunks": SHAPE, "compression": "gzip", "shuffle": True},
}


@pytest.mark.parametrize("storage", STORAGE)
def test_hdf5_boxes_of_all_types_are_those_of_h5py(tmp_path, storage):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i, dtype in enumerate(TYPES):
            file.create_dataset(f"v{i}", data=numbers(dtype), **STORAGE[storage])
    data = sciml.open(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(data.arrays) == set(file)
        for name in file:
            same_boxes(data.arrays[name], file[name][...])


@pytest.mark.parametrize(
    "dtype, options",
    [
        ("i4", {"scaleoffset": 0}),
        ("f4", {"scaleoffset": 3}),
        ("f8", {"compression": "szip"}),
        ("u1", {"chunks": (3, 3, 3), "fletcher32": True}),
        ("f4", {"chunks": (1, 1, 11), "compression": "gzip"}),
        ("i2", {"chunks": (20, 20, 20), "maxshape": (None, None, None), "compression": "gzip", "shuffle": True}),
    ],
)
def test_hdf5_other_filters_and_chunks_of_odd_size_or_beyond_the_array(tmp_path, dtype, options):
    if options.get("compression") == "szip" and not h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP):
        pytest.skip("h5py without szip")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("u", data=numbers(dtype) % 100 if dtype != "f8" else numbers(dtype), **CUT | options)
    with h5py.File(tmp_path / "a.h5") as file:
        expected = file["u"][...]
    same_boxes(sciml.open(tmp_path / "a.h5").arrays["u"], expected)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 1001, 100_000])
@pytest.mark.parametrize("byte", [None, 0, 255])
def test_the_checksum_is_that_of_the_library(tmp_path, length, byte):
    data = np.random.default_rng(length).bytes(length) if byte is None else bytes([byte]) * length
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("u", data=np.frombuffer(data, "u1"), chunks=(length,), fletcher32=True)
        stored = file["u"].id.read_direct_chunk((0,))[1]
    assert fletcher32(data) == int.from_bytes(stored[-4:], "little")


@pytest.mark.parametrize("dtype", ["f4", ">i4", "?", "c8"])
def test_hdf5_chunks_that_were_never_written_hold_the_fill_value(tmp_path, dtype):
    fill = np.dtype(dtype).type(1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        cut = file.create_dataset("cut", SHAPE, dtype, fillvalue=fill, maxshape=(None, None, None), **CUT)
        cut[1:4, 2:5] = numbers(dtype)[1:4, 2:5]
        cut.resize((5, 10, 11))
        cut.resize((12, 10, 6))
        file.create_dataset("whole", SHAPE, dtype, fillvalue=fill)
        file.create_dataset("gzip", SHAPE, dtype, fillvalue=fill, compression="gzip", **CUT)
    data = sciml.open(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        for name in file:
            same_boxes(data.arrays[name], file[name][...])


@pytest.mark.parametrize("masked", [False, True])
def test_hdf5_chunks_that_are_stored_without_their_filter(tmp_path, masked):
    u = numbers("f4", (6, 8))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        node = file.create_dataset("u", u.shape, "f4", chunks=(2, 8), compression="gzip").id
        for start in range(0, 6, 2):
            plain = masked and start == 2
            data = u[start : start + 2].tobytes()
            node.write_direct_chunk((start, 0), data if plain else zlib.compress(data), filter_mask=int(plain))
    same_boxes(sciml.open(tmp_path / "a.h5").arrays["u"], u)


def test_hdf5_reads_long_rows_one_by_one(tmp_path):
    u = numbers(">f8", (5, 7, 3000))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["big"], file["native"] = u, u.astype("<f8")
    data = sciml.open(tmp_path / "a.h5")
    for name in data.arrays:
        same_boxes(data.arrays[name], u)


def test_hdf5_reads_into_other_types_and_parts_of_arrays(tmp_path):
    u = numbers("f8")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, options in STORAGE.items():
            file.create_dataset(name, data=u, **options)
    (source,) = sciml.open(tmp_path / "a.h5").sources
    for name in STORAGE:
        for box in boxes(SHAPE, 5):
            wanted = u[box].astype(np.float32)
            outer = np.zeros((*wanted.shape, 2), np.float32)
            source.read_into(Chunk(name, box), outer[..., 1])
            np.testing.assert_array_equal(outer[..., 1], wanted)
            assert not outer[..., 0].any()


def test_hdf5_groups_scalars_attributes_and_a_user_block(tmp_path):
    u = numbers("f4")
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=1024) as file:
        file["g/deep/u"], file["g/v"], file["w"] = u, u[0], u
        file["s"], file["text"], file["strings"] = 2.5, "hello", ["a", "b"]
        file["nothing"] = h5py.Empty("f4")
        file["g/v"].attrs.update({"units": "K", "levels": [1, 2], "empty": h5py.Empty("S1"), "to": file["w"].ref})
        file.create_dataset("packed", data=u, compression="gzip", **CUT)
        file.attrs["title"] = "Known"
    data = sciml.open(tmp_path / "a.h5")
    assert set(data.arrays) == {"g/deep/u", "g/v", "w", "packed"} and data.coords["s"].values == 2.5
    assert set(data.attributes["skipped"]) == {"text", "strings", "nothing"} and data.attributes["title"] == "Known"
    attributes = data.arrays["g/v"].attributes
    assert attributes["units"] == "K" and attributes["levels"] == [1, 2] and not attributes["empty"]
    assert "to" not in attributes
    for name, expected in {"g/deep/u": u, "g/v": u[0], "w": u, "packed": u}.items():
        same_boxes(data.arrays[name], expected, 3)
    assert set(sciml.open(tmp_path / "a.h5", group="g").arrays) == {"deep/u", "v"}
    with pytest.raises(DataError, match="a.h5: no group 'h'; there are g, "):
        sciml.open(tmp_path / "a.h5", group="h")


def test_hdf5_links_virtual_and_external_arrays_lead_to_their_numbers(tmp_path):
    u, other, path = numbers("f4"), numbers("f4", seed=1), tmp_path / "a.h5"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["pad"], file["g/z"] = np.zeros(1000), other
        file.create_dataset("cut", data=other, compression="gzip", **CUT)
    with h5py.File(path, "w") as file:
        file["g/u"] = u
        file["soft"], file["hard"] = h5py.SoftLink("/g/u"), file["g/u"]
        file["other"], file["other_cut"] = (h5py.ExternalLink("other.h5", n) for n in ("/g", "/cut"))
        file["dangling"], file["lost"] = h5py.SoftLink("/none"), h5py.ExternalLink("absent.h5", "/z")
        file["loop"], file["g/up"] = h5py.SoftLink("/"), file["g"]
        layout = h5py.VirtualLayout((2, *SHAPE), "f4")
        layout[0], layout[1] = h5py.VirtualSource("other.h5", "cut", SHAPE), h5py.VirtualSource(".", "g/u", SHAPE)
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", data=u, external=[(str(tmp_path / "raw.bin"), 0, u.nbytes)])
    data = sciml.open(path)
    assert set(data.attributes["skipped"]) == {"dangling", "lost"}
    assert set(data.arrays) == {"g/u", "soft", "hard", "other/z", "other_cut", "virtual", "external"}
    for name in ("g/u", "soft", "hard", "external"):
        same_boxes(data.arrays[name], u, 3)
    for name in ("other/z", "other_cut"):
        same_boxes(data.arrays[name], other, 3)
    same_boxes(data.arrays["virtual"], np.stack([other, u]), 3)
    (tmp_path / "other.h5").unlink()
    with pytest.raises(DataError, match="'virtual'.*other.h5"):
        sciml.open(path)["virtual"].read()


def test_hdf5_numbers_of_unusual_width_are_converted(tmp_path):
    def write(file, name, stored, values):
        space = h5py.h5s.create_simple(values.shape)
        node = h5py.h5d.create(file.id, name, stored, space, h5py.h5p.create(h5py.h5p.DATASET_CREATE))
        node.write(h5py.h5s.ALL, h5py.h5s.ALL, values)

    twelve_bits = h5py.h5t.STD_I16LE.copy()
    twelve_bits.set_precision(12)
    twelve_bits.set_offset(2)
    bfloat16 = h5py.h5t.IEEE_F32LE.copy()
    bfloat16.set_fields(15, 7, 8, 0, 7)
    bfloat16.set_precision(16)
    bfloat16.set_size(2)
    quadruple = h5py.h5t.IEEE_F64LE.copy()
    quadruple.set_size(32)
    quadruple.set_precision(256)
    quadruple.set_fields(255, 236, 19, 0, 236)
    whole, halves = np.arange(-6, 6, dtype="i2").reshape(3, 4), np.arange(-6, 6, dtype="f4").reshape(3, 4) / 4
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file, b"whole", twelve_bits, whole)
        write(file, b"halves", bfloat16, halves)
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(file.id, b"wider", quadruple, space)
        h5py.h5d.create(file.id, b"bits", h5py.h5t.STD_B8LE, space)
    data = sciml.open(tmp_path / "a.h5")
    found = data.read()
    assert "wider" in data.attributes["skipped"]
    np.testing.assert_array_equal(found["whole"], whole)
    np.testing.assert_array_equal(found["halves"], halves)


def test_hdf5_dimensions_are_named_by_scales_labels_and_sizes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["u"], file["x"] = np.zeros((3, 4)), np.linspace(0, 1, 4)
        file["x"].make_scale("x")
        file["u"].dims[1].attach_scale(file["x"])
        file["u"].dims[0].label = "run"
        file["v"], file["w"] = np.zeros((3, 5)), np.zeros(3)
    data = sciml.open(tmp_path / "a.h5")
    assert data.arrays["u"].dims == ("run", "x") and data.arrays["v"].dims == ("sample", "dim_1")
    assert data.arrays["w"].dims == ("sample",)
    np.testing.assert_array_equal(data.coords["x"].values, np.linspace(0, 1, 4))
