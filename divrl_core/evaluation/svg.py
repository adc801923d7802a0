"""How every chart is set and saved: one type scale, colours that follow the page's theme, ids that do not
collide.

Charts are drawn by matplotlib in units of CSS pixels. Words stay words in the SVG, in the page's own font,
and each colour below becomes `var(--name, fallback)`: inside the report a chart is light or dark with the
page; alone it is light.
"""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from html import escape

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Okabe and Ito's orange-red and blue stay apart for every kind of colour blindness; the base is grey.
COLOURS = {
    "ink": "#1d1f23",
    "muted": "#646a73",
    "hairline": "#dedad1",
    "paper": "#fbfaf7",
    "base": "#6b7280",
    "explore": "#d55e00",
    "suppress": "#0072b2",
    "vsm": "#00805f",
    "linear": "#a0489c",
    "ochre": "#8a6d00",
    "rose": "#b3245f",
}
WIDTH_PX = 368
_TEXT_PX = 12.0
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "divrl",
    "font.family": "DejaVu Sans",
    "font.size": _TEXT_PX,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["hairline"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelsize": _TEXT_PX,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["hairline"],
    "ytick.color": COLOURS["hairline"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.labelsize": _TEXT_PX,
    "ytick.labelsize": _TEXT_PX,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def colour_of(name: str) -> str:
    """The colour of a model or stage by its name; ink for one that has none."""
    return COLOURS.get(name, COLOURS["ink"])


def style() -> AbstractContextManager[None]:
    """The settings a chart is drawn and saved under: `with style(): ...`."""
    return matplotlib.rc_context(_RC)


def open_chart(width_px: int, height_px: int) -> tuple[Figure, Axes]:
    """An empty chart of this many CSS pixels, with faint horizontal lines. Call it inside `style()`."""
    figure, (axes,) = open_charts(1, width_px, height_px)
    return figure, axes


def open_charts(
    count: int, width_px: int, height_px: int, *, columns: int | None = None
) -> tuple[Figure, list[Axes]]:
    """Empty charts, each of this many CSS pixels, as `open_chart` makes one: a row, or rows of so many columns."""
    columns = columns or count
    rows = -(-count // columns)
    layout = ConstrainedLayoutEngine(w_pad=2 / 72, h_pad=3 / 72)
    figure = Figure(figsize=(columns * width_px / 72, rows * height_px / 72), layout=layout)
    panels = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    for axes in panels:
        axes.grid(axis="y", color=COLOURS["hairline"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0, pad=5)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(plain_tick))
    return figure, panels


def plain_tick(value: float, _position: int | None = None) -> str:
    """A tick without a needless leading zero or trailing zeros: .25, 1.5, 40; small numbers as 3e-5."""
    if value and abs(value) < 1e-3:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return re.sub(r"^(-?)0\.", r"\1.", text) if text not in ("", "-0") else "0"


def svg_text(figure: Figure, *, key: str, description: str) -> str:
    """The figure as one `<svg>` element for a page: `key` makes its ids its own, `description` is read to
    the blind.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\g<1>#{key}-", svg)
    svg = re.sub(r"'DejaVu Sans'(?:, [^;\"]*)?", "var(--sans, system-ui, sans-serif)", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    opening, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]+"', opening)
    assert box, "matplotlib writes a viewBox"
    width = box.group().split()[2]
    label = escape(description, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box.group()} '
        f'class="chart" role="img" aria-label="{label}" '
        f'style="width:100%;max-width:{float(width):g}px">{rest}'
    )
