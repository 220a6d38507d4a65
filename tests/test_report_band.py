"""The reference band is what the recorded networks span,
and stands only where the quantity is the same one.
"""

import json
import subprocess
import sys

import pytest
import torch

import arlib
from arlib import data, models, places, records, studies
from arlib.errors import InputError, NotMeasured
from arlib.report import cost, recorded

FEW = {"robust_images": 10, "instance_images": 4, "jacobian_images": 2, "progress": False}
DIGITS = {"eps": [16 / 255, 32 / 255], "radius": 16 / 255}


@pytest.fixture(scope="module")
def images():
    return data.load("digits", device="cpu").test[:40]


def net(width=8, size=8):
    torch.manual_seed(0)
    return models.resnet(size, width=width, in_channels=1).eval()


@pytest.fixture(scope="module")
def comparison(images):
    return arlib.compare({"mine": net()}, *images, **DIGITS, **FEW)


def recorded_values(statistic, setting="", strength=0.0):
    """Read from the record files themselves, by another way than the band's."""
    values = []
    for folder in sorted((places.places().records[0] / "digits").iterdir()):
        record = records.read(folder)
        if round(255 * record.recipe.get("eps", 0), 3) == strength:
            rows = record.rows[
                (record.rows["checkpoint"] == "last") & (record.rows["split"].isin(["test", ""]))
            ]
            rows = rows[(rows["statistic"] == statistic) & (rows["setting"] == setting)]
            if statistic == "sv_std":
                rows = rows[rows["layer"].str.fullmatch(r"blocks\.\d+\.conv\d+")]
            values.append(rows["value"].median())
    return values


@pytest.mark.parametrize(
    "quantity, setting, statistic, where",
    [
        ("error", "", "error", ""),
        ("median_abs_margin", "", "median_abs_margin", ""),
        ("flip_pgd", "16/255", "flip_rate", "pgd@16"),
        ("feature_change", "", "feature_change", "random@16"),
        ("sv_std", "", "sv_std", "circular"),
    ],
)
def test_the_band_is_from_the_least_to_the_largest_recorded_network(
    comparison, quantity, setting, statistic, where
):
    assert (
        comparison.band.study == "digits"
        and comparison.band.networks == (3, 3)
        and comparison.band.strengths == (0, 32)
    )
    for strength, (low, high) in comparison.band.of(quantity, setting).items():
        values = recorded_values(statistic, where, strength)
        assert len(values) == 3 and low < high
        assert (low, high) == (
            pytest.approx(min(values), rel=1e-6),
            pytest.approx(max(values), rel=1e-6),
        )
    assert len(comparison.band.of(quantity, setting)) == 2


def test_robust_accuracy_is_one_minus_the_recorded_error(comparison):
    values = recorded_values("robust_error", "apgd-ce+t@32", 32.0)
    low, high = comparison.band.of("robust_accuracy", "32/255")[32.0]
    assert (low, high) == (pytest.approx(1 - max(values)), pytest.approx(1 - min(values)))
    assert not comparison.band.of("robust_accuracy", "16/255")  # the records took it at 32/255 only


def test_what_the_records_lack_or_took_otherwise_has_no_band(comparison):
    for quantity in ("ece", "instance_margin", "jacobian_uniformity"):
        assert not comparison.band.of(quantity)
    assert comparison.table.loc["expected calibration error", "recorded, strength 32"] == "–"
    assert " to " in comparison.table.loc["natural error", "recorded, strength 0"]


@pytest.mark.slow
def test_another_radius_or_other_layers_have_no_band(images):
    other = arlib.compare({"mine": net()}, *images, eps=[32 / 255], radius=5 / 255, **FEW).band
    assert (
        not other.of("feature_change") and not other.of("flip_pgd", "5/255") and other.of("error")
    )
    wide = arlib.compare({"a": net(), "b": net(4)}, *images, **DIGITS, **FEW).band
    assert not wide.of("sv_std") and wide.of("feature_change")  # the same blocks, of other width
    deep = arlib.compare({"a": net(size=20)}, *images, **DIGITS, **FEW).band
    assert not deep.of("feature_change") and not deep.of("sv_std") and deep.of("max_softmax")


def test_images_like_no_study_have_no_band():
    assert recorded.fitting((1, 9, 9), 10) is None and recorded.fitting((1, 8, 8), 7) is None
    assert recorded.fitting((1, 8, 8), 10) == "digits"
    assert recorded.fitting((3, 32, 32), 10).startswith("cifar10-")


@pytest.mark.slow
def test_the_band_is_in_the_page_the_figure_and_the_file(comparison, tmp_path):
    page = comparison.save(tmp_path / "report.html").read_text()
    assert "recorded, strength 32" in page and "study digits" in page and "What it took" in page
    assert comparison.band.about in comparison.figure().alt
    content = json.loads(comparison.save(tmp_path / "all.json").read_text())
    assert content["band"]["study"] == "digits" and len(content["band"]["rows"]) == len(
        comparison.band.rows
    )
    shaded = [len(ax.patches) for ax in comparison.figure().axes]
    assert sum(shaded) == len(comparison.band.rows)


@pytest.mark.parametrize("band, error, message", [
    ("digit", InputError, "Did you mean 'digits'"), (3, InputError, "band is 3"),
])  # fmt: skip
def test_a_band_that_is_no_study_is_refused(images, band, error, message, monkeypatch):
    calls = []
    monkeypatch.setattr("arlib.report.comparison.PARTS", {"one": lambda *_: calls.append(1)})
    with pytest.raises(error, match=message):
        arlib.compare({"mine": net()}, *images, band=band, **FEW)
    assert not calls


def test_a_study_without_networks_is_refused():
    shelves = [recorded._published(name) for name in studies.names(recorded._NO_STORE)]
    empty = next(s.name for s in shelves if s.claims and not s.finished())
    with pytest.raises(NotMeasured, match="no networks at AR strength"):
        recorded.chosen(empty, (3, 32, 32), 10)


@pytest.mark.parametrize("name", ["fronts", "association"])
def test_a_study_that_compares_no_two_strengths_is_refused(name):
    with pytest.raises(NotMeasured, match=f"band is '{name}', a study that decides no claim"):
        recorded.chosen(name, (3, 32, 32), 10)


@pytest.mark.parametrize("before, after, grown", [
    (100.0, 612.34, 512.3), (100.0, 100.0, 0.0), (100.0, 99.8, 0.0), (None, None, None),
])  # fmt: skip
def test_a_peak_that_reads_lower_has_not_grown(before, after, grown):
    assert cost.growth(before, after) == grown


def test_every_part_says_its_seconds_and_memory(comparison):
    assert comparison.seconds.keys() == comparison.megabytes.keys()
    assert all(value >= 0 for value in comparison.megabytes.values())
    table = comparison.cost
    assert list(table.columns) == ["mine", "memory"] and list(table.index) == [
        k.split("/")[1] for k in comparison.seconds
    ]
    assert table.loc["outputs", "mine"] == f"{comparison.seconds['mine/outputs']:.1f} s"


PEAK = """
import torch
from arlib.report import cost
cpu = torch.device("cpu")
held = torch.ones(300 * 2**18)  # 300 MB
before = cost.peak(cpu)
more = [torch.ones(300 * 2**18) for _ in range(2)]
rise = cost.peak(cpu) - before
assert 500 < rise < 700 and held.sum() > 0 and len(more) == 2, rise
"""


@pytest.mark.slow
def test_the_peak_rises_by_what_is_held():
    """In a process of its own, and whatever the one that starts it has held."""
    large = torch.ones(1000 * 2**18)  # 1 GB, which the child's own peak must not begin with
    assert large.sum() > 0
    subprocess.run([sys.executable, "-c", PEAK], check=True)


def test_costs_of_models_whose_names_hold_slashes():
    table = cost.table(
        ["a/b", "c"],
        {"a/b/outputs": 1.0, "c/outputs": 2.0},
        {"a/b/outputs": 1.5, "c/outputs": None},
    )
    assert table.loc["outputs"].tolist() == ["1.0 s", "2.0 s", "+1.5 MB"]
