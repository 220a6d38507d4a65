import errno
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arlib import data, files, models, places, records, studies
from arlib.errors import InputError, RecordError

ROOT = Path(__file__).resolve().parents[1]
RUN = "digits-resnet8-ar0-s0-00000000"


def a_table(layers=("blocks.0.conv1", "blocks.0.conv2")):
    rows = [
        ("last", "test", "error", "", "", 360, 0.0333333),
        ("best", "test", "error", "", "", 360, 0.025),
    ]
    rows += [
        ("last", "", "sv_std", layer, "circular", 64 + i, 0.5 + i) for i, layer in enumerate(layers)
    ]
    rows += [
        ("last", "", "condition", layer, "circular", 64, value)
        for layer, value in zip(layers, (np.inf, np.nan), strict=False)
    ]
    return pd.DataFrame(rows, columns=list(records.COLUMNS))


def some_arrays():
    generator = np.random.default_rng(0)
    return {
        "margin|test": generator.normal(size=360).astype(np.float16),
        "quantiles|circular|blocks.0.conv1": np.linspace(0.25, 2, 201, dtype=np.float32),
        "quantiles|circular|blocks.0.conv2": np.linspace(0.5, 3, 201, dtype=np.float32),
    }


def a_run(folder, rows=None, arrays=None, weights=None, **changes):
    """A finished run in `folder`, as the runner writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "run": RUN,
        "recipe": {"dataset": "digits"},
        "variant": "",
        "settings": {},
        "provenance": {"device": "cpu", "precision": "float32"},
        "history": pd.DataFrame(
            {"epoch": [1, 2], "val_error": [0.5, 0.25], "seconds": [1.0, np.nan]}
        ),
    }
    arrays = some_arrays() if arrays is None else arrays
    files.write_tensors(
        folder / "last.safetensors", weights or models.resnet(8, width=4).state_dict()
    )
    records.write(
        folder, rows=a_table() if rows is None else rows, arrays=arrays, **about | changes
    )
    return folder


def test_what_is_written_is_read(tmp_path):
    record = records.read(a_run(tmp_path / RUN))
    keys = ["checkpoint", "statistic", "layer"]
    expected = a_table().sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(record.rows.sort_values(keys, ignore_index=True), expected)
    assert (record.run, record.recipe, record.provenance["precision"]) == (
        RUN,
        {"dataset": "digits"},
        "float32",
    )
    assert list(record.history["val_error"]) == [0.5, 0.25] and np.isnan(
        record.history["seconds"][1]
    )
    arrays = record.arrays()
    assert arrays.keys() == some_arrays().keys()
    np.testing.assert_array_equal(arrays["margin|test"], some_arrays()["margin|test"])
    for name in ("quantiles|circular|blocks.0.conv1", "quantiles|circular|blocks.0.conv2"):
        assert arrays[name].dtype == np.float32
        np.testing.assert_allclose(arrays[name], some_arrays()[name], rtol=5e-4)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["last", "best"]),
            st.sampled_from(["", "test"]),
            st.sampled_from(["error", "sv_std"]),
            st.sampled_from(["", "a", "b", "c"]),
            st.sampled_from(["", "pgd@4"]),
            st.integers(0, 10_000),
            st.floats(width=32),
        ),
        unique_by=lambda row: row[:5],
        min_size=1,
    )
)
def test_any_table_survives_packing(rows):
    table = pd.DataFrame(rows, columns=list(records.COLUMNS))
    packed = json.loads(json.dumps(records._pack_rows(table), allow_nan=False))
    unpacked = pd.DataFrame(records._unpack_rows(*packed)).astype({"n": "int64"})
    keys = list(records.COLUMNS[:5])
    unpacked, table = (t.sort_values(keys, ignore_index=True) for t in (unpacked, table))
    pd.testing.assert_frame_equal(
        unpacked[[*keys, "n"]], table[[*keys, "n"]].astype({"n": "int64"})
    )
    np.testing.assert_allclose(unpacked["value"], table["value"], rtol=1e-6)


def test_a_value_measured_twice_is_refused_when_it_is_written(tmp_path):
    with pytest.raises(ValueError, match="measured twice"):
        a_run(tmp_path / RUN, rows=pd.concat([a_table(), a_table().head(1)]))


def test_damage_is_named_and_nothing_is_read(tmp_path):
    whole = a_run(tmp_path / RUN)
    for file, damage, message in [
        (
            "record.json",
            lambda b: b.replace(b"0.0333333", b"0.0333334"),
            "does not match its checksum",
        ),
        ("record.json", lambda b: b[: len(b) // 2], "damaged"),
        (
            "record.json",
            lambda b: b.replace(b'"format": 1', b'"format": 2'),
            "format 2; this arlib reads format 1",
        ),
        ("record.json", lambda b: b"[]", "is not a record"),
        ("arrays.npz", lambda b: b[:-20], "SHA-256"),
        ("arrays.npz", lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], "SHA-256"),
        ("last.safetensors", lambda b: b[:-9] + bytes([b[-9] ^ 4]) + b[-8:], "SHA-256"),
        ("last.safetensors", lambda b: b[:-512] + bytes(512), "SHA-256"),
    ]:
        copy = tmp_path / "copy"
        shutil.copytree(whole, copy)
        old = (copy / file).read_bytes()
        assert damage(old) != old
        (copy / file).write_bytes(damage(old))
        with pytest.raises(RecordError, match=message) as caught:
            records.read(copy)
        assert str(copy / file) in str(caught.value)
        shutil.rmtree(copy)
    (whole / "arrays.npz").unlink()
    with pytest.raises(RecordError, match="missing"):
        records.read(whole)


def test_a_run_without_its_weights_is_not_finished(tmp_path):
    whole = a_run(tmp_path / RUN)
    (whole / "last.safetensors").unlink()
    with pytest.raises(RecordError, match=r"last\.safetensors is missing"):
        records.read(whole)
    (whole / "record.json").unlink()
    with pytest.raises(RecordError, match="not finished without its weights"):
        records.write(
            whole, run=RUN, recipe={}, variant="", provenance={}, settings={},
            history=pd.DataFrame({"epoch": [1]}), rows=a_table(), arrays=some_arrays(),
        )  # fmt: skip
    assert not records.is_finished(whole)


def large_run(folder):
    """The numbers of a ResNet-56 on CIFAR-10:
    55 convolutions, three operators, 27 blocks, 60 epochs.
    """
    generator = np.random.default_rng(0)

    def draw(*size):
        return generator.normal(size=size)

    rows = [
        (
            "last",
            "",
            f"statistic{s}",
            f"blocks.{layer // 2}.conv{layer % 2 + 1}",
            operator,
            16384,
            float(draw()),
        )
        for s in range(9)
        for layer in range(55)
        for operator in ("circular", "circular+bn", "reshaped")
    ]
    rows += [
        (c, "test", "feature_change", f"blocks.{b}", "random@4", 256, float(draw()))
        for c in ("last", "best")
        for b in range(27)
    ]
    arrays = {
        "margin|train": draw(45_000).astype(np.float16),
        "margin|test": draw(10_000).astype(np.float16),
    }
    arrays |= {
        "max_softmax|test": draw(10_000).astype(np.float16),
        "correct|test": draw(10_000) > 0,
    }
    for operator in ("circular", "circular+bn", "reshaped"):
        for layer in range(55):
            arrays[f"quantiles|{operator}|blocks.{layer // 2}.conv{layer % 2 + 1}"] = np.sort(
                np.abs(draw(201))
            ).astype(np.float32)
    history = pd.DataFrame(draw(60, 12), columns=[f"column{c}" for c in range(12)])
    return a_run(
        folder, pd.DataFrame(rows, columns=list(records.COLUMNS)), arrays, history=history
    ), arrays


def test_a_large_record_is_thinned_to_its_limit_and_says_so(tmp_path):
    folder, arrays = large_run(tmp_path / RUN)
    assert records.size(folder) <= records.LIMIT
    record = records.read(folder)
    assert len(record.rows) == 55 * 9 * 3 + 54
    kept = record.arrays()
    assert any(text.startswith("margin|train: 10000 of 20000") for text in record.left_out)
    assert len(kept["margin|train"]) == 10_000
    assert set(kept["margin|train"]) <= set(arrays["margin|train"])
    np.testing.assert_array_equal(kept["margin|test"], arrays["margin|test"])
    assert sum(key.startswith("quantiles|circular|") for key in kept) == 55


def test_a_small_record_keeps_everything(tmp_path):
    assert records.read(a_run(tmp_path / RUN)).left_out == []


def test_publishing_keeps_half_precision_convolutions_and_everything_else_exactly(tmp_path):
    model = models.resnet(8, width=4)
    folder = a_run(tmp_path / "store" / RUN, weights=model.state_dict())
    target = tmp_path / "records" / RUN
    assert records.publish(folder, target, weights=True)
    assert sorted(p.name for p in target.iterdir()) == [
        "arrays.npz",
        "record.json",
        "weights.safetensors",
    ]
    stored = files.read_tensors(target / "weights.safetensors")
    for name, value in model.state_dict().items():
        half = value.ndim == 4
        assert stored[name].dtype == (torch.float16 if half else value.dtype)
        torch.testing.assert_close(
            stored[name].to(value.dtype), value, rtol=1e-3 if half else 0, atol=1e-6 if half else 0
        )
    finished, published = records.read(folder), records.read(target)
    pd.testing.assert_frame_equal(published.rows, finished.rows)
    assert all(
        not t.is_floating_point() or t.dtype == torch.float32 for t in published.weights().values()
    )
    torch.testing.assert_close(
        finished.weights()["stem.weight"], model.state_dict()["stem.weight"], rtol=0, atol=0
    )


def test_publishing_again_changes_nothing_and_a_new_measurement_replaces_the_old(tmp_path):
    folder, target = a_run(tmp_path / "store" / RUN), tmp_path / "records" / RUN
    assert records.publish(folder, target, weights=True)
    before = (target / "record.json").read_bytes()
    assert not records.publish(folder, target, weights=True)
    assert (target / "record.json").read_bytes() == before
    a_run(folder, rows=a_table().assign(value=0.75))
    assert records.publish(folder, target, weights=False)
    assert set(records.read(target).rows["value"]) == {0.75}
    assert [p.name for p in (tmp_path / "records").iterdir()] == [RUN]


def test_a_record_without_weights_says_so(tmp_path):
    target = tmp_path / "records" / RUN
    records.publish(a_run(tmp_path / "store" / RUN), target, weights=False)
    with pytest.raises(InputError, match="holds no weights"):
        records.read(target).weights()


def test_a_damaged_run_is_not_published(tmp_path):
    folder, target = a_run(tmp_path / "store" / RUN), tmp_path / "records" / RUN
    (folder / "arrays.npz").write_bytes(b"")
    with pytest.raises(RecordError, match=r"arrays\.npz"):
        records.publish(folder, target, weights=True)
    assert not target.exists()


def test_places_are_looked_up_in_order_and_never_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("ARLIB_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    root = places.checkout()
    assert root is not None
    default = places.places()
    assert default.store == root / "runs"
    assert default.records == (root / "records", places.PACKAGE / "_shipped" / "records")
    assert default.studies[:2] == (root / "runs", root / "studies")
    monkeypatch.setenv("ARLIB_STORE", str(tmp_path / "drive"))
    assert places.places().store == tmp_path / "drive"
    assert places.places(tmp_path / "mine").store == tmp_path / "mine"
    assert places.places("").store == tmp_path / "drive"
    monkeypatch.setenv("ARLIB_STORE", "runs2")
    with pytest.raises(InputError, match=r"ARLIB_STORE is 'runs2'.*absolute"):
        places.places()
    with pytest.raises(InputError, match="store is 'here'"):
        places.places("here")


def test_an_installed_package_uses_its_shipped_copy_and_the_home(tmp_path, monkeypatch):
    monkeypatch.delenv("ARLIB_STORE", raising=False)
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "site-packages" / "arlib")
    where = places.places()
    assert places.checkout() is None
    assert where.records == (tmp_path / "site-packages" / "arlib" / "_shipped" / "records",)
    assert where.store.is_absolute() and where.store.parts[-2:] == ("arlib", "runs")


# --- what anybody may have written


def signed(folder, **changes):
    """A record with other content, whose checksum fits all the same."""
    content = json.loads((folder / "record.json").read_text()) | changes
    content["checksum"] = records._checksum(content)
    (folder / "record.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../../etc/passwd": "0" * 64}},
        {"files": {"/dev/zero": "0" * 64}},
        {"files": {}},
        {"files": None},
        {"history": []},
        {"history": {"epoch": [1, 2], "seconds": [1]}},
        {"history": {"epoch": [{}]}},
        {"rows": [["last", "", "sv_std", "circular", 99, 1, [0.5]]]},
        {"rows": [["last", "", "sv_std", "circular", 0, 1, [0.5] * 100]]},
        {"rows": [["last", "", "sv_std", "circular", 0, 10**30, [0.5]]], "layers": [["a"]]},
        {"rows": [["last"]]},
        {"rows": 3},
        {"recipe": []},
        {"settings": 4},
        {"quantile_layers": [1]},
    ],
    ids=str,
)
def test_a_record_that_is_signed_and_none_all_the_same_is_one_message(tmp_path, changes):
    folder = a_run(tmp_path / RUN)
    signed(folder, **changes)
    try:
        record = records.read(folder)
    except RecordError as error:
        message = str(error)
        assert str(folder / "record.json") in message and "is not a record" in message
        assert "\n" not in message and len(message) < 600
    else:  # the one of them that is a table like others
        assert changes == {"history": {"epoch": [{}]}} and len(record.history) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "recursion"),
        ('{"a": ' + "9" * 5000 + "}", "4300 digits"),
        ('{"a": NaN}', "NaN is no JSON"),
        ('{"a": -Infinity}', "-Infinity is no JSON"),
        ("\xff", "utf-8"),
        ("", "Expecting value"),
    ],
    ids=lambda text: text[:10],
)
def test_json_that_is_none_is_one_message(tmp_path, text, why):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RecordError, match=why) as refused:
        files.read_json(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(refused.value) and len(str(refused.value)) < 600


def test_files_are_measured_before_they_are_read(tmp_path):
    """A sparse file of a terabyte would fill any memory; a pipe would be waited for."""
    for name, read in (("a.json", files.read_json), ("a.npz", files.read_arrays)):
        with open(tmp_path / name, "wb") as large:
            large.truncate(2**40)
        with pytest.raises(RecordError, match=rf"{name} has 1099511627776 bytes; allowed"):
            read(tmp_path / name)
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(RecordError, match="is no file"):
            read(tmp_path / name)
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        with pytest.raises(RecordError, match="is no file"):
            read(tmp_path / name)


def an_npz(path, head: np.ndarray | None, content: bytes, shape=None):
    """An archive of one array whose head says what is asked for."""
    packed = io.BytesIO()
    if head is not None:
        header = np.lib.format.header_data_from_array_1_0(head)
        np.lib.format.write_array_header_1_0(packed, header | {"shape": shape or head.shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", packed.getvalue() + content)
    return path


def test_an_archive_that_unpacks_to_more_than_is_allowed_is_refused_unopened(tmp_path):
    bomb = an_npz(tmp_path / "a.npz", np.zeros(10**6), bytes(8 * 10**6))
    assert bomb.stat().st_size < 20_000
    assert files.read_arrays(bomb)["a"].shape == (10**6,)
    with pytest.raises(RecordError, match=r"a\.npz unpacks to 8000\d+ bytes; allowed: 1000000"):
        files.read_arrays(bomb, 10**6)
    with pytest.raises(RecordError, match="not as large as it says"):
        files.read_arrays(an_npz(tmp_path / "a.npz", np.zeros(1), bytes(8), shape=(10**15,)))
    with pytest.raises(RecordError, match="objects, which need pickle"):
        files.read_arrays(an_npz(tmp_path / "a.npz", np.array([None]), b"cos\nsystem\n."))
    for content in (b"", b"\x93NUMPY\x01\x00\xff\xff", b"\x93NUMPY\x09\x00"):
        with pytest.raises(RecordError, match="damaged"):
            files.read_arrays(an_npz(tmp_path / "a.npz", None, content))


def test_a_record_reads_no_more_arrays_than_a_record_can_have(tmp_path):
    folder = a_run(tmp_path / RUN)
    np.savez_compressed(folder / "arrays.npz", a=np.zeros(records.ARRAYS_LIMIT // 8 + 1))
    beside = json.loads((folder / "record.json").read_text())["files"]
    signed(folder, files=beside | {"arrays.npz": files.sha256(folder / "arrays.npz")})
    with pytest.raises(RecordError, match="unpacks to"):
        records.read(folder).arrays()


FULL = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from arlib import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
noise = np.random.default_rng(0).normal(size=5000)
for name, write, content in (
    ("a.json", files.write_json, {"a": "x" * 5000}), ("a.npz", files.write_arrays, {"a": noise}),
    ("a.safetensors", files.write_tensors, {"a": torch.from_numpy(noise)}),
):
    try:
        write(Path(sys.argv[1], name), content)
    except OSError as error:
        print(error)
"""


@pytest.mark.slow
def test_what_could_not_be_written_is_named(tmp_path):
    """A disk that takes no more, imitated by the system's limit on the size of a file."""
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = ended.stdout.splitlines()
    assert len(lines) == 3, ended.stderr
    for line, name in zip(lines, ("a.json", "a.npz", "a.safetensors"), strict=True):
        assert str(tmp_path / name) in line and "too large" in line
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_system_keeps_its_number_and_gets_the_file_s_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/a\.json") as refused:
        files.write_json(tmp_path / "file" / "a.json", {})
    assert refused.value.errno in (errno.ENOTDIR, errno.EEXIST)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("~nosuchuser/x", "no user of that name"),
        ("/tmp/a\0b", "a NUL, which no path can have"),
        ("/" + "a" * 5000, "bytes long; allowed: 3000, and 200"),
        ("/" + "a/" * 2500, "bytes long"),
        ("/tmp/\ud800", "letters no path can have"),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_a_path_that_cannot_be_is_one_message_wherever_one_is_given(path, why, monkeypatch):
    for use in (
        lambda: places.places(path),
        lambda: studies.load("digits", path),
        lambda: studies.load(f"{path}.yml"),
        lambda: places.data_root(path),
        lambda: data.load("cifar10", path),
    ):
        with pytest.raises(InputError, match=why) as refused:
            use()
        assert len(str(refused.value)) < 300 and "\n" not in str(refused.value)
    if "\0" in path or "\ud800" in path:
        return  # an environment cannot hold them
    for variable, use in (("ARLIB_STORE", places.places), ("ARLIB_DATA", places.data_root)):
        monkeypatch.setenv(variable, path)
        with pytest.raises(InputError, match=f"{variable} is .*{why}"):
            use()


# --- room


def sizes(paths) -> dict[str, int]:
    """Bytes by the first two folders."""
    bytes_of: dict[str, int] = {}
    for path in paths:
        inside = path.relative_to(ROOT)
        place = "/".join(inside.parts[:2]) if len(inside.parts) > 2 else inside.parts[0]
        bytes_of[place] = bytes_of.get(place, 0) + path.stat().st_size
    return dict(sorted(bytes_of.items(), key=lambda item: -item[1]))


def test_the_repository_stays_small_enough_to_clone_and_to_carry():
    """The tree at most 24 MB; what the wheel ships, little of which compresses, at most 15 MB."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = [
        ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()
    ]
    shipped = [
        path
        for path in tracked
        if path.relative_to(ROOT).parts[0] in ("arlib", "records", "studies")
    ]
    for what, paths, most in (("the tracked tree", tracked, 24e6), ("the wheel", shipped, 15e6)):
        room = sizes(paths)
        largest = ", ".join(f"{place} {size / 1e6:.1f}" for place, size in list(room.items())[:5])
        assert sum(room.values()) <= most, (
            f"{what} takes more than {most / 1e6:g} MB; most of it: {largest}"
        )
