"""Charts as SVG to stand in a page, whose colours are those of the page, light or dark."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recalign.runs.report.html import Html, tag

# Matplotlib takes no variables of CSS: these colours, which nothing else has, stand for them.
INK, SOFT, LINE = "#020201", "#020202", "#020203"
COLOURS = 8
"""Series that differ by colour; further ones are dashed."""
MOST_POINTS = 400

_VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line"} | {
    f"#01010{i}": f"--series-{i}" for i in range(COLOURS)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
}
_INCHES = (4.4, 2.5)
# Left, bottom, width and height of what is within the axes: Matplotlib's own search for them draws
# every figure once more.
_PLACE = (0.19, 0.19, 0.78, 0.73)

Series = Mapping[int, float]
"""Values by step."""


def line_chart(title: str, series: Mapping[str, Series], unit: str = "") -> Html | None:
    """Lines over steps.

    Args:
      title: what is drawn.
      series: of each name; the names make up the page's legend, in this order everywhere.
      unit: of the values.

    Returns:
      A figure; None where no series has a value.
    """
    if not any(series.values()):
        return None

    def draw(axes: Axes) -> None:
        for place, values in enumerate(series.values()):
            if values:
                steps = _thin(sorted(values))
                marker = "o" if len(steps) < 20 else None
                drawn = [values[step] for step in steps]
                axes.plot(steps, drawn, marker=marker, **_look(place))
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        if unit.startswith("share"):
            axes.set_ylim(bottom=0)

    return _figure(title, _describe(title, series), draw)


def calibration_chart(title: str, series: Mapping[str, Sequence[Mapping]]) -> Html | None:
    """How often answers of a probability are right, both logarithmic; on the diagonal it holds."""
    if not any(series.values()):
        return None
    least = min(bin_["predicted"] for bins in series.values() for bin_ in bins)
    least = max(min(least, 0.1), 1e-5)

    def draw(axes: Axes) -> None:
        axes.plot([least, 1], [least, 1], color=SOFT, linewidth=0.8, linestyle=":")
        for place, bins in enumerate(series.values()):
            # On a logarithmic scale none at all has no place but the bottom.
            drawn = [max(b["observed"], least) for b in bins]
            axes.plot([max(b["predicted"], least) for b in bins], drawn, marker="o", **_look(place))
        for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
            scale("log")
            axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axes.minorticks_off()  # eight to a decade, each of which Matplotlib lays out
        axes.set_xlabel("probability, as said")
        axes.set_ylabel("share that was right")

    return _figure(title, f"{title}: the table below has the numbers", draw)


def _look(place: int) -> dict[str, Any]:
    """The colour and dash of a series."""
    dashes = ("-", "--", ":", "-.")
    return {
        "color": f"#01010{place % COLOURS}",
        "linestyle": dashes[place // COLOURS % len(dashes)],
    }


def _thin(steps: list[int]) -> list[int]:
    """So few that a page stays small; the last one is among them."""
    return steps[:: -(len(steps) // MOST_POINTS + 1)][::-1]


def _describe(title: str, series: Mapping[str, Series]) -> str:
    """What a chart shows, for who cannot see it."""
    ends = [
        f"{name} ends at {values[max(values)]:.4g} after step {max(values)}"
        for name, values in series.items()
        if values
    ]
    return f"{title}: {'; '.join(ends)}"


def _figure(title: str, description: str, draw: Callable[[Axes], None]) -> Html:
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=_INCHES)
        draw(figure.add_axes(_PLACE))
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return tag(
        "figure",
        tag("figcaption", title),
        Html(_inline(file.getvalue()).replace("<svg", f"<svg{_attributes(description)}", 1)),
    )


def _attributes(description: str) -> str:
    return str(tag("x", role="img", aria_label=description)).partition("<x")[2].partition(">")[0]


def _inline(svg: str) -> str:
    """An SVG file as part of a page: no prologue, no size of its own, no name twice."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*(;|(?=\"))", "", svg)
    svg = re.sub(r"\bxlink:href", "href", svg)
    return re.sub("#0[12]0[12]0[0-7]", lambda m: f"var({_VARIABLES[m[0]]})", svg)
