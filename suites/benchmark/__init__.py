"""What networks and kernels cost: time, memory, multiply-adds."""

from suites.spec import SpecError

PRESETS = ("goals", "scans")  # of presets
SWEEPS = ("resolution", "ntire")  # of sweep


def parse_size(text: str, what: str) -> tuple[int, int]:
    """ "720x1280" as (height, width). what: whose size it is, for the SpecError that anything else raises."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise SpecError(f"{text!r} is no size: give HEIGHTxWIDTH of {what}, for example 64x64")
    return int(height), int(width)
