"""One cluster for all tests of a session; where it cannot be started they skip with the reason."""

import os

import onehost
import pytest


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """The cluster's slurm.conf, which all commands of Slurm find in the environment."""
    if why := onehost.why_not():
        pytest.skip(why)
    with onehost.cluster(tmp_path_factory.mktemp("cluster")) as configuration:
        former = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(configuration)
        yield configuration
        del os.environ["SLURM_CONF"]
        if former is not None:
            os.environ["SLURM_CONF"] = former
