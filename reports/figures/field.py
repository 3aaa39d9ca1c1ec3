"""Effective receptive fields: mean maps over a set, and how much of them lies in squares around the centre."""

from pathlib import Path
from textwrap import wrap

from reports.figures import style
from reports.tables.analyses.fields import mean_field, shown, within
from reports.tables.analyses.mechanisms import network_name
from reports.tables.rows import units
from results.analyses import Record


def draw(records: list[Record], path: Path) -> None:
    """Maps as the official repository shows them, to the power 0.25, and the share within squares of every side."""
    style.check(records, "erf")
    import matplotlib

    with matplotlib.rc_context(style.FONT):
        figure = style.blank(2.6 + 1.5 * len(records), 3.2)
        axes = figure.subplots(1, len(records) + 1, width_ratios=[1] * len(records) + [1.6])
        for axis, record, colour, line in zip(axes, records, style.COLOURS, style.LINES * 2, strict=False):
            field = mean_field(record, "mambair")
            image = axis.imshow(shown(field, "mambair"), cmap=style.SCALE, vmin=0, vmax=1)
            own = "\n".join(wrap(network_name(record).replace("_", " "), 16))
            axis.set_title(
                f"{own}\n{units(record.rows['image'].nunique(), 'image')} of {record.key['dataset']}", fontsize=7
            )
            axis.set(xlabel="input pixels", xticks=(0, 60, 119), yticks=(0, 60, 119))
            sides, shares = within(field)
            axes[-1].plot(sides, shares, line, color=colour, label=own)
        bar = figure.colorbar(image, ax=list(axes[:-1]), location="bottom", shrink=0.6, aspect=40)
        bar.set_label("(field / its maximum)^0.25")
        axes[-1].set(xlabel="side of a square, pixels", ylabel="part of the field inside", ylim=(0, 1))
        axes[-1].grid(alpha=0.3, linewidth=0.5)
        axes[-1].legend(frameon=False, loc="lower right", fontsize=7)
        figure.savefig(path, dpi=200)
