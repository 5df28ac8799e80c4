"""Draw how long a save holds training against the size of the state, ours and theirs.

    python benchmarks/save_cost.py --kinds plain --sizes 1 30 300 2000 --json costs.json
    python benchmarks/plot_stalls.py costs.json docs/stall.svg

Needs matplotlib (``pip install -e '.[benchmarks]'``). Left: the time for which the
train thread is held; right: all that a save costs, the slower steps after it included.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

TITLES = {"held": "train thread held", "total": "total, slower steps included"}


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("costs", type=Path, nargs="+", help="by save_cost.py --json")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--kind", default="plain")
    given = parser.parse_args()
    lines: dict[str, dict[float, dict[str, float]]] = defaultdict(dict)
    for path in given.costs:
        for row in json.loads(path.read_text()):
            if row["kind"] == given.kind:
                size = row["megabytes"]
                lines[row["way"]][size] = {w: 1e3 * row[w] for w in TITLES}
                lines["a copy in memory"][size] = dict.fromkeys(
                    TITLES, 1e3 * row["copy"]
                )
    # Text stays text, and ours is the only one in red.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "stalls"})
    colours = mpl.cycler(
        color=["tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown"]
    )
    mpl.rcParams["axes.prop_cycle"] = colours
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axis, (what, title) in zip(axes, TITLES.items(), strict=True):
        for way, points in lines.items():
            sizes = sorted(points)
            # A total within the noise of none has no place on this scale.
            shown = [(s, points[s][what]) for s in sizes if points[s][what] > 0.02]
            style = "k:" if way == "a copy in memory" else "o-"
            if way == "PeriodicCheckpoint":
                axis.plot(
                    *zip(*shown, strict=True), "s-", lw=3, color="tab:red", label=way
                )
            elif shown:
                axis.plot(*zip(*shown, strict=True), style, label=way)
        axis.set(xscale="log", yscale="log", title=title, xlabel="state, MB")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms a save")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    # The same figures give the same file.
    svg = given.picture.suffix == ".svg"
    figure.savefig(given.picture, metadata={"Date": None} if svg else None)


if __name__ == "__main__":
    main()
