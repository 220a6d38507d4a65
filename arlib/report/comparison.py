"""`compare`: the same quantities of several models on the same images, part by part, resumable."""

import hashlib
import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from arlib import attacks, engine, files
from arlib.attacks.checks import check
from arlib.attacks.spelling import answered
from arlib.errors import InputError, RecordError
from arlib.report import cost, recorded
from arlib.report.parts import PARTS, QUANTITIES, Settings, Subject

log = logging.getLogger(__name__)
FORMAT = 1
COLUMNS = ["model", "claim", "quantity", "setting", "layer", "n", "value", "low", "high"]


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured.

    rows: one number each (`COLUMNS`); layer "" is the network as a whole, or the median over its
        layers; low, high the 95 % interval over images where there is one. A single model of each
        kind has no seeds: intervals are about images, and say nothing of how another training would
        have come out.
    doubts: what should not be trusted, by model and part. left_out: parts that were not measured,
    and why.
    seconds, megabytes: by "model/part", how long it took, and by how much it raised the most memory
        that the process had held so far (None where the system does not tell); of resumed parts,
        what they took when they were measured.
    band: what the book's recorded networks span, where there are any on such images.
    """

    rows: pd.DataFrame
    models: tuple[str, ...]
    settings: dict
    doubts: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    megabytes: dict[str, float | None] = field(default_factory=dict)
    band: recorded.Band | None = None

    @property
    def table(self) -> pd.DataFrame:
        """One row per quantity, a column per model, as text with intervals;
        n and what the paper expects beside it.

        Where there is a band, two columns more: what the recorded networks span, trained in the
        ordinary way and adversarially.
        """
        whole = self.rows[self.rows["layer"] == ""]
        lines = {}
        for (quantity, setting), part in whole.groupby(["quantity", "setting"], sort=False):
            declared = QUANTITIES[quantity]
            name = declared.label + (f", {setting}" if setting else "")
            row = {
                "claim": declared.claim,
                "expected": {1: "↑", -1: "↓", 0: "–"}[declared.expected],
            }
            by_model = part.set_index("model")
            row |= {
                model: _text(by_model.loc[model], declared.percent)
                if model in by_model.index
                else "not measured"
                for model in self.models
            }
            lines[name] = row | {"n": ", ".join(sorted({str(n) for n in part["n"]}))}
            lines[name] |= _spans(self.band, quantity, setting, declared.percent)
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis("quantity")

    @property
    def cost(self) -> pd.DataFrame:
        """What each part took: seconds of each model,
        and megabytes by which the most memory held grew in all.
        """
        return cost.table(self.models, self.seconds, self.megabytes)

    def figure(self):
        """Each quantity in a panel of its own,
        a dot per model with its interval, the band shaded.
        """
        from arlib.figures import compared

        return compared(self)

    def save(self, path: str | Path) -> Path:
        """Write the comparison: .html (one page that needs nothing else),
        .csv (rows) or .json (everything).
        """
        path = Path(path)
        if path.suffix == ".html":
            from arlib.report.page import page

            files.write_text(path, page(self))
        elif path.suffix == ".csv":
            files.write_text(path, self.rows.to_csv(index=False))
        elif path.suffix == ".json":
            files.write_json(path, self.to_dict())
        else:
            raise InputError(f"path is {str(path)!r}; allowed endings: .html, .csv, .json.")
        return path

    def to_dict(self) -> dict:
        """Everything, in plain types; numbers that are not finite are None."""
        plain = asdict(replace(self, band=None))
        rows = self.rows.astype(object).where(self.rows.notna(), None).to_dict("records")
        band = None if self.band is None else self.band.to_dict()
        return {"format": FORMAT} | plain | {"rows": rows, "band": band}


@answered
def compare(
    models: Mapping[str, nn.Module | Callable],
    x: Tensor,
    y: Tensor,
    *,
    eps: Sequence[float] = (2 / 255, 4 / 255, 8 / 255),
    radius: float = 4 / 255,
    layers: Sequence[str] | None = None,
    robust_images: int = 200,
    instance_images: int = 100,
    jacobian_images: int = 16,
    seed: int = 0,
    logits: Callable | None = None,
    band: str | None = recorded.AUTO,
    time_budget: float | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
) -> Comparison:
    """The book's quantities for C1 to C7 of any models, measured alike on the same images.

    >>> import torch
    >>> from arlib import compare, models
    >>> nets = {"narrow": models.resnet(8, width=4), "wide": models.resnet(8, width=8)}
    >>> x, y = torch.rand(8, 3, 8, 8), torch.arange(8)
    >>> few = {"robust_images": 2, "instance_images": 2, "jacobian_images": 2, "progress": False}
    >>> comparison = compare(nets, x, y, eps=[0.01], **few)
    >>> comparison.table.columns.tolist(), len(comparison.left_out)
    (['claim', 'expected', 'narrow', 'wide', 'n'], 0)

    Args:
        models: a name for each model: any torch module or callable on images in [0, 1].
        x, y: images (n, …) and labels (n,); natural test images, which none of the models was
            trained on.
        eps: radii of the strong attack; radius: of feature changes and flips (random flips: twice
            that).
        layers: names of modules whose changes are looked at, the same in every model; by default
            each one's own.
        robust_images, instance_images, jacobian_images: the first so many images for what is
            expensive.
        logits: where they are in what the models return, see `engine.logits_of`.
        band: the study whose recorded networks are shown beside yours; "auto": the largest one on
            images of this shape and so many classes; None: none.
        time_budget: seconds; a part that would probably not fit any more is left out, and named.
        resume: a .json file for finished parts; the same call goes on from it.

    Raises: `InputError` for no models, unusable images or labels, or a file of another kind.
    """
    models = dict(models)
    if not models:
        raise InputError('models is empty; give a name and a model, such as {"standard": model}.')
    numbers = {
        "robust_images": robust_images,
        "instance_images": instance_images,
        "jacobian_images": jacobian_images,
    }
    radii = tuple(sorted(float(e) for e in np.atleast_1d(np.asarray(eps, dtype=float))))
    settings = Settings(
        eps=radii,
        radius=radius,
        layers=None if layers is None else tuple(layers),
        seed=seed,
        **numbers,
    )
    subjects = [_subject(name, model, x, y, settings, logits) for name, model in models.items()]
    study = recorded.chosen(band, tuple(subjects[0].x.shape[1:]), subjects[0].classes)
    known = _Known(None if resume is None else Path(resume))
    begun, rows, doubts, left_out, seconds, megabytes = time.monotonic(), [], [], [], {}, {}
    with tqdm(total=len(PARTS) * len(subjects), disable=not progress, desc="compare") as bar:
        for part in PARTS:
            longest = 0.0
            for subject in subjects:
                bar.set_postfix_str(f"{part} of {subject.name}")
                spent = time.monotonic() - begun
                key = known.key(part, subject)
                if (
                    key not in known.parts
                    and time_budget is not None
                    and spent + longest > time_budget
                ):
                    left_out.append(
                        f"{part} of {subject.name}: the time budget of {time_budget:g} s is spent"
                    )
                else:
                    outcome = known.parts.get(key) or known.save(
                        key, _measured(part, subject, logits)
                    )
                    rows += [{"model": subject.name} | row for row in outcome["rows"]]
                    doubts += [f"{subject.name}, {part}: {doubt}" for doubt in outcome["doubts"]]
                    left_out += (
                        [f"{part} of {subject.name}: {outcome['refused']}"]
                        if outcome["refused"]
                        else []
                    )
                    seconds[f"{subject.name}/{part}"] = outcome["seconds"]
                    megabytes[f"{subject.name}/{part}"] = outcome.get("megabytes")
                    longest = max(longest, outcome["seconds"])
                bar.update()
    frame = _with_shared_margins(pd.DataFrame(rows), list(models))
    return Comparison(
        frame,
        tuple(models),
        asdict(settings),
        tuple(dict.fromkeys(doubts)),
        tuple(left_out),
        seconds,
        megabytes,
        recorded.band_of(study, settings, frame),
    )


def _subject(name: str, model, x, y, settings: Settings, logits) -> Subject:
    """The model with its images, checked before anything is measured."""
    x, y = engine.images_and_labels(model, x, y)
    with engine.frozen(model) as f:
        forward = attacks.steps.forward_of(f, logits)
        check(model, forward, x, y, eps=settings.eps[-1])
        with torch.no_grad():
            answers = forward(x[:4]).double()
    state = model.state_dict().values() if isinstance(model, nn.Module) else ()
    tensors = [value for value in state if isinstance(value, Tensor)]
    # By its tensors and, since Python numbers count too, by some answers.
    known_by = [
        engine.digest(x, y, *tensors),
        # rounded: another device's answers differ in the last digits
        [round(value, 2) for value in answers.flatten().tolist()],
    ]
    return Subject(name, model, x, y, settings, answers.shape[1], known_by)


def _measured(part: str, subject: Subject, logits) -> dict:
    """One part of one model; what cannot be measured of it is said, and the others go on."""
    fresh = replace(subject, rows=[])
    begun, peak, refused = time.monotonic(), cost.peak(subject.x.device), ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            PARTS[part](fresh, logits)
        except InputError as error:
            refused = str(error)
    doubts = [
        str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)
    ]
    grown = cost.growth(peak, cost.peak(subject.x.device))
    took = {"seconds": round(time.monotonic() - begun, 2), "megabytes": grown}
    return {"rows": fresh.rows, "doubts": doubts, "refused": refused} | took


class _Known:
    """Finished parts, in a file if one was given; a part is of one model, images and settings."""

    def __init__(self, path: Path | None):
        self.path, self.parts = path, {}
        if path is None or not path.exists():
            return
        try:
            stored = files.read_json(path)
        except RecordError as error:
            raise InputError(f"resume: {error}") from error
        if (
            not isinstance(stored, dict)
            or stored.get("format") != FORMAT
            or not isinstance(stored.get("parts"), dict)
        ):
            raise InputError(
                f"resume is {str(path)!r}, which is no file of finished parts; give another name."
            )
        self.parts = {key: _numbered(part) for key, part in stored["parts"].items()}

    @staticmethod
    def key(part: str, subject: Subject) -> str:
        return hashlib.sha256(
            json.dumps([part, asdict(subject.settings), subject.known_by]).encode()
        ).hexdigest()

    def save(self, key: str, outcome: dict) -> dict:
        self.parts[key] = outcome
        if self.path is not None:
            plain = {  # JSON has no NaN
                key: part | {"rows": [_plain(row) for row in part["rows"]]}
                for key, part in self.parts.items()
            }
            files.write_json(self.path, {"format": FORMAT, "parts": plain})
        return outcome


def _plain(row: dict) -> dict:
    return {
        name: None if isinstance(v, float) and not math.isfinite(v) else v
        for name, v in row.items()
    }


def _numbered(part: dict) -> dict:
    rows = [
        {name: math.nan if value is None else value for name, value in row.items()}
        for row in part["rows"]
    ]
    return part | {"rows": rows}


def _with_shared_margins(rows: pd.DataFrame, models: list[str]) -> pd.DataFrame:
    """With the median instance margin over the images that every model gets right;
    claims beside quantities.
    """
    each = rows[rows["quantity"] == "instance_margin"] if len(rows) else rows
    if len(each) and set(each["model"]) == set(models):
        wide = each.pivot(index="layer", columns="model", values="value")[models]
        # 0 is a wrong prediction, which has no margin
        shared = wide[(wide > 0).all(axis=1)]
        medians = [
            {
                "model": model,
                "quantity": "instance_margin",
                "setting": "",
                "layer": "",
                "n": len(shared),
                "value": shared[model].median(),
                "low": math.nan,
                "high": math.nan,
            }
            for model in models
            if len(shared)
        ]
        rows = pd.concat([rows, pd.DataFrame(medians)], ignore_index=True) if medians else rows
    rows = (
        rows.assign(claim=[QUANTITIES[name].claim for name in rows["quantity"]])
        if len(rows)
        else rows
    )
    return rows.reindex(columns=COLUMNS)


def _spans(
    band: recorded.Band | None, quantity: str, setting: str, percent: bool
) -> dict[str, str]:
    """What the recorded networks span, a column per strength; nothing without a band."""
    if band is None:
        return {}
    spans, form = band.of(quantity, setting), _form(percent)
    texts = {
        s: " to ".join(map(form, spans[s])).replace("-", "−") if s in spans else "–"
        for s in band.strengths
    }
    return {f"recorded, strength {strength:g}": text for strength, text in texts.items()}


def _form(percent: bool) -> Callable[[float], str]:
    return (lambda v: f"{100 * v:.1f} %") if percent else "{:.3g}".format


def _text(row: pd.Series, percent: bool) -> str:
    form = _form(percent)
    text = form(row["value"])
    if row["low"] == row["low"]:  # not NaN
        text += f" [{form(row['low'])}, {form(row['high'])}]"
    return text.replace("-", "−")
