import math

import numpy as np
import pytest

from core.errors import BadData
from core.metrics.summary import CHAMFER, FLIP, PSNR, SSIM, mean_and_interval, metric_of, table


def test_a_column_is_known_by_a_word_of_its_name():
    assert (
        metric_of("PSNR") is PSNR and metric_of("FLIP (paper)") is FLIP and metric_of("Chamfer of the mesh") is CHAMFER
    )
    assert metric_of("cpu_seconds_per_object").lower_is_better and metric_of("pixel errors").lower_is_better
    assert metric_of("SSIM of the data range") is SSIM
    assert metric_of("CD") is CHAMFER and metric_of("MAE").lower_is_better and metric_of("RMSE").lower_is_better
    higher = ("F-score", "CLIP-R (top 1)", "CLIP of neighbours", "COLMAP points", "SIFT matches", "normals", "mask IoU")
    assert all(metric_of(column).lower_is_better is False for column in higher)


def test_of_an_unknown_column_nobody_says_which_values_are_better():
    rows = {"a": {"previous": 1.0, "CDF": 2.0}, "b": {"previous": 2.0, "CDF": 1.0}}
    assert table(rows).splitlines() == ["| | previous | CDF |", "|---|---|---|", "| a | 1 | 2 |", "| b | 2 | 1 |"]


def test_the_table_has_the_best_of_each_column_in_bold_and_as_many_digits_as_count():
    rows = {
        "ours": {"PSNR (dB)": 20.123, "FLIP": {"mean": 0.1, "low": 0.05, "high": 0.25}},
        "trivial": {"PSNR (dB)": 10.0, "FLIP": {"mean": 0.3, "low": 0.2, "high": 0.4}, "Chamfer": 0.01},
        "failed": {"PSNR (dB)": "none", "FLIP": None},
    }
    assert table(rows).splitlines() == [
        "| | PSNR (dB) ↑ | FLIP ↓ | Chamfer ↓ |",
        "|---|---|---|---|",
        "| ours | **20.12** | **0.100 [0.050, 0.250]** | – |",
        "| trivial | 10.00 | 0.300 [0.200, 0.400] | **0.0100** |",
        "| failed | none | – | – |",
    ]


def test_equals_share_the_first_place_and_a_lone_row_or_nan_has_none():
    assert SSIM.best([0.5, 0.5, 0.4]) == [True, True, False]
    assert SSIM.best([0.5]) == [False]
    assert FLIP.best([math.nan, 0.2, math.inf, "no image", None]) == [False, True, False, False, False]
    assert FLIP.best([math.nan, None]) == [False, False]


def test_the_interval_contains_the_mean_and_narrows_with_objects():
    values = np.random.default_rng(1).normal(20, 2, 400).tolist()
    few, many = mean_and_interval(values[:25]), mean_and_interval(values)
    for summary in (few, many):
        assert summary["low"] < summary["mean"] < summary["high"]
    assert many["mean"] == pytest.approx(np.mean(values)) and many["objects"] == 400
    # The theory's 95% interval: plus and minus 1.96 deviations of the mean.
    assert many["high"] - many["low"] == pytest.approx(2 * 1.96 * np.std(values) / 20, rel=0.1)
    assert few["high"] - few["low"] > 2 * (many["high"] - many["low"])
    assert mean_and_interval(values) == many


def test_one_object_has_no_interval():
    assert mean_and_interval([3.0]) == {"mean": 3.0, "objects": 1}
    assert PSNR.text(mean_and_interval([3.0])) == "3.00" and PSNR.text(mean_and_interval([3.0, 3.0])).endswith("3.00]")


def test_a_mean_over_some_of_the_objects_is_not_compared_with_means_over_all():
    whole, other = mean_and_interval([10.0, 12.0], of=2), mean_and_interval([9.0, 9.0], of=2)
    part, small = mean_and_interval([20.0], of=2), mean_and_interval([1.0], of=2)
    assert PSNR.best([whole, other, part]) == [True, False, False]
    assert FLIP.best([whole, other, small]) == [False, True, False]
    assert PSNR.best([whole, part]) == [False, False] and PSNR.best([part, small]) == [False, False]
    assert PSNR.best([whole, None]) == [True, False]


def test_a_mean_over_nothing_is_refused():
    with pytest.raises(BadData, match="at least one"):
        mean_and_interval([])
