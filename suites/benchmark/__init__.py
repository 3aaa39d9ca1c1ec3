"""What networks and kernels cost: time, memory, multiply-adds."""

PRESETS = ("goals", "scans")  # of presets
SWEEPS = ("resolution", "ntire")  # of sweep
