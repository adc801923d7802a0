"""Graphs for ComfyUI: boxes in columns and titled groups, written as the canvas stores them and as the API takes them.

A running server tells of each kind of node the order of its inputs and widgets; the boxes' heights follow from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SLOT_PX, WIDGET_PX, TITLE_PX = 20, 24, 30  # litegraph's own
HEADER_PX, PAD_PX, NODE_GAP_PX, GAP_PX = 40, 20, 30, 40  # of groups, and between nodes, groups and columns
OPTIONAL, LIST = 7, 6  # litegraph's shapes of a slot
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
GROUP_COLOUR = "#3f789e"
NOTE = "MarkdownNote"
NOTE_LINE_PX, NOTE_CHARACTER_PX = 12, 6  # of its text
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}

Told = Mapping[str, Any]
Inputs = dict[str, Any]
"""Links, and values of widgets, by the names of a node's inputs."""


class Link(NamedTuple):
    """An output of a node."""

    node: Node
    output: str


@dataclass
class Node:
    """A box; `extra_px` is room below its widgets, for text and pictures."""

    number: int
    kind: str
    inputs: Inputs
    left: int
    width: int
    extra_px: int
    title: str
    files: Sequence[Mapping[str, str]]  # the models that it loads, as the canvas stores them
    top: int = 0
    height: int = 0

    def __getitem__(self, output: str) -> Link:
        return Link(self, output)


@dataclass
class Graph:
    """Boxes in columns from left to right, in titled groups from top to bottom."""

    nodes: list[Node] = field(default_factory=list)
    groups: list[tuple[str, list[Node]]] = field(default_factory=list)
    left: int = 0
    width: int = 0

    def column(self, width: int) -> None:
        """Begins a column of boxes `width` px wide."""
        self.left += self.width + 2 * PAD_PX + GAP_PX if self.width else 0
        self.width = width

    def group(self, title: str) -> None:
        """Begins a group below the last one of the column; without a title it gets no frame."""
        self.groups.append((title, []))

    def node(
        self,
        kind: str,
        *,
        extra_px: int = 0,
        title: str = "",
        files: Sequence[Mapping[str, str]] = (),
        **inputs: Any,
    ) -> Node:
        """Adds a box below the last one of the group."""
        node = Node(len(self.nodes) + 1, kind, inputs, self.left, self.width, extra_px, title, files)
        self.nodes.append(node)
        self.groups[-1][1].append(node)
        return node

    def note(self, text: str) -> None:
        """Adds a note in Markdown, which is on the canvas only."""
        self.group("")
        shown = re.sub(r"\]\(.*?\)", "", text).split("\n")
        lines = [math.ceil(NOTE_CHARACTER_PX * len(line) / self.width) for line in shown]
        self.node(
            NOTE, extra_px=70 + sum(NOTE_LINE_PX * max(1, count) for count in lines), title="Note", text=text
        )

    def kinds(self) -> set[str]:
        """The kinds of nodes that the server must know."""
        return {node.kind for node in self.nodes} - {NOTE}

    def to_api(self, told: Told) -> dict[str, Any]:
        """The graph as the server takes it."""
        return {
            str(node.number): {
                "class_type": node.kind,
                "inputs": {name: _api_value(value, told) for name, value in node.inputs.items()},
            }
            for node in self.nodes
            if node.kind in told
        }

    def to_canvas(self, told: Told) -> dict[str, Any]:
        """The graph as the page stores it."""
        boxes = self._place(told)
        nodes = [_box(node, told) for node in self.nodes]
        links: list[list[Any]] = []
        for node, box in zip(self.nodes, nodes, strict=True):
            for slot, socket in enumerate(box["inputs"]):
                value = node.inputs.get(socket["name"])
                if isinstance(value, Link):
                    output = nodes[value.node.number - 1]["outputs"][_slot(value, told)]
                    socket["link"] = len(links) + 1
                    output["links"] = [*(output["links"] or []), socket["link"]]
                    ends = [value.node.number, _slot(value, told), node.number, slot]
                    links.append([socket["link"], *ends, output["type"]])
        return {
            "version": 0.4,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": boxes,
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [60, 80]}},
        }

    def _place(self, told: Told) -> list[dict[str, Any]]:
        """Gives the nodes their heights and places; the groups' frames."""
        frames: list[dict[str, Any]] = []
        bottoms: dict[int, int] = {}  # of the columns, by their left
        for number, (title, nodes) in enumerate(self.groups, start=1):
            left, width = nodes[0].left, nodes[0].width
            start = bottoms[left] + GAP_PX if left in bottoms else 0
            top = start + (HEADER_PX if title else 0)
            for node in nodes:
                node.top, node.height = top + TITLE_PX, _least_height(node, told) + node.extra_px
                top = node.top + node.height + NODE_GAP_PX
            bottoms[left] = top - NODE_GAP_PX + (PAD_PX if title else 0)
            if title:
                bounding = [left - PAD_PX, start, width + 2 * PAD_PX, bottoms[left] - start]
                looks = {"color": GROUP_COLOUR, "font_size": 24, "flags": {}}
                frames.append({"id": number, "title": title, "bounding": bounding, **looks})
        return frames


def _box(node: Node, told: Told) -> dict[str, Any]:
    """A node as the page stores it, still without links."""
    sockets, widgets = _inputs(node, told)
    facts = told.get(node.kind, {"output": (), "output_name": (), "output_is_list": ()})
    named = {"Node name for S&R": node.kind} if node.kind in told else {}
    return {
        "id": node.number,
        "type": node.kind,
        "pos": [node.left, node.top],
        "size": [node.width, node.height],
        "flags": {},
        "order": node.number - 1,
        "mode": 0,
        "inputs": [
            *({"name": name, "type": kind, "link": None, **shape} for name, kind, shape in sockets),
            *(
                {"name": name, "type": kind, "widget": {"name": name}, "link": None, **shape}
                for name, kind, shape in widgets
            ),
        ],
        "outputs": [
            {"name": name, "type": kind, "links": None, **({"shape": LIST} if is_list else {})}
            for name, kind, is_list in zip(facts["output_name"], facts["output"], facts["output_is_list"])
        ],
        **({"title": node.title} if node.title else {}),
        "properties": {**named, **({"models": list(node.files)} if node.files else {})},
        "widgets_values": _widgets_values(node, told),
        **({} if node.kind in told else NOTE_COLOURS),
    }


def _inputs(node: Node, told: Told) -> tuple[list[Any], list[Any]]:
    """(sockets, widgets) of a node in the page's order, each as (name, type, shape)."""
    sockets: list[Any] = []
    widgets: list[Any] = []
    for part, shape in (("required", {}), ("optional", {"shape": OPTIONAL})):
        for name, (kind, *_) in told.get(node.kind, {}).get("input", {}).get(part, {}).items():
            of_kind = "COMBO" if isinstance(kind, list) else kind
            (widgets if of_kind in WIDGET_TYPES else sockets).append((name, of_kind, shape))
    return sockets, widgets


def _widgets_values(node: Node, told: Told) -> list[Any]:
    """What the page stores of a node's widgets: their values, and those of widgets that it adds itself."""
    if node.kind not in told:
        return list(node.inputs.values())
    given = told[node.kind]["input"]
    values: list[Any] = []
    buttons: list[str] = []
    for name, *_ in _inputs(node, told)[1]:
        options = [*{**given["required"], **given.get("optional", {})}[name], {}][1]
        value = node.inputs[name]
        values.append("" if isinstance(value, Link) else value)
        values += ["fixed"] if options.get("control_after_generate") else []
        buttons += ["image"] if options.get("image_upload") else []
    return values + buttons


def _least_height(node: Node, told: Told) -> int:
    """The height that the page gives a node without pictures."""
    if node.kind not in told:
        return 0
    slots = max(len(_inputs(node, told)[0]), len(told[node.kind]["output"]))
    widgets = len(_widgets_values(node, told))
    return slots * SLOT_PX + 6 + (widgets * WIDGET_PX + 8 if widgets else 0)


def _api_value(value: Any, told: Told) -> Any:
    return [str(value.node.number), _slot(value, told)] if isinstance(value, Link) else value


def _slot(link: Link, told: Told) -> int:
    """The number of an output."""
    return list(told[link.node.kind]["output_name"]).index(link.output)
