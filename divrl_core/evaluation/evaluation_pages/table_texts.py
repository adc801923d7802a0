"""Tables as Markdown and as LaTeX (booktabs)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .tables import REWARDED, Cell, Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "−": "$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "†": r"\textdagger{}",
    "–": "--",
    "’": "'",
    "\u00a0": "~",
}
_LATIN = range(0xC0, 0x180)  # letters that pdfLaTeX sets as they are

PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
"""


def markdown(table: Table) -> str:
    """A heading, the table, and its foot as a list."""
    header = ["measure", *table.header, "n"]
    lines = [
        f"# {_plain(table.title)}",
        "",
        _line([_plain(name) for name in header]),
        _line(["---", *["---:"] * (len(header) - 1)]),
    ]
    lines += [
        _line([_plain(row.label), *(_markdown_cell(cell) for cell in row.cells), row.n]) for row in table.rows
    ]
    return "\n".join([*lines, "", *(f"- {_plain(line)}" for line in table.foot), ""])


def latex(table: Table) -> str:
    r"""A table environment for a paper that uses booktabs and graphicx; a wide one is shrunk to \linewidth."""
    names = " & ".join(escape(name) for name in ("measure", *table.header, "n"))
    rows = [
        " & ".join([escape(row.label), *(_latex_cell(cell) for cell in row.cells), escape(row.n)]) + r" \\"
        for row in table.rows
    ]
    foot = "\\par ".join(escape(line) for line in table.foot)
    return "\n".join(
        [
            "% needs booktabs and graphicx",
            r"\begin{table}[ht]",
            r"\centering",
            rf"\caption{{{escape(table.title)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) + 1)}}}",
            r"\toprule",
            rf"{names} \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            rf"\par\smallskip{{\scriptsize\raggedright {foot}\par}}",
            r"\end{table}",
            "",
        ]
    )


def latex_document(names: Sequence[str]) -> str:
    r"""A document that shows tables, each from a file NAME.tex beside it."""
    inputs = "\n".join(rf"\input{{{name}}}" + "\n" + r"\clearpage" for name in names)
    return f"{PREAMBLE}{inputs}\n\\end{{document}}\n"


def escape(text: str) -> str:
    """Text as pdfLaTeX sets it; letters it does not have are written as their numbers, U+4E2D."""
    return "".join(_escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    if letter in _LATEX:
        return _LATEX[letter]
    if letter.isascii():
        return letter if letter.isprintable() else " "
    return letter if ord(letter) in _LATIN else rf"\texttt{{U+{ord(letter):04X}}}"


def _latex_cell(cell: Cell) -> str:
    value = escape(cell.text)
    if cell.mark == "best" or cell.is_moved:
        value = rf"\textbf{{{value}}}"
    elif cell.mark == "second":
        value = rf"\underline{{{value}}}"
    if cell.is_rewarded:
        value += rf"\textsuperscript{{{escape(REWARDED)}}}"
    return value + (rf" {{\scriptsize {escape(cell.interval)}}}" if cell.interval else "")


def _markdown_cell(cell: Cell) -> str:
    value = cell.text
    if cell.mark == "best" or cell.is_moved:
        value = f"**{value}**"
    elif cell.mark == "second":
        value = f"<ins>{value}</ins>"
    return value + (REWARDED if cell.is_rewarded else "") + (f" {cell.interval}" if cell.interval else "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text without a meaning in Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split(" ")))
