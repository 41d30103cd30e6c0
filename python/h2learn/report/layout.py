"""The one look of the tables on the screen."""

from __future__ import annotations

from rich import box
from rich.table import Table

__all__ = ["number_table"]


def number_table(title: str, *columns: str) -> Table:
    """An empty table: a column of names, which may wrap, and columns of numbers, which may not."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    label, *numbers = columns
    table.add_column(label, overflow="fold", min_width=8)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
