"""Fields that tables share."""

from reports.statistics.intervals import Interval
from reports.tables.rows import interval_fields


def test_what_rounds_to_zero_has_no_negative_sign():
    fields = interval_fields(Interval(-1e-7, -2e-5, 3e-5, 4), "ssim", "seed")
    assert fields["interval"] == "[+0.0000, +0.0000] n=4" and fields["low"] == -2e-5
