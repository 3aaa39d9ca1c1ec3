"""What prompts are, layer by layer: how large, how used, and whether their classes group anything."""

from pathlib import Path

import pandas as pd

from reports.figures import style
from reports.tables.analyses.mechanisms import network_name
from reports.tables.rows import units
from results.analyses import Record

ROUTINGS = {"gumbel": ("-", "with noise, as published"), "argmax": ("--", "likeliest class")}


def means(record: Record) -> pd.DataFrame:
    """A row per routing and layer: means over images (and seeds) of every number."""
    numbers = record.rows.drop(columns=["seed"]).select_dtypes("number").columns.drop("layer")
    images = record.rows.groupby(["image", "routing", "layer"], as_index=False)[list(numbers)].mean()
    return images.groupby(["routing", "layer"], as_index=False)[list(numbers)].mean()


def draw(records: list[Record], path: Path) -> None:
    """Four panels with a colour per record of `prompts`, those of the set of which most images were measured: size of
    prompts, growth of the pool, classes in use, agreement with superpixels."""
    import matplotlib
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullFormatter

    style.check(records, "prompts")
    sizes = {record.key["dataset"]: record.rows["image"].nunique() for record in records}
    dataset = max(sizes, key=lambda name: sizes[name])
    chosen = [record for record in records if record.key["dataset"] == dataset]
    with matplotlib.rc_context(style.FONT):
        figure = style.blank(7.2, 5.2)
        axes = figure.subplots(2, 2, sharex=True).flatten()
        for record, colour in zip(chosen, style.COLOURS, strict=False):
            found = means(record)
            for routing, (line, _) in ROUTINGS.items():
                part = found[found["routing"] == routing]
                layers = part["layer"]
                if routing == "gumbel":
                    axes[0].plot(layers, part["ratio"], color=colour, marker=".", label=network_name(record))
                    axes[1].plot(layers, part["growth"], color=colour, marker=".")
                axes[2].plot(layers, part["effective"], line, color=colour)
                axes[3].plot(layers, part["nmi_slic"], line, color=colour)
                axes[3].plot(layers, part["nmi_slic_at_random"], ":", color=colour, linewidth=0.8)
        axes[0].set(yscale="log", ylabel="RMS of the prompts / RMS of C")
        axes[1].set(yscale="log", ylabel="RMS of the pool / initial RMS")
        axes[1].axhline(1, color="black", linewidth=0.8)
        tokens = chosen[0].rows["effective"].max()
        axes[2].set(ylabel="classes in use, exp(entropy)", ylim=(0, 1.05 * tokens), xlabel="layer, from 0")
        axes[3].set(ylabel="agreement with SLIC (NMI)", ylim=(0, None), xlabel="layer, from 0")
        for axis in axes:
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.3, linewidth=0.5)
        lines = [Line2D([], [], color="black", linestyle=line, label=label) for line, label in ROUTINGS.values()]
        lines.append(Line2D([], [], color="black", linestyle=":", label="classes shuffled over pixels"))
        axes[0].set_title(f"{dataset}, {units(sizes[dataset], 'image')}", loc="left")
        handles = [*axes[0].get_legend_handles_labels()[0], *lines]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, dpi=200)
