"""Draws what the study of experts found: differences from the best LoRA with intervals, for each mix.

    python benchmarks/studies/experts_figure.py benchmarks/results/experts_study.json docs/images/experts-pay.png

A group of a mix is drawn if the study chose a rate for it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from experts_summary import METRICS

from analysis.figures.palette import color, marker
from analysis.figures.style import Picture, legend_below, png, styled, subplots

MIXES = ("six", "wide", "exams", "flan", "skills")
# How the page calls groups; every row is a split on them.
GROUPS = {"joint_tail": "joint and tail", "joint": "joint", "tfidf": "TF-IDF", "source": "true sources"}
# What an axis says.
TITLES = {"macro": "averaged over corpora", "token": "over all tokens"}
LARGEST = {"macro": 0.013, "token": 0.006}  # a difference beyond it is written at the edge


@styled
def experts_pay(results: dict[str, Any]) -> Picture:
    """A panel for each metric; mixes from top to bottom, groups in colours, 95% intervals as lines."""
    figure, axes = subplots(1, len(METRICS), width=8.0, height=4.6, share_y=True)
    for metric, panel in zip(METRICS, axes, strict=True):
        panel.axvline(0, color=color(6), linewidth=0.8)
        for row, mix in enumerate(MIXES):
            for groups, difference in rows_of(results["mixes"][mix]).items():
                number = list(GROUPS).index(groups)
                middle, low, high = difference[metric]
                place = row + 0.19 * (number - (len(GROUPS) - 1) / 2)
                if middle > LARGEST[metric]:
                    text = f"{GROUPS[groups]}: {middle:+.3f} \N{RIGHTWARDS ARROW}"
                    panel.text(LARGEST[metric], place, text, color=color(number), ha="right", va="center", fontsize=8)
                    continue
                panel.plot([low, high], [place, place], color=color(number), linewidth=1.2)
                panel.plot(middle, place, marker(number), color=color(number), markersize=5)
        panel.set_xlim(right=LARGEST[metric])
        panel.set_xlabel(f"{TITLES[metric]}, nats a token")
        panel.grid(axis="x")
        panel.tick_params(axis="y", length=0)
    for number, label in enumerate(GROUPS.values()):
        axes[0].plot([], [], marker(number), color=color(number), label=label)
    axes[0].set_yticks(range(len(MIXES)), MIXES)
    axes[0].set_ylim(len(MIXES) - 0.5, -0.5)
    legend_below(figure, len(GROUPS))
    return Picture("experts_pay", figure, "", "")


def rows_of(mix: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Groups -> difference from the LoRA of the arm that was chosen for them."""
    chosen = [arm for name, arm in mix["chosen"].items() if arm and name.startswith(("best split", "split by"))]
    found: dict[str, dict[str, Any]] = {}
    for arm in [mix["chosen"]["best split"], *chosen]:
        groups = arm.split(" by ")[1].split(" ")[0]
        difference = mix["rows"]["test"].get(arm, {}).get("minus_lora")
        if difference and groups in GROUPS:
            found.setdefault(groups, difference)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("image", type=Path)
    arguments = parser.parse_args()
    arguments.image.write_bytes(png(experts_pay(json.loads(arguments.results.read_text())).figure, dpi=130))


if __name__ == "__main__":
    main()
