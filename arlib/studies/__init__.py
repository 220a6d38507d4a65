"""Studies: named grids of recipes, what is recorded of them, what is missing, and running it.

A study is a file `studies/NAME.yml`. `load(name)` gives its runs and their records as tables;
`study.run()` computes what is missing, shared by as many processes as are started on it.
"""

from arlib.studies.file import Entry, StudyFile
from arlib.studies.fronts import Point
from arlib.studies.shelf import KEYS, Shelf
from arlib.studies.study import Study, beside, interventions, load, names

__all__ = [
    "KEYS",
    "Entry",
    "Point",
    "Shelf",
    "Study",
    "StudyFile",
    "beside",
    "interventions",
    "load",
    "names",
]
