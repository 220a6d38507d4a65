"""What is said below the table of a benchmark is computed from it, whatever it says."""

import pandas as pd
import pytest

from arlib.tables import benchmarks, sentences

SPECTRA = pd.DataFrame(
    {
        "network": "a net", "layers": 3, "method": ["fft + numpy", "ours"], "wall s": [8.0, 2.0],
        "cpu s": [9.0, 3.0], "error": [0.0, 2e-13],
    }
)  # fmt: skip
RATES = pd.DataFrame(
    {"network": ["x", "x", "x", "y"], "loop": ["plain", "ours a", "ours b", "ours a"],
     "images/s": [200.0, 100.0, 150.0, 2.5]}
)  # fmt: skip
KILLED = pd.DataFrame(
    {"what": ["one", "two"], "kills": [10, 5], "ends": [3, 2], "ends that differ": [0, 1],
     "failed starts": [2, 0], "left running": [0, 4]}
)  # fmt: skip
EVALUATED = pd.DataFrame(
    {"network": "n", "attack": ["evaluate", "evaluate", "apgd-ce"], "n": [64, 64, 64],
     "by": ["ours bare", "theirs", "theirs"], "ours broke more": [0, 2, 1],
     "ours broke fewer": [0, 0, 3], "images/s": [1.5, 3.0, 9.0]}
)  # fmt: skip
SHOWN = {
    "spectra": (SPECTRA, "all 3 convolutions of a net 4.0 times as fast as FFT + numpy (3.0 times "
                "in processor time), error 2e-13 of the largest value"),
    "a rival is fastest": (RATES, "x, fastest: plain, 200 images/s, 1.33 times as fast as ours b; "
                           "y, fastest: ours a, 2.5 images/s"),
    "kills": (KILLED, "after 15 kills, 1 of 5 ends differ from an undisturbed one; 2 starts "
              "failed, 4 processes were left running"),
    "chapters": (pd.DataFrame({"chapter": ["a", "b"], "runs": [3, 2], "done": [3, 1],
                               "tried again": [1, 0], "printed otherwise": [0, 1]}),
                 "of 5 runs of 2 chapters 4 ended well, 1 of them at another try; 1 printed "
                 "something else than their equals"),
    "evaluation": (EVALUATED, "of 128 comparisons of an image with another library, ours alone "
                   "breaks 3, the other alone 3; whole evaluation of n, fastest: theirs, 3 "
                   "images/s, 2.00 times as fast as ours bare"),
    "budgets": (pd.DataFrame({"network": ["a", "b"], "images": [1000, 1000], "right": [600, 500],
                              "left by full": [100, 300], "left by standard": [101, 298],
                              "only full breaks": [2, 0], "only standard breaks": [1, 2],
                              "factor": [3.25, 4.0]}),
                "the standard budget is at most 0.1 points weaker than the full one on 2 networks "
                "(of 1,100 right images 2 fall to the full one alone, 3 to the standard one "
                "alone), and 3.2 to 4.0 times as fast"),
    "scaling": (pd.DataFrame({"K": [1, 10], "images/s": [1000.0, 250.0], "of ceiling": 0.3}),
                "from attack steps 1 to 10, images per second go from 1,000 to 250 (× 0.25)"),
    "together": (pd.DataFrame({"way": ["processes", "vectorised"], "runs": [2, 4],
                               "× one alone": [0.9, 0.8], "images/s": [9.0, 8.0]}),
                 "most images per second with 2 runs, processes: 0.90 times those of one run "
                 "alone"),
    "growth": (pd.DataFrame({"asked": ["records", "verdicts"], "exponent": [1.2, 0.9]}),
               "no cost grows faster than runs to the power 1.20 (records)"),
    "workers": (pd.DataFrame({"workers": [1, 16], "file operations a run": [50.0, 90.4]}),
                "a run costs 50 file operations with 1 worker and 90 with 16"),
    "compared": (pd.DataFrame({"quantity": ["a", "b"], "verdict": ["equivalent", "not shown"]}),
                 "1 of 2 quantities are equivalent"),
    "gradients": (pd.DataFrame({"passes": ["ours folded", "ours folded bfloat16"],
                                "relative error": [1e-6, 2e-2], "signs differing": 0}),
                  "largest relative error 1.0e-06 in passes in float32, 2.0e-02 in passes in "
                  "bfloat16"),
    "what only lists": (pd.DataFrame({"ceiling": ["copy"], "value": [3.0]}), ""),
    "nothing in it": (RATES.iloc[:0], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_table_shows(name):
    table, expected = SHOWN[name]
    assert sentences.sentence(table) == expected


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in benchmarks.folders()[0].glob("*.json"))
)
def test_every_recorded_table_has_a_sentence_or_only_lists(name):
    for title, table in benchmarks.benchmark(name)["tables"].items():
        assert sentences.sentence(table) or title in ("ceilings", "pairs"), title


def test_what_a_file_of_results_says_is_no_markup(monkeypatch):
    hostile = "<script>x</script>"
    rates = RATES.assign(loop=[hostile, "b", "ours", "ours"], network=hostile)
    shown = benchmarks._folded(hostile, rates)
    assert "<script" not in shown and shown.count("&lt;script") >= 4


def test_a_table_opens_on_demand_below_what_it_shows(monkeypatch):
    monkeypatch.setattr(
        benchmarks, "benchmark", lambda name: {
            "machine": {"processor": "P", "cores": 2, "threads": 1, "load": 0.0, "torch": "2"},
            "date": "2026-01-02", "command": "python -m x", "notes": {}, "tables": {"rates": RATES},
        },
    )  # fmt: skip
    place, told, opens, table, closes = benchmarks.text("any", "cpu").split("\n\n")
    assert place == "P, 2 cores, 1 thread, torch 2, 2026-01-02. Command: `python -m x`"
    assert told == f"**Rates.** *Finding:* {SHOWN['a rival is fastest'][1]}."
    assert opens == "<details><summary>The table</summary>" and closes == "</details>"
    assert table.startswith("| network | loop |")
