import json
import logging
import os
import signal
import subprocess
import sys
import time

import pytest
from test_studies import ROOT, TINY, a_study, fake, run

from arlib import __version__, claims, cli, data, fields, files, records, studies, training
from arlib.cli import loudness, options
from arlib.errors import InputError
from arlib.processes import kill


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with the study `tiny` in it, used by default."""
    monkeypatch.setenv("ARLIB_STORE", str(tmp_path))
    (tmp_path / "tiny.yml").write_text(TINY)
    return tmp_path


def arlib(monkeypatch, capsys, *words):
    """Run the command in this process; returns exit status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["arlib", *map(str, words)])
    former = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, former)
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9m", 540), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("1h1m1s", 3661), (None, None)],
)
def test_times_are_read_as_people_write_them(text, expected):
    assert cli.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "9", "9 minutes", "m", "-5s", "0s", "1.2.3s", "5m1h"])
def test_other_times_are_refused(text):
    with pytest.raises(InputError, match="9m, 1h30m or 90s"):
        cli.seconds(text)


def test_help_teaches(monkeypatch, capsys):
    for words, message in [
        (["--help"], ["study", "batch", "data", "verdicts", "train"]),
        (["study", "--help"], ["list", "show", "run", "status", "publish", "use", "missing"]),
        (["study", "run", "--help"], ["--time-budget", "9m", "--jobs", "they share the runs"]),
        (["batch", "--help"], ["--grid", "--retries", "papermill"]),
    ]:
        status, out, _ = arlib(monkeypatch, capsys, *words)
        assert status == 0 and all(word in out for word in message), (words, out)


def test_mistakes_are_one_line_with_exit_status_2(monkeypatch, capsys, store):
    (store / "typo.yml").write_text(TINY.replace("epochs", "epoch"))
    for words, message in [
        (["study", "run", "digitz"], "Did you mean 'digits'?"),
        (["study", "show", "typo"], "typo.yml, line 10: recipe.epoch"),
        (["study", "run", "tiny", "--time-budget", "soon"], "9m, 1h30m or 90s"),
        (["study", "run", "tiny", "--jobs", "0"], "above 0"),
        (["data", "mnist"], "allowed: digits, cifar10, cifar100"),
        (["train", "digits", "--strength", "300"], "eps is"),
        (["batch", "marginz"], "chapter is 'marginz'"),
        (["verdicts", "nothing"], "study is 'nothing'"),
    ]:
        status, out, err = arlib(monkeypatch, capsys, *words)
        assert status == 2 and out == "", words
        assert err.startswith("arlib: ") and err.count("\n") == 1 and message in err, err


def test_list_show_status_and_missing(monkeypatch, capsys, store):
    status, out, _ = arlib(monkeypatch, capsys, "study", "list")
    assert status == 0 and "tiny                         0 of   4 runs recorded (toy)" in out
    status, out, _ = arlib(monkeypatch, capsys, "study", "show", "tiny")
    assert status == 0 and "model resnet8" in out and "cost: seconds" in out
    status, out, _ = arlib(monkeypatch, capsys, "study", "status", "tiny")
    assert status == 0 and out.count("missing") == 4 and "0 of 4 runs of tiny are done" in out
    status, out, _ = arlib(monkeypatch, capsys, "study", "missing", "tiny")
    assert status == 1 and out.split() == [entry.run for entry in studies.load("tiny").entries]


def test_a_broken_study_does_not_hide_the_others(monkeypatch, capsys, store):
    (store / "typo.yml").write_text("title: 3")
    status, out, err = arlib(monkeypatch, capsys, "study", "list")
    assert status == 2 and "tiny" in out and "digits" in out and "typo.yml, line 1" in err


def test_run_publish_and_damage(monkeypatch, capsys, store):
    monkeypatch.setattr("arlib.studies.run.compute", fake)
    status, out, _ = arlib(
        monkeypatch, capsys, "study", "run", "tiny", "--device", "cpu", "--time-budget", "1m"
    )
    assert status == 0 and "tiny: 4 of 4 runs are done" in out and "nothing is missing" in out
    assert arlib(monkeypatch, capsys, "study", "missing", "tiny")[0] == 0
    status, out, _ = arlib(monkeypatch, capsys, "study", "publish", "tiny", "--to", store / "kept")
    assert (
        status == 0
        and "4 new records of tiny" in out
        and len(list((store / "kept" / "tiny").iterdir())) == 4
    )
    path = store / "tiny" / studies.load("tiny").entries[0].run / "record.json"
    path.write_text(path.read_text()[:-40])
    status, out, err = arlib(monkeypatch, capsys, "study", "run", "tiny", "--device", "cpu")
    assert status == 2 and str(path) in err and err.count("\n") == 1
    status, out, _ = arlib(monkeypatch, capsys, "study", "status", "tiny")
    assert status == 0 and out.count("damaged") >= 1 and "3 of 4" in out


def test_use_sets_the_study_of_every_chapter(monkeypatch, capsys, store):
    used = []
    monkeypatch.setattr(
        "arlib.chapters.use_study",
        lambda name, fits: used.append(name) or [ROOT / "book" / "margins.ipynb"],
    )
    status, out, _ = arlib(monkeypatch, capsys, "study", "use", "tiny")
    assert (status, used, out.strip()) == (0, ["tiny"], str(ROOT / "book" / "margins.ipynb"))
    assert arlib(monkeypatch, capsys, "study", "use", "tinny")[0] == 2 and used == ["tiny"]


def test_use_leaves_a_chapter_about_fronts_with_its_study(monkeypatch, capsys, store):
    fitting = {}
    monkeypatch.setattr(
        "arlib.chapters.use_study",
        lambda name, fits: (
            fitting.update({name: (fits("fronts"), fits("digits"), fits("gone"))}) or []
        ),
    )
    for name in ("cifar10-resnet20", "fronts"):
        assert arlib(monkeypatch, capsys, "study", "use", name)[0] == 0
    assert fitting == {"cifar10-resnet20": (False, True, True), "fronts": (True, False, True)}


def test_data_says_what_is_there(monkeypatch, capsys, tmp_path):
    status, out, _ = arlib(monkeypatch, capsys, "data", "digits")
    assert status == 0 and f"train {len(data.load('digits').train):,}, val" in out
    status, _, err = arlib(monkeypatch, capsys, "data", "cifar10", "--root", tmp_path)
    assert status == 2 and str(tmp_path) in err and err.count("\n") == 1


def test_train_keeps_its_network_in_the_store_and_goes_on(monkeypatch, capsys, store):
    words = [
        "train",
        "digits",
        "--model",
        "resnet8",
        "--width",
        4,
        "--epochs",
        2,
        "--device",
        "cpu",
    ]
    status, out, _ = arlib(monkeypatch, capsys, *words)
    assert status == 0 and "2 of 2 epochs" in out
    (folder,) = (store / "single").iterdir()
    assert (folder / "last.safetensors").exists() and files.read_json(folder / "recipe.json")[
        "width"
    ] == 4


@pytest.mark.slow
def test_verdicts_of_a_study_without_records(monkeypatch, capsys, store):
    status, out, _ = arlib(monkeypatch, capsys, "verdicts", "tiny")
    assert status == 0 and "not measured" in out and "toy" in out


@pytest.fixture
def processes():
    """Processes that a test starts; neither they nor theirs outlive it."""
    started = []
    yield started
    for process in started:
        kill(process)
        process.stderr.close()


def start(processes, *words, store):
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    given = {"PYTHONPATH": paths, "ARLIB_STORE": str(store), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "arlib", *map(str, words)]

    # As in a terminal: under `nohup … &` Ctrl-C's signal is ignored,
    # and children would inherit that.
    def listening():
        return signal.signal(signal.SIGINT, signal.SIG_DFL)

    options = {"stderr": subprocess.PIPE, "text": True, "preexec_fn": listening}
    processes.append(subprocess.Popen(command, env=os.environ | given, **options))
    return processes[-1]


def wait_until(condition, seconds=300.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.05)


QUICK = """
measure: {adversarial_images: 8, jacobian_images: 2, feature_images: 32, flip_radii: [4],
  flip_images_main: 8, flip_images: 8, flip_draws: 1, robust_images: 8, strong_images: 4,
  instance_images: 2, instance_steps: 2, along_images: 32, bn_images: 64}
"""
LONG = QUICK + TINY.replace("epochs: 3", "epochs: 30").replace("[0, 1]", "[0]").replace(
    "[0, 32]", "[32]"
)


@pytest.mark.slow
def test_a_real_study_survives_kill_9_and_ctrl_c_and_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path, monkeypatch, processes
):
    monkeypatch.delenv("ARLIB_STORE", raising=False)
    shaken, calm = (a_study(tmp_path / name, LONG) for name in ("shaken", "calm"))

    def run(study):
        return start(
            processes, "study", "run", study.path, "--device", "cpu", store=study.places.store
        )

    def begun():
        return shaken.history_so_far(shaken.entries[0].run)

    first = run(shaken)
    wait_until(lambda: begun() is not None and len(begun()) >= 2)
    first.kill()
    first.communicate()
    epochs = len(begun())
    second = run(shaken)
    wait_until(lambda: begun() is None or len(begun()) > epochs)
    second.send_signal(signal.SIGINT)
    assert "goes on from here" in second.communicate()[1] and second.returncode == 130
    for study in (shaken, calm):
        third = run(study)
        log = third.communicate()[1]
        assert third.returncode == 0, log
    for entry in calm.entries:
        ours, theirs = ((study.folder / entry.run / "last.safetensors") for study in (shaken, calm))
        a, b = files.read_tensors(ours), files.read_tensors(theirs)
        assert all((a[name] == b[name]).all() for name in b)
    assert len(shaken.histories()) == len(calm.histories()) == 30
    assert not list(shaken.work_folder.iterdir())


@pytest.mark.slow
def test_jobs_share_a_real_study_and_every_number_of_the_record_is_there(
    tmp_path, monkeypatch, processes
):
    monkeypatch.delenv("ARLIB_STORE", raising=False)
    study = a_study(tmp_path, TINY + QUICK)
    process = start(
        processes,
        "study",
        "run",
        study.path,
        "--jobs",
        2,
        "--device",
        "cpu",
        store=study.places.store,
    )
    log = process.communicate()[1]
    assert process.returncode == 0, log
    for entry in study.entries:
        assert log.count(f"tiny: {entry.run}\n") == 1  # begun once, by one worker
        assert records.size(study.folder / entry.run) <= records.LIMIT
    frame = study.records()
    assert frame.groupby("run").size().nunique() <= 2 and frame["run"].nunique() == 4
    assert {"error", "median_abs_margin", "feature_change", "flip_rate", "sv_std"} <= set(
        frame["statistic"]
    )


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_finished_runs_stay(tmp_path, monkeypatch):
    monkeypatch.delenv("ARLIB_STORE", raising=False)
    study = a_study(tmp_path)
    first = study.entries[0]
    run(study, compute=lambda s, e, f, **k: e == first and fake(s, e, f, **k))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    limited = f"{limit}; from arlib.cli import main; main()"
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            limited,
            "study",
            "run",
            study.path,
            "--store",
            study.places.store,
            "--device",
            "cpu",
        ],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2 and "Traceback" not in process.stderr
    *before, last = process.stderr.splitlines()
    assert last.startswith("arlib: ") and before[-1].startswith("Stopped; what is done is kept")
    assert [e.run for e in study.missing()] == [e.run for e in study.entries[1:]] and len(
        study.records()
    ) == 1
    assert not list(study.leases_folder.glob("*.json"))


def test_every_field_of_a_recipe_is_an_option_with_its_own_help(monkeypatch, capsys):
    _, out, _ = arlib(monkeypatch, capsys, "train", "--help")
    help_text = " ".join(out.split())
    for name, text in fields.docs(training.Recipe).items():
        if name not in ("dataset", "eps", "step_size"):
            assert f"--{name.replace('_', '-')} <" in help_text, name
            # the help breaks words at hyphens, and lines where it likes
            first = " ".join(text.split(";")[0].split(":")[0].split())
            assert first.replace("-", "") in help_text.replace("- ", "").replace("-", ""), name


def test_help_needs_no_torch():
    code = (
        "import sys, arlib.cli.program; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_version_is_the_package_s(monkeypatch, capsys):
    assert arlib(monkeypatch, capsys, "--version") == (0, f"arlib {__version__}\n", "")


def test_json_says_what_the_tables_say(monkeypatch, capsys, store):
    def json_of(*words):
        return json.loads(arlib(monkeypatch, capsys, *words, "--json")[1])

    listed = {study["name"]: study for study in json_of("study", "list")}
    assert listed["tiny"]["runs"] == 4 and listed["tiny"]["done"] == 0 and listed["tiny"]["toy"]
    status = json_of("study", "status", "tiny")
    assert status["study"] == "tiny" and status["done"] == 0 and len(status["runs"]) == 4
    first = status["runs"][0]
    assert (first["state"], first["epochs_done"], first["epochs"]) == ("missing", 0, 3)
    assert first["minutes"] is None  # not NaN, which no other language reads


@pytest.mark.slow
def test_verdicts_as_json_are_those_of_the_claims(monkeypatch, capsys):
    monkeypatch.delenv("ARLIB_STORE", raising=False)
    printed = json.loads(arlib(monkeypatch, capsys, "verdicts", "digits", "--json")[1])
    table = claims.verdicts(studies.load("digits"))
    assert printed["study"] == "digits" and printed["toy"] and printed["protocol"] == 1
    assert [row["verdict"] for row in printed["verdicts"]] == list(table["verdict"])
    assert [row["claim"] for row in printed["verdicts"]] == list(table["claim"])


@pytest.mark.parametrize("mistyped", ["rnus", "runs/no/such"])
def test_a_mistyped_store_is_said(monkeypatch, capsys, tmp_path, mistyped):
    (tmp_path / "runs").mkdir()
    wrong = tmp_path / mistyped
    for words in (["list"], ["show", "digits"], ["status", "digits"], ["missing", "digits"]):
        status, out, err = arlib(monkeypatch, capsys, "study", *words, "--store", wrong)
        assert (status, out) == (2, "") and f"store is '{wrong}'" in err
    assert f"Did you mean '{tmp_path / 'runs'}'?" in err or "Nor is there" in err
    assert not wrong.exists()


def test_a_new_store_of_a_run_is_said(tmp_path, caplog):
    (tmp_path / "runs").mkdir()
    with caplog.at_level("INFO"):
        options.made_if_new(tmp_path / "runs")
        assert not caplog.text
        options.made_if_new(tmp_path / "rnus")
    assert "is new" in caplog.text and f"Did you mean '{tmp_path / 'runs'}'?" in caplog.text


@pytest.mark.slow
def test_quiet_and_verbose_stand_before_or_after_the_command(store):
    def stderr_of(*words):
        command = [sys.executable, "-m", "arlib", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stderr

    plain = ("study", "status", "digits")
    assert stderr_of(*plain) == ""
    for words in (("-v", *plain), (*plain, "-v"), (*plain, "--verbose")):
        assert "store: " in stderr_of(*words) or "arlib " in stderr_of(*words)
    assert "Traceback" in stderr_of("study", "status", "digitz", "-v")
    assert stderr_of("-q", "study", "status", "digitz").startswith("arlib: study is 'digitz'")
    assert "keep one" in stderr_of("study", "status", "digits", "-q", "-v")


def test_quiet_shows_no_bars_and_no_progress(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    loudness.set_up()
    assert loudness.bars() and not loudness.bars(False)
    loudness.say(quiet=True, verbose=False)
    assert not loudness.bars() and loudness.bars(True)
    assert not logging.getLogger("arlib.training.loop").isEnabledFor(logging.INFO)
    loudness.set_up()
    assert loudness.bars()


def test_a_shell_completes_the_names_of_studies(store):
    given = {"ARLIB_STORE": str(store), "_ARLIB_COMPLETE": "complete_bash"}
    given |= {"COMP_WORDS": "arlib study status ti", "COMP_CWORD": "3"}
    code = "import sys; sys.argv = ['arlib']; from arlib.cli import main; main()"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | given, capture_output=True, text=True
    )
    assert ended.stdout.split() == ["tiny"], ended.stderr


def test_a_log_has_a_line_an_epoch_and_a_terminal_a_bar(caplog, capsys):
    recipe = training.Recipe(dataset="digits", model="resnet8", width=4, epochs=2, train_images=64)
    with caplog.at_level("INFO"):
        training.train(recipe, device="cpu", progress=False)
    lines = [line for line in caplog.messages if "epoch" in line]
    assert [line.split(",")[0] for line in lines] == [
        f"{recipe.id}: epoch 1 of 2",
        f"{recipe.id}: epoch 2 of 2",
    ]
    assert "validation error 0." in lines[0] and "attack" not in lines[0]
    caplog.clear()
    with caplog.at_level("INFO"):
        training.train(recipe, device="cpu", progress=True)
    assert not [line for line in caplog.messages if "epoch" in line]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a terminal of Unix")
def test_nothing_is_coloured_on_a_terminal(store):
    for words in (["--help"], ["study", "list"], ["study", "lst"], ["study", "status", "digitz"]):
        ours, theirs = os.openpty()
        command = [sys.executable, "-m", "arlib", *words]
        given = os.environ | {"NO_COLOR": "1", "TERM": "xterm-256color"}
        subprocess.run(command, cwd=ROOT, env=given, stdout=theirs, stderr=theirs)
        os.close(theirs)
        with open(ours, "rb", buffering=0) as terminal:
            assert b"\x1b" not in terminal.read(100_000)
