import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest
import torch

from arlib import data, places, sources
from arlib.errors import InputError

FOLDERS = {
    "cifar10": places.data_root() / "cifar-10-batches-py",
    "cifar100": places.data_root() / "cifar-100-python",
}
CIFAR = FOLDERS["cifar10"]
needs_cifar10 = pytest.mark.skipif(not CIFAR.exists(), reason=f"CIFAR-10 is not in {CIFAR.parent}")


def test_digits_parts_are_fixed_disjoint_and_stratified():
    first, second = data.load("digits", device="cpu"), data.load("digits", device="cpu")
    parts = [first.train, first.val, first.test]
    assert [len(p) for p in parts] == [1149, 288, 360]
    assert all(
        torch.equal(a.pixels, b.pixels)
        for a, b in zip(parts, [second.train, second.val, second.test], strict=False)
    )
    for part in parts:
        counts = torch.bincount(part.y, minlength=10) / len(part)
        assert counts.min() > 0.08 and counts.max() < 0.12
    images = [
        hashlib.sha256(p.numpy().tobytes()).hexdigest() for part in parts for p in part.pixels
    ]
    from sklearn.datasets import load_digits

    everything = [
        hashlib.sha256(x.astype(np.uint8).tobytes()).hexdigest() for x in load_digits().images
    ]
    assert sorted(images) == sorted(everything)


def test_a_split_unpacks_slices_and_is_scaled_to_one():
    digits = data.load("digits", device="cpu")
    x, y = digits.test[:7]
    assert x.shape == (7, *digits.shape) == (7, 1, 8, 8) and y.shape == (7,)
    assert x.dtype == torch.float32 and y.dtype == torch.int64
    assert digits.train.x.min() == 0 and digits.train.x.max() == 1


def test_unknown_data_set_suggests_the_spelling():
    with pytest.raises(InputError, match="Did you mean 'cifar10'"):
        data.load("cifar-10")


def test_missing_files_say_how_to_get_them(tmp_path):
    with pytest.raises(InputError, match="download=True"):
        data.load("cifar10", root=tmp_path, device="cpu")


def test_missing_gpu_is_refused_before_reading():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="Use device='cpu'"):
        data.load("digits", device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("name", sources.NAMES)
def test_what_is_known_of_a_data_set_is_what_is_read(name):
    """Sizes, shape and classes exactly; mean and std to the four digits they are given with."""
    if name != "digits" and not FOLDERS[name].exists():
        pytest.skip(f"{name} is not in {places.data_root()}")
    known, read = sources.source(name), data.load(name, device="cpu")
    assert (known.train, known.val, known.test) == (len(read.train), len(read.val), len(read.test))
    assert (known.classes, known.shape) == (len(read.classes), read.shape)
    parts = [read.train, read.val, *([read.test] if name == "digits" else [])]
    x = torch.cat([part.x for part in parts]).double()
    dims = (0, 2, 3)
    assert torch.allclose(x.mean(dims), torch.tensor(known.mean).double(), atol=6e-5)
    assert torch.allclose(x.std(dims), torch.tensor(known.std).double(), atol=6e-5)


@pytest.mark.slow
@needs_cifar10
def test_cifar10_split_and_pixels_are_torchvisions():
    from torchvision import datasets

    cifar = data.load("cifar10", device="cpu")
    theirs = datasets.CIFAR10(places.data_root(), train=True)
    assert [len(p) for p in (cifar.train, cifar.val, cifar.test)] == [45_000, 5_000, 10_000]
    assert torch.bincount(cifar.val.y).tolist() == [500] * 10
    labels = np.asarray(theirs.targets)
    last = np.flatnonzero(labels == 3)[-500:]
    mine = cifar.val.pixels[cifar.val.y == 3].permute(0, 2, 3, 1).numpy()
    assert np.array_equal(mine, theirs.data[last])
    assert cifar.classes[3] == "cat" and cifar.shape == (3, 32, 32)


def test_augment_is_a_crop_of_the_padded_image_or_its_mirror():
    x = torch.rand(40, 2, 6, 6)
    out = data.augment(x, torch.Generator().manual_seed(0), padding=2)
    padded = torch.nn.functional.pad(x, (2,) * 4)
    kinds = set()
    for before, after in zip(padded, out, strict=False):
        crops = {
            (i, j, flip): (c.flip(2) if flip else c)
            for i in range(5)
            for j in range(5)
            for flip in (False, True)
            for c in [before[:, i : i + 6, j : j + 6]]
        }
        keys = [key for key, crop in crops.items() if torch.equal(crop, after)]
        assert keys, "an augmented image is neither a crop nor a mirrored crop"
        kinds.add(keys[0])
    assert len(kinds) > 15 and {flip for *_, flip in kinds} == {False, True}


def test_augment_depends_on_its_generator_only():
    x = torch.rand(8, 1, 8, 8)
    before = torch.get_rng_state()
    one, two = (data.augment(x, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two) and torch.equal(before, torch.get_rng_state())


@pytest.fixture
def tiny_cifar_server(tmp_path, monkeypatch):
    """A loopback server with an archive in torchvision's layout,
    whose md5 is torchvision's expectation.
    """
    # only to write the archive as its authors did; nothing of the project reads pickles
    import pickle

    from torchvision import datasets

    rng, archive = np.random.default_rng(0), io.BytesIO()
    files = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        labels = np.repeat(np.arange(10), 110 if name != "test_batch" else 2)
        rows = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": rows, "labels": labels.tolist()})
    files["batches.meta"] = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    served = tmp_path / "served"
    served.mkdir()
    (served / "cifar-10-python.tar.gz").write_bytes(archive.getvalue())

    def md5(content):
        return hashlib.md5(content).hexdigest()

    kind = datasets.CIFAR10
    monkeypatch.setattr(kind, "tgz_md5", md5(archive.getvalue()))
    monkeypatch.setattr(
        kind, "train_list", [[n, md5(files[n])] for n in files if n.startswith("data")]
    )
    monkeypatch.setattr(kind, "test_list", [["test_batch", md5(files["test_batch"])]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(files["batches.meta"])}
    monkeypatch.setattr(kind, "meta", meta)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(served))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(
        kind, "url", f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
    )
    yield served
    server.shutdown()
    server.server_close()


# torchvision 0.21 unpacks by tarfile's old default, after it has checked the archive's md5
@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter:DeprecationWarning")
def test_download_from_a_server_checks_the_md5(tiny_cifar_server, tmp_path):
    root = tmp_path / "root"
    loaded = data.load("cifar10", root=root, download=True, device="cpu")
    assert len(loaded.val) == 5_000 and len(loaded.train) == 500 and len(loaded.test) == 20
    again = data.load("cifar10", root=root, device="cpu")
    assert torch.equal(again.train.pixels, loaded.train.pixels)


def test_a_damaged_download_is_refused(tiny_cifar_server, tmp_path):
    archive = tiny_cifar_server / "cifar-10-python.tar.gz"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match="cifar10 was not found whole"):
        data.load("cifar10", root=tmp_path / "root", download=True, device="cpu")
