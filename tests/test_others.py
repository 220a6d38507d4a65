"""Networks that others trained: their published errors, and distances that were proven,
where their files are.

The folder is named by `ARLIB_NETS`; nothing of it is in the repository. What was measured on them
is, and is tested by itself below.
"""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from arlib import attacks, margins, studies
from arlib.errors import InputError, NotMeasured, RecordError
from arlib.report import others, signs
from tools import othernets
from tools import others as measuring

HERE = bool(os.environ.get("ARLIB_NETS"))
needs_nets = pytest.mark.skipif(
    not HERE, reason="ARLIB_NETS is not set: the networks of other people are not here"
)

# Published, in per cent of the 10,000 MNIST test images:
# natural error, and error under PGD-40 at a radius.
NATURAL = {
    "salman_NOR_MLP_B": 2.05, "salman_ADV_MLP_B_0.03": 1.53, "salman_ADV_MLP_B_0.05": 1.62,
    "salman_ADV_MLP_B_0.1": 3.33,
}  # fmt: skip
UNDER_PGD = {
    ("salman_NOR_MLP_B", 0.02): 10.06,
    ("salman_NOR_MLP_B", 0.03): 20.37,
    ("salman_NOR_MLP_B", 0.05): 53.37,
    ("salman_ADV_MLP_B_0.03", 0.03): 4.17,
    ("salman_ADV_MLP_B_0.05", 0.05): 6.06,
    ("salman_ADV_MLP_B_0.1", 0.1): 15.86,
}
# Accuracy on the first 500 test images, in per cent.
FIRST_500 = {
    "mnist_convsmall_Point": 98.4,
    "mnist_convsmall_PGDK": 98.6,
    "ada_resnet4b_standard": 77.0,
    "ada_resnet4b_fgsm": 43.6,
    "ada_resnet4b_pgd": 52.0,
    "sdp_cnn_a_adv": 65.0,
    "sdp_cnn_a_adv4": 56.0,
    "sdp_cnn_a_mix": 74.8,
    "sdp_cnn_a_mix4": 68.6,
}
PROVEN = {
    "mnist_convsmall_Point": "convSmallRELU__Point",
    "mnist_convsmall_PGDK": "convSmallRELU__PGDK",
}


@pytest.fixture(scope="module")
def nets():
    return othernets.folder()


@pytest.fixture(scope="module")
def mnist(nets):
    return othernets.images("mnist", nets)


def error(model, x, y):
    return 100 * measuring.error(model, x, y)


@needs_nets
@pytest.mark.parametrize("name", NATURAL)
def test_published_natural_error(name, nets, mnist):
    assert error(othernets.load(name, nets), *mnist) == pytest.approx(NATURAL[name], abs=0.02)


@needs_nets
@pytest.mark.slow
@pytest.mark.parametrize("name, eps", UNDER_PGD)
def test_published_error_under_pgd(name, eps, nets, mnist):
    model, (x, y) = othernets.load(name, nets), mnist
    parts = zip(x.split(1000), y.split(1000), strict=True)
    attacked = torch.cat(
        [attacks.pgd(model, part, labels, eps=eps, steps=40) for part, labels in parts]
    )
    assert error(model, attacked, y) == pytest.approx(UNDER_PGD[name, eps], abs=0.3)


@needs_nets
@pytest.mark.parametrize("name", FIRST_500)
def test_known_accuracy_on_the_first_images(name, nets):
    family = next(family for family in othernets.FAMILIES.values() if name in family.names)
    try:
        x, y = othernets.images(family.dataset, nets)
    except InputError as error_:
        pytest.skip(str(error_))
    assert 100 - error(othernets.load(name, nets), x[:500], y[:500]) == pytest.approx(
        FIRST_500[name], abs=1e-6
    )


@needs_nets
@pytest.mark.slow
@pytest.mark.parametrize("name", PROVEN)
def test_no_instance_margin_lies_below_the_proven_distance(name, nets, mnist):
    """And the attacks come near it: at the median within a third."""
    x, y = mnist
    index, proven, label = proven_distances(nets, PROVEN[name])
    assert torch.equal(y[index], label) and len(index) > 90
    model = othernets.load(name, nets)
    distances = margins.instance(model, x[index], y[index]).double()
    nearest = attacks.minimum_norm(model, x[index], y[index])
    by_norm = attacks.distance(model, x[index], nearest, y[index]).double()
    for values in (distances, by_norm):
        assert (values >= proven - 1e-6).all()
    assert 1 < (distances / proven).median() < 4 / 3


def proven_distances(nets: Path, network: str):
    """Of test images: their places, the largest radius proven to hold no mistake, their labels."""
    with open(nets / "ada_results_mnist.csv", newline="") as stored:
        rows = [
            row
            for row in csv.DictReader(stored)
            if row["network_path"].strip() == f"{network}.onnx"
        ]
    rows = [row for row in rows if row["split"] == "test"]

    def column(name):
        return torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)

    return column("image_id").long(), column("epsilon_value"), column("original_label").long()


@needs_nets
def test_the_committed_numbers_are_of_these_files_and_come_out_again(nets, mnist):
    """The errors and output margins of two networks measured anew,
    by other code than wrote them.
    """
    for family in others.read()["families"]:
        for one in family["networks"]:
            assert measuring.files.sha256(nets / f"{one['name']}.npz") == one["sha256"]
    x, y = mnist
    for name in ("salman_NOR_MLP_B", "mnist_convsmall_PGDK"):
        with torch.no_grad():
            z = othernets.load(name, nets)(x)
        rows = {row[0]: row[4] for row in network(name)["rows"] if row[2] == ""}
        margin = np.sort(np.abs(margins.output(z, y).double().numpy()))
        assert rows["error"] == pytest.approx(float((z.argmax(1) != y).double().mean()), abs=1e-9)
        assert rows["median_abs_margin"] == pytest.approx(np.median(margin), rel=1e-4)


def network(name):
    return next(
        one
        for family in others.read()["families"]
        for one in family["networks"]
        if one["name"] == name
    )


# What needs no file of other people.


def test_every_recorded_network_says_where_it_is_from_and_how_it_was_measured():
    content = others.read()
    assert {family["family"] for family in content["families"]} <= set(othernets.FAMILIES)
    for family in content["families"]:
        assert set(family["source"]) == {"address", "commit", "licence"} and all(
            family["source"].values()
        )
        assert {"eps", "radius", "robust_images", "instance_images", "seed"} <= set(
            family["settings"]
        )
        assert [one["name"] for one in family["networks"]] == [family["base"], *family["robust"]]
        for one in family["networks"]:
            assert len(one["sha256"]) == 64
            assert {"error", "median_abs_margin", "instance_margin", "sv_std"} <= {
                row[0] for row in one["rows"]
            }
            assert all(row[3] > 0 for row in one["rows"])
    assert content["versions"]["arlib"]


def test_a_changed_number_is_noticed(tmp_path):
    content = others.read()
    path = tmp_path / others.FILE
    others.write(path, content["families"], **content["versions"])
    assert others.read(path) == content
    changed = json.loads(path.read_text())
    changed["families"][0]["networks"][0]["rows"][0][4] += 0.01
    path.write_text(json.dumps(changed))
    with pytest.raises(RecordError, match="does not match its checksum"):
        others.read(path)
    path.write_text("[]")
    with pytest.raises(RecordError, match="no file of format 1"):
        others.read(path)


def test_without_a_file_nothing_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(
        others.places, "places", lambda: others.places.Places(tmp_path, (tmp_path,), ())
    )
    with pytest.raises(NotMeasured, match=r"python -m tools\.others"):
        others.read()


def a_network(name, error, low, high, std, change=(0.1, 0.2)):
    rows = [
        ["error", "", "", 1000, error, low, high],
        ["flip_pgd", "4/255", "", 500, 0.5, 0.4, 0.6],
    ]
    rows += [["sv_std", "", f"l{i}", 64, value, None, None] for i, value in enumerate(std)]
    rows += [
        ["feature_change", "", f"l{i}", 100, value, None, None] for i, value in enumerate(change)
    ]
    rows += [
        ["robust_accuracy", "8/255", "", 50, 0.5, None, None],
        ["sv_std", "", "", 3, 1.0, None, None],
    ]
    return {"name": f"x_{name}", "sha256": "0" * 64, "rows": rows}


def a_family(*networks):
    about = {
        "family": "f",
        "title": "t",
        "dataset": "mnist",
        "base_training": "natural",
        "training": "PGD",
    }
    about |= {"source": {"address": "a", "commit": "c", "licence": "MIT"}}
    names = [one["name"] for one in networks]
    return about | {"base": names[0], "robust": names[1:], "networks": list(networks)}


def test_signs_are_those_of_the_numbers():
    standard = a_network("std", 0.10, 0.08, 0.12, (1.0, 2.0, 3.0))
    clear = a_network("clear", 0.20, 0.18, 0.22, (0.5, 1.0, 4.0), change=(0.2, 0.3))
    close = a_network("close", 0.09, 0.07, 0.11, (1.5, 2.5, 2.0))
    frame = signs.of_others({"families": [a_family(standard, clear, close)]})
    by_pair = frame.set_index(["pair", "quantity"])
    assert by_pair.loc[("std → clear", "error"), ["sign", "sure"]].tolist() == [1, True]
    assert by_pair.loc[("std → close", "error"), ["sign", "sure"]].tolist() == [-1, False]
    assert by_pair.loc[("std → clear", "sv_std"), ["sign", "smaller", "layers"]].tolist() == [
        -1,
        2,
        3,
    ]
    table = signs.table(frame, ("error", "gap", "flip_pgd", "sv_std", "feature_change"))
    assert table.loc["std → clear"].tolist() == [
        "mnist",
        "1,000 / 500 / 50",
        "↑",
        "–",
        "(=)",
        "↓ 2/3",
        "↑ 2/2 against",
    ]
    assert table.loc["std → close"].tolist()[2:] == ["(↓)", "–", "(=)", "↑ 2/3 against", "= 0/2"]
    sentence = signs.sentence(frame)
    assert (
        "Of 2 pairs" in sentence
        and "C1 natural error ↑ 1, 0, 1" in sentence
        and "C6 std, raw ↓ 1, 1, 0" in sentence
    )
    assert "C5 feature change ↓ 0, 1, 1" in sentence and "C2" not in sentence
    assert signs.sources({"families": [a_family(standard, clear)]})["training"].tolist() == [
        "natural",
        "PGD",
    ]


@pytest.mark.slow
def test_the_books_own_networks_stand_beside_them():
    """Against the records read another way."""
    study = studies.load("digits", store=Path("/nowhere"))
    result = signs.of_study(study).set_index("quantity")
    table = study.records()
    last = table[
        (table["checkpoint"] == "last")
        & (table["statistic"] == "error")
        & (table["split"] == "test")
    ]
    by_strength = last.groupby("strength")["value"].mean()
    assert result.loc["error", "sign"] == np.sign(by_strength[32] - by_strength[0])
    assert result.loc["sv_std", "layers"] == 6 and result["images"].eq("3 seeds").all()
    assert "instance_margin" in result.index and result["book"].all()
    both = pd.concat([signs.of_others(), result.reset_index()])
    assert signs.sentence(both) == signs.sentence(signs.of_others())
    assert len(signs.table(both, signs.OF_LAYERS)) == both["pair"].nunique()


def test_no_pair_no_sentence():
    with pytest.raises(NotMeasured, match="no pair"):
        signs.sentence(signs.of_others({"families": []}))


def test_a_chain_is_read_off_its_arrays():
    arrays = {
        "0.weight": np.ones((2, 1, 4, 4), np.float32), "0.bias": np.zeros(2, np.float32),
        "3.weight": np.ones((5, 2 * 14 * 14), np.float32), "3.bias": np.zeros(5, np.float32),
    }  # fmt: skip
    model = othernets.chain(arrays)
    assert [type(layer) for layer in model] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]
    assert model[0].stride == (2, 2) and model[0].padding == (1, 1)
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 5)


def test_a_graph_is_its_operations():
    weight, bias = torch.randn(2, 1, 3, 3), torch.randn(2)
    last, constant = torch.randn(4, 2 * 16), torch.randn(4)
    arrays = {"c.weight": weight, "c.bias": bias, "g.weight": last, "g.bias": constant}
    conv = {"group": 1, "kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    ops = [
        {"op": "Conv", "attr": conv, "inp": ["x", "@c.weight", "@c.bias"], "out": "a"},
        {"op": "Relu", "attr": {}, "inp": ["a"], "out": "b"},
        {"op": "Add", "attr": {}, "inp": ["a", "b"], "out": "s"},
        {"op": "Transpose", "attr": {"perm": [0, 2, 3, 1]}, "inp": ["s"], "out": "t"},
        {"op": "Reshape", "attr": {}, "inp": ["t", "#[-1, 32]"], "out": "f"},
        {"op": "Gemm", "attr": {"transB": 1}, "inp": ["f", "@g.weight", "@g.bias"], "out": "y"},
    ]
    model = othernets.Graph(
        {"input": "x", "output": "y", "ops": ops}, {k: v.numpy() for k, v in arrays.items()}
    )
    x = torch.rand(3, 1, 8, 8)
    a = nn.functional.conv2d(x, weight, bias, stride=2, padding=1)
    expected = (a + a.relu()).permute(0, 2, 3, 1).flatten(1) @ last.T + constant
    torch.testing.assert_close(model(x), expected)
    ops[1] = {"op": "Sigmoid", "attr": {}, "inp": ["a"], "out": "b"}
    with pytest.raises(InputError, match="the graph has Sigmoid"):
        othernets.Graph(
            {"input": "x", "output": "y", "ops": ops}, {k: v.numpy() for k, v in arrays.items()}
        )


def test_a_folder_that_is_not_there_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("ARLIB_NETS", raising=False)
    with pytest.raises(InputError, match="ARLIB_NETS is not set"):
        othernets.folder()
    with pytest.raises(InputError, match="there is no such folder"):
        othernets.folder(tmp_path / "none")
    with pytest.raises(InputError, match="Did you mean 'salman_NOR_MLP_B'"):
        othernets.load("salman_NOR_MLP", tmp_path)
    with pytest.raises(RecordError, match="is missing"):
        othernets.load("salman_NOR_MLP_B", tmp_path)
    with pytest.raises(InputError, match="set ARLIB_MNIST"):
        othernets.mnist(tmp_path)
    assert (
        measuring.main(["--nets", str(tmp_path / "none")]) == 2
        and "no such folder" in capsys.readouterr().err
    )


def test_a_study_that_compares_no_two_strengths_has_no_signs():
    assert signs.of_study(studies.load("fronts")).empty
