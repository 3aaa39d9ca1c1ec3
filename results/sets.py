"""What the published scores were measured on and by: sizes of the whole test sets, the official protocol of a task.

Suites measure by these and reports compare by them, so they stand here, where both may read them.
"""

from typing import Any

# Pictures of each whole set: a mean over fewer is no score of the set.
FULL_SETS = {
    **{"Set5": 5, "Set14": 14, "BSD100": 100, "Urban100": 100, "Manga109": 109},
    **{"CBSD68": 68, "Kodak24": 24, "McMaster": 18, "Classic5": 5, "LIVE1": 29},
}


# Budgets of trainings, small first; only what is called "paper" is a published schedule.
BUDGETS = ("smoke", "reduced", "reduced-bf16", "long-bf16", "recovery", "paper")


def place(dataset: str) -> int:
    """Of a set in a table: the whole sets in their order, then all others."""
    order = list(FULL_SETS)
    return order.index(dataset) if dataset in order else len(order)


def official_protocol(task: str) -> dict[str, Any]:
    """The official test protocol of a network on `task` ("sr-x2"), by the keys of `records.PROTOCOL_KEYS` but the seed.

    The seed is left out because the official code fixes none. Raises KeyError for another kind of task.
    """
    kind, level = task.replace("-x", "-").split("-")[:2]
    common = {"tiling": "official", "routing": "gumbel", "samples": 1, "prompt_order": "raster", "precision": "fp32"}
    own = {
        "sr": {"lr_route": "matlab", "luma": "float", "channels": "y", "border": int(level)},
        "denoise": {"lr_route": None, "luma": None, "channels": "rgb", "border": 0},
        "jpeg": {"lr_route": None, "luma": None, "channels": "gray", "border": 0},
        "custom": {"lr_route": None, "luma": None, "channels": "rgb", "border": 0},
    }
    return {**common, **own[kind]}
