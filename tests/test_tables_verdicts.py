"""What protocol 2 says of the studies of protocol 1, as a table."""

import pytest

from arlib import claims, studies, tables
from arlib.errors import NotMeasured


def test_after_the_fact_has_a_column_for_each_study_of_protocol_1():
    small, toy, new = map(studies.load, ("cifar10-resnet20-small", "digits", "cifar10-resnet20"))
    table = tables.after_the_fact([new, small, toy])
    assert list(table.columns) == ["cifar10-resnet20-small", "digits (toy)"]
    frame = claims.after_the_fact(small)
    assert list(table.index) == [f"{row.claim} {row.title}" for row in frame.itertuples()]
    whole = claims.table(frame)
    for name, cell in table["cifar10-resnet20-small"].items():
        verdict, _, effect = cell.partition(", ")
        assert verdict == whole.loc[name, "Verdict"]
        if effect:
            assert effect == whole.loc[name, "Effect [95 % interval]"]
    assert table.loc["C6 Singular value concentration"].iloc[0] == "raw weights only"
    assert table.attrs["finding"].startswith("cifar10-resnet20-small: supported: C1")
    assert "digits" not in table.attrs["finding"], "a toy decides nothing"
    with pytest.raises(NotMeasured, match="protocol 1"):
        tables.after_the_fact([new])
