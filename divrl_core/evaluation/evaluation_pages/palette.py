"""A colour and a mark for every model: no two alike, and told apart without colour too.

Colours are names in `svg.COLOURS`, which the page turns light or dark. A model that has its name there keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..svg import COLOURS

OWN = ("base", "explore", "suppress", "vsm", "linear")
ORDER = ("base", "suppress", "explore", "vsm", "linear", "ochre", "rose")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DARK = {
    "ink": "#eceae4",
    "muted": "#9aa1ab",
    "hairline": "#33373e",
    "paper": "#15171b",
    "base": "#a3abb6",
    "explore": "#f28e4b",
    "suppress": "#56b4e9",
    "vsm": "#4cc3a0",
    "linear": "#d58ad1",
    "ochre": "#d9b648",
    "rose": "#f07fa8",
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """colour: a name in COLOURS. marker: matplotlib's."""

    colour: str
    marker: str

    @property
    def hex(self) -> str:
        """The colour on a light ground."""
        return COLOURS[self.colour]


def looks(names: Sequence[str]) -> dict[str, Look]:
    """One look a model; with more than seven colours repeat, beside other marks."""
    free = [colour for colour in ORDER if colour not in names]
    found = {}
    for place, name in enumerate(names):
        colour = name if name in OWN else (free.pop(0) if free else ORDER[place % len(ORDER)])
        marker = MARKERS[(place + place // len(MARKERS)) % len(MARKERS)]
        found[name] = Look(colour=colour, marker=marker)
    return found


def standalone(svg: str) -> str:
    """A chart of a page as a file of its own, light or dark as its reader's system is."""
    opening, rest = svg.split(">", 1)
    light, dark = (";".join(f"--{name}:{colour}" for name, colour in one.items()) for one in (COLOURS, DARK))
    style = (
        f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        "svg{background:var(--paper)}</style>"
    )
    ground = '<rect width="100%" height="100%" style="fill:var(--paper)"/>'
    return f'<?xml version="1.0" encoding="utf-8"?>\n{opening}>{style}{ground}{rest}'
