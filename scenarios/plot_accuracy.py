"""Draw test accuracy against rounds and against channel uses, for a page or a paper.

usage: python scenarios/plot_accuracy.py RUN_FOLDER OUT.svg

Lines are means over seeds, bands one standard deviation. The interactive version is the run folder's report.html.
"""

from __future__ import annotations

import argparse

import matplotlib as mpl

import fedmac

mpl.use("Agg")
OKABE_ITO = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")


def main() -> None:
    """Write the figure."""
    from matplotlib import pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("out")
    arguments = parser.parse_args()
    run = fedmac.Run(arguments.folder)
    rounds = run.rounds
    mpl.rcParams["svg.hashsalt"] = "fedmac"
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    labels = {"round": "round", "channel_uses": "channel uses (thousands)"}
    for axis, x in zip(axes, labels, strict=True):
        for name, colour in zip(run.variants, OKABE_ITO, strict=False):
            table = rounds[rounds["variant"] == name].fillna({"channel_uses": 0}).groupby("round")
            uses = table[x].mean() / 1000 if x == "channel_uses" else table["test_accuracy"].mean().index
            mean, deviation = table["test_accuracy"].mean(), table["test_accuracy"].std().fillna(0)
            axis.plot(uses, mean, label=name, color=colour, linewidth=1.4)
            axis.fill_between(uses, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
        axis.set_xlabel(labels[x])
        axis.grid(alpha=0.25)
        axis.set_ylim(0.6, 0.92)
    axes[0].set_ylabel("test accuracy")
    axes[1].legend(fontsize=8, loc="lower right")
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
