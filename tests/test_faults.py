"""Generated bad input: only our own errors, each one message, and nothing accepted in silence.

A short form runs with the slow tests; `make test-faults` generates ten thousand inputs, as many of
each kind.
"""

import contextlib
import copy
import io
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arlib import attacks, batch, records, studies
from arlib.cli import main
from arlib.errors import InputError, RecordError
from arlib.studies.file import parse

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _log_as_it_was():
    """Commands say less or more for a whole process; other tests run in this one."""
    ours, everything = logging.getLogger("arlib"), logging.getLogger()
    level, top, handlers = ours.level, everything.level, list(everything.handlers)
    formatted = warnings.formatwarning
    yield
    ours.setLevel(level)
    everything.setLevel(top)
    everything.handlers[:] = handlers
    warnings.formatwarning = formatted


KINDS = 6
EXAMPLES = int(os.environ.get("ARLIB_FAULTS", "1000")) // KINDS
LONGEST = 5.0  # seconds that an answer may take
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

VALID = {
    "title": "tiny",
    "purpose": "a test",
    "cost": "seconds",
    "toy": True,
    "protocol": 2,
    "recipe": {"dataset": "digits", "model": "resnet8", "width": 4, "epochs": 3, "lr": 0.1},
    "grid": {"strength": [0, 32], "seed": [0, 1]},
    "controls": [1, 2],
    "measure": {"robust_images": 20},
    "claims": {"effect": 32},
}
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**13)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", "..", "~", "1e5", "0x10", "<script>", "a" * 5000, "digits", "resnet20"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


def one_message(error: Exception) -> None:
    text = str(error)
    assert text and "\n" not in text and len(text) < 1000, text[:2000]


@contextlib.contextmanager
def in_time():
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < LONGEST


def paths_of(tree: dict, before: tuple = ()) -> list[tuple]:
    """Where something can be put into a tree of dictionaries, in order."""
    paths = []
    for key, value in tree.items():
        paths.append((*before, key))
        if isinstance(value, dict):
            paths += paths_of(value, (*before, key))
    return paths


def put(tree: dict, path: tuple, value) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


@many
@given(path=st.sampled_from(paths_of(VALID)), value=values)
def test_a_study_file_with_anything_in_the_place_of_a_value(tmp_path, path, value):
    document = copy.deepcopy(VALID)
    put(document, path, value)
    file = tmp_path / "tiny.yml"
    file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    with in_time():
        try:
            study = parse(file)
        except InputError as error:
            return one_message(error)
    # accepted: then it is what the study does
    if path == ("recipe", "epochs"):
        assert type(value) is int and {e.recipe.epochs for e in study.entries if not e.control} == {
            value
        }
    if path == ("recipe", "width"):
        assert type(value) is int and {e.recipe.width for e in study.entries} == {value}
    if path == ("grid", "seed"):
        assert {e.recipe.seed for e in study.entries} == set(value)
    if path == ("recipe", "model"):
        assert value in ("resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110")


@many
@given(
    place=st.sampled_from([(), ("recipe",), ("grid",), ("measure",), ("claims",)]),
    key=st.text(min_size=1, max_size=8).filter(lambda key: key.strip() and key.isprintable()),
    value=values,
    text=st.none() | st.text(max_size=200) | st.binary(max_size=200),
)
def test_a_study_file_with_a_key_of_its_own_or_of_any_text(tmp_path, place, key, value, text):
    file = tmp_path / "tiny.yml"
    if text is None:
        document = copy.deepcopy(VALID)
        put(document, (*place, f"{key}_"), value)  # no key of ours ends so
        file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
    with in_time(), pytest.raises(InputError) as error:
        parse(file)
    one_message(error.value)


@many
@given(
    st.lists(
        st.text("abx=,[]{}'\"~:0189.-<\n ", max_size=14) | st.just("x=" + "[" * 4000), max_size=3
    ),
    st.lists(st.text("abx=,[]{}'\"~:0189.- ", max_size=14), max_size=2),
)
def test_parameters_of_a_batch(fixed, grids):
    with in_time():
        try:
            sets = batch.parameter_sets(fixed, grids)
        except InputError as error:
            return one_message(error)
    assert sets and all(name.isidentifier() for chosen in sets for name in chosen)
    json.dumps(sets, default=str)  # plain values, nothing made up by YAML


WORDS = (
    "study", "list", "show", "status", "verdicts", "train", "compare", "batch", "data", "digits",
    "--store", "--json", "-q", "-v", "--jobs", "0", "-1", "--time-budget", "soon", "--device",
    "cpu:7", "abacus", "--epochs", "1e12", "--lr", "nan", "--grid", "x=1,,2", "--version", "\0",
    "~nosuchuser", "/dev/null", "/no/such", "a" * 5000, "--", "--help", "é", "",
)  # fmt: skip


@many
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=6))
def test_command_lines(tmp_path, words):
    # what would begin real work is not typed here: a study's run, a training with all it needs
    words = [word for word in words if word not in ("run", "use", "publish")]
    if words[:1] == ["train"]:
        words.append("--epochs=0")
    if words[:1] in (["batch"], ["compare"]):
        words.append("--no-such-option")
    out, err = io.StringIO(), io.StringIO()
    with (
        in_time(),
        mock.patch.object(sys, "argv", ["arlib", *words]),
        mock.patch.dict(os.environ, {"ARLIB_STORE": str(tmp_path)}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.suppress(SystemExit),
    ):
        main()
    assert "Traceback" not in out.getvalue() + err.getvalue()


def the_record() -> Path:
    """A small record of the repository."""
    study = studies.load("digits")
    return min(study.finished().values(), key=lambda folder: records.size(folder))


def fields_of(content: dict) -> list[tuple]:
    return [(key,) for key in content if key != "checksum"] + [
        ("history", name) for name in content["history"]
    ]


@many
@given(data=st.data())
def test_records_that_are_signed_all_the_same(tmp_path, data):
    content = json.loads((the_record() / "record.json").read_text(encoding="utf-8"))
    path = data.draw(st.sampled_from(fields_of(content)))
    put(content, path, data.draw(values))
    content["files"] = {} if path != ("files",) else content["files"]
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    try:
        content["checksum"] = records._checksum(content)
        (folder / "record.json").write_text(json.dumps(content, allow_nan=False))
    except (ValueError, TypeError):
        return  # NaN and the like are no JSON
    with in_time():
        try:
            record = records.read(folder)
        except RecordError as error:
            return one_message(error)
    assert len(record.rows.columns) == 7 and record.rows["value"].dtype == "float64"
    assert len({len(column) for column in record.epochs.values()}) <= 1


shapes = st.sampled_from([(4, 1, 4, 4), (4, 16), (0, 1, 4, 4), (1, 4, 4), (4, 3, 4, 4), (4,), ()])
numbers = st.sampled_from([0.5, 0.0, 1.0, -0.1, 1.5, 255.0, float("nan"), float("inf")])


@many
@given(
    shape=shapes,
    fill=numbers,
    dtype=st.sampled_from([torch.float32, torch.float64, torch.uint8, torch.int64, torch.bool]),
    labels=st.lists(st.integers(-2, 5), max_size=5),
    eps=numbers | st.sampled_from(["8/255", None, [0.1], True]),
    norm=st.sampled_from(["linf", "l2", "Linf", "l1", 2, None]),
    steps=st.sampled_from([1, 2, 0, -1, 1.5, "3", None, True]),
)
def test_tensors(shape, fill, dtype, labels, eps, norm, steps):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)).eval()
    try:
        x = torch.full(shape, fill).to(dtype)
    except RuntimeError:
        return
    before = x.clone()
    with in_time():
        try:
            x_adv = attacks.pgd(net, x, torch.tensor(labels), eps=eps, norm=norm, steps=steps)
        except (InputError, TypeError) as error:
            return one_message(error)
    assert torch.equal(x, before) and x_adv.shape == x.shape
    assert bool(((x_adv >= 0) & (x_adv <= 1)).all())
    assert (x_adv - x).abs().max() <= eps + 1e-6
