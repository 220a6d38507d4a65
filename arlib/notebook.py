"""What every chapter needs: the setup cell, checked parameters, its records, its verdict, an
environment stamp.

A chapter begins with `SETUP_CELL` (the same in all chapters), a cell tagged `parameters` of
annotated assignments (`study: str = "digits"  # help`), and `notebook.check(globals())`. papermill
writes its values in a cell between the two, whatever their name or type: so the check is what a
batch run relies on.
"""

import difflib
import os
import platform
from collections.abc import Callable, Collection

from arlib import client
from arlib.errors import InputError, NotMeasured, one_of
from arlib.fields import COUNT, SEED, Range
from arlib.fields import check as check_value

# `python -m tools.stamp ADDRESS` writes the repository's address between the quotes, in every
# chapter.
SETUP_CELL = """\
# Where arlib is installed this only imports it; elsewhere (on Colab, say) it installs it from its
# repository.
try:
    from arlib import notebook
except ImportError:
    import importlib, os, subprocess, sys
    _source = os.environ.get("ARLIB_SOURCE") or "{source}"
    if not _source:
        raise SystemExit("arlib is not installed; set ARLIB_SOURCE to the address of its repository (git+https://…).")
    if subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", _source]).returncode:
        raise SystemExit(f"arlib could not be installed from {{_source}}; pip's message is above.")
    importlib.invalidate_caches()
    sys.modules.pop("arlib", None)
    from arlib import notebook
notebook.introduce("{page}")\
"""

Rule = Callable[[str, object, dict], None]


class ChapterStopped(InputError):
    """A chapter cannot go on as asked. Jupyter and papermill show its message without a
    traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def setup_cell(address: str = "", page: str = "") -> str:
    """The setup cell of a chapter: the repository's address and that of the rendered page, ""
    before there is one.
    """
    return SETUP_CELL.format(source=f"git+{address}" if address else "", page=page)


def introduce(page: str = "") -> None:
    """In a notebook client: a line with what the chapter found, once it has, and its page; captions
    below figures.

    Does nothing while the book is built, or where a chapter is executed by nbval or papermill.
    """
    if client.attended():
        client.HERE.introduce(page)


def check(namespace: dict, **rules: object) -> None:
    """Check a chapter's parameters before anything is computed: names, types, ranges.

    namespace: the chapter's `globals()`; what it annotates are its parameters. Common names are
    known (`study`, `device`, `store`, `seed`, `eps`, `strength`, `epochs`, …); others are declared
    by keyword as (low, high), a collection of allowed values, or a function of the value that
    raises `InputError`.

    Raises `ChapterStopped` (an `InputError`) with one message for an unknown name, a wrong type or
    a value out of range. The offending name is removed again, so that a corrected cell can be rerun
    in the same kernel. A line that was deleted from the cell means the default (`device`, `store`,
    `run_missing`) or such a message; the value it had in this kernel is forgotten.
    """
    known = RULES | {name: _declared(rule) for name, rule in rules.items()}
    annotated = namespace.setdefault("__annotations__", {})
    declared = _declared_now(namespace, annotated)
    try:
        _check_names(namespace, declared, known)
        _fill_in(namespace, declared, rules)
        for name, kind in declared.items():
            if name not in namespace:
                raise InputError(f"{name} is declared in the parameters cell but has no value.")
            _check_type(name, namespace[name], kind)
        # a study is looked up in the store, too
        for name in sorted(declared, key=lambda name: name != "store"):
            known[name](name, namespace[name], namespace)
    except InputError as error:
        raise ChapterStopped(str(error)) from None
    namespace["_checked"] = dict(declared)
    annotated.clear()  # what stands there at the next check is what the cell has then


def study(name: str, store: str = ""):
    """The study of a chapter's `study` and `store` parameters; `InputError` lists the studies there
    are.
    """
    from arlib import studies

    return studies.load(name, store=store or None)


def records_or_explain(
    study, *, run_missing: bool = False, device: str = "auto", stop: bool = True
):
    """The record table of a study; says how much of it there is, and runs what is missing only when
    asked.

    study: as `notebook.study` returns it. Raises `ChapterStopped` if nothing is recorded and
    `run_missing` is False: the message says what running the study costs and how to do it. Without
    `stop` the message is printed, and the chapter goes on with what needs no records.
    """
    if run_missing and study.missing():
        study.run(device=device)
    records, planned, missing = study.records(), len(study.entries), len(study.missing())
    if records.empty:
        nothing = (
            f"Nothing of the study {study.name} is recorded yet. Its {planned} runs cost: "
            f"{study.cost.strip().rstrip('.')}. Run them with `arlib study run {study.name}`, or "
            "with run_missing = True here; or choose another study."
        )
        if stop:
            raise ChapterStopped(nothing)
        print(nothing)
        return records
    print(f"Study {study.name}: {planned - missing} of {planned} runs recorded.")
    return records


def verdict(claim: str, study):
    """The computed verdict of one claim ("C1" … "C7") on a study, as Markdown.

    It is glued as `verdict_C1` too, so that the text at a chapter's head, above this cell, can show
    it.
    """
    from IPython.display import Markdown

    from arlib import claims

    table = claims.verdicts(study)
    one_of("claim", claim, tuple(table["claim"]))
    row = table[table["claim"] == claim].iloc[0]
    toy = ", a toy" if study.toy else ""
    sentence = Markdown(
        f"**{claim} {row['title']}: {row['verdict']}** (study `{study.name}`{toy}). {row['note']}"
    )
    glue(f"verdict_{claim}", sentence)
    return sentence


def if_measured(make: Callable, *args, **options):
    """What `make(*args, **options)` gives, a figure or a table; a sentence where the study lacks
    what that needs.
    """
    from IPython.display import Markdown

    try:
        made = make(*args, **options)
    except NotMeasured as lacking:
        return Markdown(f"*Not measured in this study: {lacking}*")
    return made


def table(make: Callable, *args, **options):
    """A small table of text, `make(*args, **options)`, as Markdown: nothing is cut off; a sentence
    if it is empty. Below it stands what it shows, one sentence, if it has that as
    `attrs["finding"]`.
    """
    from IPython.display import Markdown

    from arlib import tables

    made = if_measured(make, *args, **options)
    if isinstance(made, Markdown):
        return made
    if not len(made):
        return Markdown("*Not measured in this study.*")
    return Markdown(tables.with_finding(made))


def expect(
    what: str, value: float, low: float, high: float, *, unit: str = "", as_written: bool = True
) -> None:
    """For what a chapter trains or attacks live: assert that a value lies in its range, and print
    the value behind an ≈.

    It differs between machines. So nbval compares the words and not the number (what stands behind
    an ≈, in tests/nbval_sanitize.cfg): the range does that. as_written: whether the chapter runs
    with the parameters it was written for; if not, nothing is asserted.
    Raises `AssertionError`.
    """
    assert not as_written or low <= value <= high, (
        f"{what}: {value:.4g}{unit}; expected {low:g} to {high:g}{unit}"
    )
    about = "" if as_written else " (with other parameters than the chapter's own)"
    print(f"{what}: ≈ {f'{value:.3g}'.replace('-', '−')}{unit}{about}")


def glue(name: str, value: object) -> None:
    """Keep a value for the chapter's prose, where `{glue:text}` prints it; a client shows it in its
    own way.
    """
    if client.attended():
        client.HERE.glue(name, getattr(value, "data", str(value)))
        return
    try:
        import myst_nb
    except ModuleNotFoundError:  # executed where no book is built
        return
    myst_nb.glue(name, value, display=False)


def stamp() -> None:
    """Print what this chapter was run with. The one line that may differ between two runs of a
    chapter.
    """
    import numpy
    import torch

    import arlib

    where = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    )
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}"
    )
    print(
        f"Environment: arlib {arlib.__version__}, {versions}, {where}, {torch.get_num_threads()} "
        "threads"
    )


def _declared_now(namespace: dict, annotated: dict) -> dict:
    """Name -> type of the parameters as their cell stands now; what it had at the last check and
    lacks now goes.
    """
    before = namespace.get("_checked", {})
    if not before.keys() & annotated.keys():  # the cell was not run again since
        return dict(before or annotated)
    for name in before.keys() - annotated.keys():
        namespace.pop(name, None)
    return dict(annotated)


def _check_names(namespace: dict, declared: dict, known: dict) -> None:
    """Unknown names; without annotation at the first check only: later the kernel also holds what
    was computed.
    """
    for name in declared:
        if name not in known:
            namespace["__annotations__"].pop(name, None)
            namespace.pop(name, None)
            close = difflib.get_close_matches(name, known.keys() - declared.keys(), n=1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            raise InputError(
                f"{name} is not a parameter of this chapter. {hint}A new one is declared where it "
                f"is checked: notebook.check(globals(), {name}=…)."
            )
    if "_checked" in namespace:
        return
    for name in [
        n for n, value in namespace.items() if _is_parameter(n, value) and n not in declared
    ]:
        del namespace[name]
        one_of("parameter", name, tuple(declared))


def _fill_in(namespace: dict, declared: dict, rules: dict) -> None:
    """Give what has no line in the parameters cell its default, or say that the chapter cannot do
    without it.
    """
    for name in ("study", *DEFAULTS, *rules):
        if name in declared:
            continue
        if name not in DEFAULTS:
            raise InputError(
                f"{name} has no line in the parameters cell; put it back as the chapter had it."
            )
        declared[name], namespace[name] = type(DEFAULTS[name]), DEFAULTS[name]
        print(f"{name} has no line in the parameters cell: {DEFAULTS[name]!r} is used.")


def _is_parameter(name: str, value: object) -> bool:
    """Whether a global could have been injected: plain data under a public name, and not IPython's
    own.
    """
    return not name.startswith("_") and name not in ("In", "Out") and isinstance(value, _PLAIN)


# a chapter's own are in its parameters cell
DEFAULTS = {"device": "auto", "store": "", "run_missing": False}
_PLAIN = (str, int, float, list, dict, type(None))


def _check_type(name: str, value: object, kind: object) -> None:
    try:
        check_value(name, value, kind)
    except InputError as error:
        if not isinstance(value, str):
            raise
        hint = (
            f"papermill passes an expression as text: give the number; a list as -y '{name}: [0, "
            "8]'"
        )
        raise InputError(f"{str(error).rstrip('.')} ({hint}).", field=name) from None


def _within(bounds: Range) -> Rule:
    def rule(name: str, value: object, _: dict) -> None:
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is not None:
                bounds.check(name, one)

    return rule


def _declared(rule: object) -> Rule:
    if callable(rule):
        return lambda name, value, _: rule(value)
    if (
        isinstance(rule, tuple)
        and len(rule) == 2
        and all(isinstance(end, int | float) for end in rule)
    ):
        return _within(Range(*rule))
    if isinstance(rule, Collection):
        return lambda name, value, _: one_of(name, value, rule)
    raise TypeError(
        f"a rule is (low, high), a collection of allowed values or a function, not {rule!r}"
    )


def _study_exists(name: str, value: object, namespace: dict) -> None:
    study(value, namespace.get("store") or "")


def _device_exists(name: str, value: object, _: dict) -> None:
    from arlib import engine

    engine.device(value)


def _writable_folder(name: str, value: object, _: dict) -> None:
    from arlib import places

    if not value:
        return
    folder = places.places(value).store
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(
            f"{name} is {str(value)!r}, where nothing can be written; give a folder of your own."
        )


_RADIUS = _within(
    Range(0, 1, note="an ℓ∞ radius in [0, 1] pixel units: AR strength 8 is 8/255 = 0.0314")
)
_STRENGTH = _within(Range(0, 255, note="an AR strength, 255 times the radius"))
_COUNT = _within(COUNT)
_SEED = _within(SEED)
RULES: dict[str, Rule] = {
    "store": _writable_folder,
    "study": _study_exists,
    "device": _device_exists,
    "run_missing": lambda *_: None,
    "seed": _SEED,
    "seeds": _SEED,
    "lr": _within(Range(0, 10)),
    **dict.fromkeys(("eps", "radius", "step_size"), _RADIUS),
    **dict.fromkeys(("strength", "strengths", "radii"), _STRENGTH),
    **dict.fromkeys(("n", "images", "epochs", "steps", "restarts", "batch_size", "width"), _COUNT),
}
