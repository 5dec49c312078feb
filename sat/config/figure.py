"""Options of the figure of a caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sat.config.checks import check_fields


@dataclass(frozen=True)
class FigureConfig:
    """How an image and the attention map of each word are drawn."""

    style: Literal["brightness", "heatmap"] = "brightness"
    """brightness: bright where the model looked, as in the paper; heatmap: colors over the image"""
    smooth: bool = True
    """interpolate the maps; without it the cells of the grid show"""
    dpi: int = 100
    """dots an inch of pixel files, whose panels are about 1.6 inches wide: 100 suits a screen, 300
    a paper"""
    columns: int | None = None
    """panels in a row; chosen by the shape of the figure when empty"""
    title: bool = True
    """write the caption above the panels"""
    probabilities: bool = False
    """write the probability of each word beside it"""

    def __post_init__(self) -> None:
        check_fields(self, {"[10, 2400]": "dpi", "[1, 1000]": "columns"})
