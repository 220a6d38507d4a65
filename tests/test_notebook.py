import copy
import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
from bookfiles import ROOT

from arlib import notebook
from arlib.errors import InputError, NotMeasured, one_of


def parameters(**changed):
    """A chapter's globals after its parameters cell, as Jupyter leaves them,
    and after papermill's.
    """
    namespace = {"In": [""], "Out": {}, "_dh": [], "notebook": notebook, "exit": object()}
    exec(
        'study: str = "digits"\ndevice: str = "cpu"\nstore: str = ""\neps: float = 0.03\nepochs: '
        "int = 2\n"
        "run_missing: bool = False\nstrengths: list[float] = [0, 4, 8]\nlimit: int | None = None",
        namespace,
    )
    return namespace | changed


def check(namespace):
    notebook.check(namespace, limit=(1, 100))


def test_parameters_of_the_right_kind_pass():
    check(parameters())
    check(parameters(eps=0, limit=5, strengths=[0.5]))
    check(parameters(eps=1))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"eps": -0.1}, "eps is -0.1; allowed: 0 to 1"),
        ({"eps": 8}, "AR strength 8 is 8/255"),
        ({"eps": float("nan")}, "eps is nan"),
        (
            {"eps": "8/255"},
            "eps is '8/255'; it must be a number (papermill passes an expression as text",
        ),
        ({"eps": True}, "it must be a number"),
        ({"epochs": 2.5}, "epochs is 2.5; it must be a whole number"),
        ({"epochs": 0}, "epochs is 0; allowed: at least 1"),
        ({"epochs": True}, "it must be a whole number"),
        ({"run_missing": "yes"}, "it must be true or false"),
        ({"run_missing": 1}, "it must be true or false"),
        ({"strengths": "0,4"}, "it must be a list of numbers"),
        ({"strengths": [0, "4"]}, "it must be a list of numbers"),
        ({"strengths": [0, 256]}, "strengths is 256; allowed: 0 to 255"),
        ({"limit": 101}, "limit is 101; allowed: 1 to 100"),
        ({"limit": "all"}, "it must be a whole number or None"),
        ({"device": "cuda:99"}, "device is 'cuda:99', but torch sees"),
        ({"device": "gpu"}, "device is 'gpu'; allowed"),
        ({"store": "runs"}, "absolute path"),
        ({"store": __file__ + "/runs"}, "nothing can be written"),
        ({"epoch": 3}, "parameter is 'epoch'; allowed: study, device, store, eps, epochs"),
    ],
)
def test_bad_parameters_are_one_message(changed, message):
    with pytest.raises(notebook.ChapterStopped) as stopped:
        check(parameters(**changed))
    assert message in str(stopped.value)
    assert isinstance(stopped.value, InputError)
    assert stopped.value._render_traceback_() == [f"ChapterStopped: {stopped.value}"]


def test_unknown_names_get_a_suggestion():
    with pytest.raises(InputError, match=r"Did you mean 'epochs'\?"):
        check(parameters(epoch=3))


def test_unknown_study_lists_the_studies(tmp_path):
    shutil.copy(ROOT / "studies" / "digits.yml", tmp_path / "mine.yml")
    namespace = parameters(store=str(tmp_path))
    exec('study: str = "mine"', namespace)
    check(namespace)
    with pytest.raises(InputError, match=r"study is 'min'; allowed: .*mine.*Did you mean 'mine'"):
        check(namespace | {"study": "min"})


def test_a_corrected_cell_runs_again_in_the_same_kernel():
    namespace = parameters(epoch=3)
    with pytest.raises(InputError):
        check(namespace)
    assert "epoch" not in namespace
    check(namespace)


def test_what_the_chapter_computed_is_no_parameter_when_cells_are_rerun():
    namespace = parameters()
    check(namespace)
    namespace |= {"table": [1, 2], "accuracy": 0.5}
    check(namespace)
    namespace["eps"] = -1
    with pytest.raises(InputError):
        check(namespace)


def test_a_misspelt_declaration_is_found():
    namespace = parameters()
    exec("epocs: int = 3", namespace)
    with pytest.raises(InputError, match="epocs is not a parameter"):
        check(namespace)
    check(namespace)


def cell(*dropped, **renamed):
    """The parameters cell as source, without some lines, with some names misspelt."""
    lines = {
        "study": 'study: str = "digits"',
        "device": 'device: str = "cpu"',
        "store": 'store: str = ""',
        "run_missing": "run_missing: bool = True",
        "limit": "limit: int | None = None",
    }
    kept = [
        line.replace(name, renamed.get(name, name), 1)
        for name, line in lines.items()
        if name not in dropped
    ]
    return "\n".join(kept)


@pytest.mark.parametrize(
    "right, typo", [("study", "studdy"), ("run_missing", "run_mising"), ("limit", "limits")]
)
@pytest.mark.parametrize("live", [False, True])
def test_a_misspelt_declaration_gets_a_suggestion(right, typo, live):
    namespace = {}
    if live:  # a kernel in which the cell was run before
        exec(cell(), namespace)
        check(namespace)
    exec(cell(**{right: typo}), namespace)
    with pytest.raises(
        InputError, match=f"{typo} is not a parameter of this chapter. Did you mean '{right}'"
    ):
        check(namespace)
    assert right not in namespace and typo not in namespace, (
        "neither the typo nor the old value goes on"
    )
    exec(cell(), namespace)
    check(namespace)
    assert right in namespace


@pytest.mark.parametrize("live", [False, True])
def test_a_deleted_line_means_the_default_or_a_message(live, capsys):
    namespace = {}
    if live:
        exec(cell(), namespace)
        check(namespace)
    for name, default in notebook.DEFAULTS.items():
        exec(cell(name), namespace)
        check(namespace)
        assert namespace[name] == default
        assert (
            capsys.readouterr().out
            == f"{name} has no line in the parameters cell: {default!r} is used.\n"
        )
    for name in ("study", "limit"):
        exec(cell(name), namespace)
        for _ in range(2):  # the message stays until the line is back
            with pytest.raises(
                InputError, match=f"{name} has no line in the parameters cell; put it back"
            ):
                check(namespace)
            assert name not in namespace
        exec(cell(), namespace)
        check(namespace)
        assert namespace["run_missing"] is True
    assert capsys.readouterr().out == ""


def test_the_check_alone_can_run_again_whatever_else_was_annotated_since():
    namespace = {}
    exec(cell(), namespace)
    check(namespace)
    exec("mine: int = 3", namespace)
    check(namespace)
    assert namespace["study"] == "digits" and namespace["mine"] == 3


def test_a_declaration_without_value():
    namespace = parameters()
    exec("seed: int", namespace)
    with pytest.raises(InputError, match="seed is declared"):
        check(namespace)


def test_rules_a_chapter_declares():
    namespace = {"__annotations__": {"study": str, "layer": str, "width": int}}
    namespace |= {"study": "digits", "layer": "stem", "width": 8}

    def even(value):
        if value % 2:
            raise InputError("width must be even.")

    notebook.check(copy.deepcopy(namespace), layer=["stem", "head"], width=even)
    with pytest.raises(InputError, match="layer is 'stem'; allowed: head"):
        notebook.check(copy.deepcopy(namespace), layer=["head"])
    with pytest.raises(InputError, match="even"):
        notebook.check(namespace | {"width": 3}, layer=["stem"], width=even)


class FakeStudy(SimpleNamespace):
    def missing(self):
        return self.gone

    def records(self):
        return pd.DataFrame({"run": self.have})

    def run(self, device):
        self.have, self.gone, self.ran = self.have + self.gone, [], device


def study(have, gone):
    return FakeStudy(
        name="small", toy=True, cost="two hours.", entries=[*have, *gone], have=have, gone=gone
    )


def test_records_or_explain(capsys):
    assert list(notebook.records_or_explain(study(["a"], ["b"]))["run"]) == ["a"]
    assert capsys.readouterr().out == "Study small: 1 of 2 runs recorded.\n"
    with pytest.raises(
        notebook.ChapterStopped, match=r"2 runs cost: two hours\. Run .*arlib study run small"
    ):
        notebook.records_or_explain(study([], ["a", "b"]))
    asked = study([], ["a"])
    assert list(notebook.records_or_explain(asked, run_missing=True, device="cpu")["run"]) == ["a"]
    assert asked.ran == "cpu"


def test_verdict_is_the_computed_row(monkeypatch):
    from arlib import claims

    rows = {
        "claim": ["C1", "C2"],
        "title": ["degradation", "gap"],
        "verdict": ["supported", "mixed"],
        "note": ["x.", "y."],
    }
    monkeypatch.setattr(claims, "verdicts", lambda study: pd.DataFrame(rows), raising=False)
    monkeypatch.setattr(notebook, "glue", lambda name, value: glued.append(name))
    glued = []
    verdict = notebook.verdict("C2", study(["a"], []))
    assert verdict.data == "**C2 gap: mixed** (study `small`, a toy). y."
    assert glued == ["verdict_C2"]
    with pytest.raises(InputError, match="claim is 'C9'"):
        notebook.verdict("C9", study(["a"], []))


def test_if_measured_says_what_is_missing_and_hides_no_mistake():
    assert notebook.if_measured(lambda a, b: a + b, 1, b=2) == 3

    def lacks():
        raise NotMeasured("no spectra of operator 'zeros'.")

    assert (
        notebook.if_measured(lacks).data
        == "*Not measured in this study: no spectra of operator 'zeros'.*"
    )
    with pytest.raises(InputError):
        notebook.if_measured(one_of, "x", 1, [2])


def test_table_is_whole_and_says_when_it_is_empty():
    frame = pd.DataFrame({"words": ["x" * 80]}, index=pd.Index(["a"], name="row"))
    assert (
        notebook.table(lambda: frame).data
        == "| row | words |\n| --- | --- |\n| a | " + "x" * 80 + " |"
    )
    assert notebook.table(lambda: frame.iloc[:0]).data == "*Not measured in this study.*"
    told = frame.copy()
    told.attrs["finding"] = "All are <b>."
    assert notebook.table(lambda: told).data.endswith("|\n\n*Finding:* All are &lt;b>.")

    def lacks():
        raise NotMeasured("no margins.")

    assert notebook.table(lacks).data == "*Not measured in this study: no margins.*"


def test_expect_prints_the_range_and_never_the_value(capsys):
    notebook.expect("gap", 3.14, -2, 8, unit=" points")
    assert capsys.readouterr().out == "gap: ≈ 3.14 points\n"
    notebook.expect("gap", -0.0251, -2, 8, unit=" - %")
    assert capsys.readouterr().out == "gap: ≈ −0.0251 - %\n"
    with pytest.raises(AssertionError, match=r"gap: 3\.14; expected 4 to 8"):
        notebook.expect("gap", 3.14, 4, 8)
    notebook.expect("gap", 3.14159, 4, 8, as_written=False)
    assert "gap: ≈ 3.14 (with other parameters" in capsys.readouterr().out


def test_stamp_is_one_line_that_nbval_sanitises(capsys):
    import configparser
    import re
    from pathlib import Path

    notebook.stamp()
    (line,) = capsys.readouterr().out.splitlines()
    rules = configparser.RawConfigParser()
    rules.read(Path(__file__).with_name("nbval_sanitize.cfg"))
    assert (
        re.sub(rules["environment"]["regex"], rules["environment"]["replace"], line)
        == "ENVIRONMENT"
    )


def test_setup_cell_is_valid_and_carries_the_address(monkeypatch):
    compile(notebook.setup_cell(), "setup", "exec")
    assert '"git+https://example.org/a/b"' in notebook.setup_cell("https://example.org/a/b")
    namespace = {}
    exec(notebook.setup_cell(), namespace)
    assert namespace["notebook"] is notebook
    assert [n for n in namespace if not n.startswith("_")] == ["notebook"]
    json.dumps(notebook.setup_cell())
