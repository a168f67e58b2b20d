"""The benchmark of ViewFusion's savings compares what it says."""

import re

import pytest

from benchmarks import viewfusion


@pytest.mark.slow
def test_all_ways_make_the_same_views_and_the_fast_one_with_fewer_evaluations(capsys):
    viewfusion.main(["--views", "4", "--steps", "2", "--rounds", "1"])
    printed = capsys.readouterr().out
    plain, fast = map(int, re.search(r"UNet evaluations: plain (\d+), fast (\d+)", printed).groups())
    # In each step plain makes two evaluations for every reference, fast one, and one for each of the three views.
    assert fast == plain // 2 + 2 * 3 < plain
    assert "ratio to fast" in printed and "without batches" in printed
    assert float(re.search(r"largest difference.*: (\S+)", printed)[1]) < 1e-3  # of random weights, at abar = 2e-4
