"""Tables in Markdown, and their places in a page; the words between them are the page's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["filled", "table"]


def table(head: Sequence[str], alignment: str, rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown; `alignment` has an l or r for each column."""
    rule = ["---:" if side == "r" else "---" for side in alignment]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def filled(page: str, parts: Mapping[str, Callable[[], str]], name: str) -> str:
    """Return a page with its tables made anew.

    Parameters
    ----------
    parts
        What makes each table, by the name of its place.
    name
        Of the page, for the message.

    Raises
    ------
    ValueError
        If the page has no place for one of them.
    """
    for title, make in parts.items():
        begin, end = f"<!-- table: {title} -->\n\n", "\n\n<!-- end of table -->"
        before, marker, rest = page.partition(begin)
        _, end_marker, after = rest.partition(end)
        if not marker or not end_marker:
            raise ValueError(f"{name} has no place for the table {title}")
        page = before + begin + make() + end + after
    return page
