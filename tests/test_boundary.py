"""What the page "Walk the boundary" shows, against networks, records and the library."""

import copy
import dataclasses
import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from arlib import boundary, claims, data, files, records, studies
from arlib.boundary import page, walk
from arlib.boundary.bench import Bench
from arlib.claims.evidence import gather
from arlib.errors import InputError, RecordError
from tools import boundary as tool


@pytest.fixture(scope="module")
def content() -> dict:
    return boundary.read()


@pytest.fixture(scope="module")
def study(content, tmp_path_factory):
    return studies.load(content["study"], tmp_path_factory.mktemp("store"))


def linear(seed=0) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Two classes, one image of 2 × 3 × 2, its lead and what one step of each pixel takes away."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    x = 0.4 + 0.2 * torch.rand(1, 2, 3, 2)
    with torch.no_grad():
        y = model(x).argmax(1)
    return model, x, y


def test_a_walk_of_a_linear_network_is_a_straight_line_to_its_known_boundary():
    model, x, y = linear()
    with torch.no_grad():
        z, w = model(x)[0], model[1].weight
        lead, slope = float(z[y] - z[1 - y]), float((w[y] - w[1 - y]).abs().sum())
    (way,) = walk._walks(model, x, y)
    known = walk.PER_UNIT * lead / slope
    assert way["nearest"] == pytest.approx(known, rel=1e-2)
    assert way["crossing"] == pytest.approx(known, rel=1e-2)
    walked = walk.along(model, x, y, way["direction"], reach=1.5 * way["crossing"])
    away = walk.distances(1.5 * way["crossing"]).numpy()
    assert len(walked["lead"]) == walk.STOPS
    assert np.allclose(walked["lead"], lead * (1 - away / way["crossing"]), atol=1e-3)
    assert np.allclose(walked["slope"], -lead / way["crossing"], rtol=1e-3)
    right = away < way["crossing"]
    assert (np.array(walked["answer"]) == np.where(right, int(y), 1 - int(y))).all()


def test_pixels_of_a_walk_stay_in_the_range_and_the_slope_knows():
    x, up = torch.tensor([[[[1.0]], [[0.5]]]]), torch.ones(1, 2, 1, 1)
    assert walk.walked(x, up, torch.tensor([0.0, 255.0])).flatten().tolist() == [1, 0.5, 1, 1]
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    direction = walk._text(np.full((2, 1, 1), walk.STEPS, dtype=np.int8))
    walked = walk.along(model, x, torch.tensor([0]), direction, reach=255.0)
    # the first pixel is at the end of the range: only the second moves, until it is there too
    assert walked["slope"][1] == pytest.approx(2 / 255, rel=1e-4)
    assert walked["slope"][-1] == 0 and walked["lead"][-1] == pytest.approx(3)


def test_images_survive_being_written_and_read():
    pixels = np.arange(24, dtype=np.uint8).reshape(3, 4, 2)
    assert (walk._array(walk._text(pixels), (3, 4, 2), np.uint8) == pixels).all()
    with pytest.raises(RecordError):
        walk._array(walk._text(pixels), (3, 4, 3), np.uint8)


def test_the_walks_are_of_the_published_networks(content, study):
    for network in content["networks"]:
        folder = study.record(network["run"]).folder
        stored = files.sha256(folder / "weights.safetensors")
        assert stored == network["weights"], "run: python -m tools.boundary"
    strengths = [network["strength"] for network in content["networks"]]
    assert len(strengths) > 1 and strengths == sorted(strengths)
    assert content["title"] == study.title


def test_the_boundary_on_a_walk_is_where_the_recorded_margin_says(content, study):
    for place, network in enumerate(content["networks"]):
        arrays = study.arrays(network["run"])
        for image in content["images"]:
            one = image["walks"][place]
            recorded = 255 * arrays["instance_margin|test"][image["index"]]
            assert one["recorded"] == pytest.approx(recorded, rel=1e-4)
            assert one["margin"] == pytest.approx(arrays["margin|test"][image["index"]], rel=1e-4)
            # weights are published in half precision; an attack may end at another corner
            assert one["nearest"] == pytest.approx(recorded, rel=0.02)
            assert one["crossing"] == pytest.approx(one["nearest"], rel=0.005)
            assert one["lead"][0] == pytest.approx(one["margin"], rel=0.02)
            assert one["crossing"] < image["reach"]
            away = walk.distances(image["reach"]).numpy()
            wrong = np.array(one["answer"]) != image["label"]
            assert ((np.array(one["lead"]) < 0) == wrong).all()
            assert not wrong[away < one["crossing"]].any()


def test_the_images_are_those_that_the_rule_chooses(content, study):
    known = [study.arrays(n["run"])["instance_margin|test"] for n in content["networks"]]
    right = np.all([values[: content["candidates"]] > 0 for values in known], axis=0)
    try:
        test = data.load(content["dataset"], device="cpu").test
    except InputError as error:
        pytest.skip(str(error))
    seen, chosen = set(), []
    for index in np.flatnonzero(right):
        if int(test.y[index]) not in seen:
            seen.add(int(test.y[index]))
            chosen.append(int(index))
    assert [image["index"] for image in content["images"]] == chosen[:8]
    for image in content["images"]:
        pixels = walk._array(image["pixels"], content["shape"], np.uint8)
        assert (pixels == test.pixels[image["index"]].numpy()).all()
        assert image["label"] == test.y[image["index"]]


@pytest.mark.slow
def test_the_networks_answer_on_the_walk_what_the_record_says(content, study):
    compared = 0
    for stored, again in boundary.measured_again(study, content):
        scale = max(map(abs, stored["lead"]))
        assert np.allclose(stored["lead"], again["lead"], rtol=1e-3, atol=1e-3 * scale)
        # at a kink of a ReLU the slope may be that of the other side
        close = np.isclose(stored["slope"], again["slope"], rtol=1e-2, atol=1e-3 * scale)
        assert close.mean() > 0.95
        assert again["crossing"] == pytest.approx(stored["crossing"], rel=1e-3)
        compared += 1
    assert compared == len(content["images"]) * len(content["networks"])


def test_a_damaged_walk_is_refused(content, tmp_path):
    where = tmp_path / "walk.json"
    files.write_text(where, tool.text(content))
    assert boundary.read(where) == content, "the tool's layout is JSON of the same content"
    changed = copy.deepcopy(content)
    changed["images"][0]["walks"][0]["crossing"] += 1
    files.write_text(where, tool.text(changed))
    with pytest.raises(RecordError, match="checksum"):
        boundary.read(where)
    files.write_json(where, {"format": 0})
    with pytest.raises(RecordError, match=r"tools\.boundary"):
        boundary.read(where)


def test_a_study_without_weights_of_two_strengths_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(InputError, match="publish some"):
        walk.networks(studies.load("cifar10-resnet56", tmp_path))
    assert tool.main(["cifar10-resnet56"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert tool.main(["--help"]) == 2


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--<script>", "\u2028\u2029&amp;", "é'\"\\"]
)
def test_nothing_in_the_json_ends_its_tag(text):
    tag = page.inlined("x-1", {"a": text, text: [1.5, None]})
    body = tag.removeprefix('<script type="application/json" id="x-1">').removesuffix("</script>")
    assert not set("<>&\u2028\u2029") & set(body)
    assert json.loads(body) == {"a": text, text: [1.5, None]}


def test_what_is_no_json_or_no_id_is_refused():
    for name, value in (("x", float("nan")), ("x", float("inf")), ('x"><script>', 1)):
        with pytest.raises(ValueError):
            page.inlined(name, value)


def test_names_reach_the_markup_escaped(content, study):
    planted = copy.deepcopy(content)
    planted["classes"] = [f'<img src=x onerror="{name}">' for name in content["classes"]]
    markup = page.walk_panel(planted, study)
    assert "<img src=x" not in markup and "&lt;img src=x onerror=" in markup


def test_histograms_hold_every_image_in_common_bins():
    groups = [np.array([-100.0, 0.0, 1.0, 2.0]), np.linspace(0, 3, 1000)]
    result = page.histogram(groups)
    assert [sum(counts) for counts in result["counts"]] == [4, 1000]
    assert len(result["counts"][0]) == page.BINS and result["low"] < result["high"]
    assert page.histogram(groups, low=0.0)["low"] == 0


def test_the_first_image_shown_is_in_the_middle():
    images = [{"walks": [{"crossing": 1.0}, {"crossing": c}]} for c in (9.0, 2.0, 5.0, 3.0)]
    assert page.typical({"images": images}) == 3


@pytest.fixture(scope="module")
def bench(study) -> Bench:
    return Bench(study)


@pytest.mark.slow
def test_what_is_inlined_is_small(bench, content, study):
    shown = page.inlined("a", page.shown_walk(content, study))
    assert len(shown) + len(page.inlined("b", bench.content())) < 450_000


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [1, 2])
def test_the_declared_choice_gets_the_study_s_own_verdict(bench, study, protocol):
    config = dataclasses.replace(claims.config_of(study), protocol=protocol)
    own = claims.decide(study.records(), config).set_index("claim")
    same = {"C5": "C5a", "C6": "C6a"} if protocol == 2 else {}
    compared = 0
    for item in bench.items:
        row = (
            own.loc[same.get(item.claim.id, item.claim.id)] if item.claim.id in own.index else None
        )
        if item.role != "primary" or row is None or not row["statistic"]:
            continue  # by protocol 1 nothing decides C10
        strength, level = bench.config.effect, 0.05
        result = bench.answer(
            item, strength=strength, seeds=bench.seeds, protocol=protocol, level=level
        )
        assert result.verdict == row["verdict"], item.claim.id
        assert tuple(result.evidence.effect) == (row["effect"], row["low"], row["high"])
        compared += 1
    assert compared >= 7


def test_the_level_widens_intervals_and_asks_more_of_the_trend():
    import synthetic

    from arlib.claims.values import clean, values

    config, claim = claims.Config(), claims.CLAIMS["C1"]
    frame = values(clean(synthetic.records(noise=0.3)), claim.primary)
    result = {
        level: gather(frame, claim.primary, config, level=level) for level in (0.1, 0.05, 0.01)
    }
    for level, evidence in result.items():
        assert evidence.effect == claims.t_interval(evidence.differences, 1 - level)
    assert result[0.1].effect.low > result[0.05].effect.low > result[0.01].effect.low
    clear = SimpleNamespace(
        problem="", effect=claims.Interval(1.0, 0.5, 1.5), trend_p=0.03, trend=1, shares=()
    )
    assert claims.judge(clear, 1) == "supported"
    assert claims.judge(clear, 1, level=0.01) == "undecided"


def test_the_record_is_one_of_the_shipped_records():
    assert walk.path().is_file() and walk.path().stat().st_size < 2 * records.LIMIT


def test_the_judge_s_study_is_the_one_that_the_first_page_shows():
    from bookfiles import ROOT

    from tools import findings

    described = importlib.util.spec_from_file_location("ext", ROOT / "book/_ext/boundary.py")
    extension = importlib.util.module_from_spec(described)
    described.loader.exec_module(extension)
    assert extension.shown_study() == findings.shown()


def test_a_study_that_has_no_record_yet_has_no_panel_and_says_so(tmp_path):
    study = studies.load("cifar10-resnet56", tmp_path)
    markup = boundary.judge_panel(study)
    assert "ar-panel" not in markup and "nothing to judge" in markup
    assert markup.count("not measured") == len(claims.claims_of(study.protocol))
