"""Read annotation files so that each mistake is reported with its file and line."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

_V = TypeVar("_V")


def rows_of(path: Path, num_columns: int) -> Iterator[tuple[str, list[str]]]:
    """Lines of a text file, split at blanks.

    Yields:
        Place (``file:line``) and columns.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: for a line of another number of columns.
    """
    for number, line in enumerate(_text(path).splitlines(), 1):
        columns = line.split()
        where = f"{path}:{number}"
        if not columns:
            continue
        if len(columns) != num_columns:
            raise ValueError(
                f"each line must have {num_columns} columns, but {where} has {len(columns)}: "
                f"{line!r}. Correct the line."
            )
        yield where, columns


def records_of(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a csv file with a header.

    Yields:
        Place (``file:line``) and column name -> text.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the header lacks one of `columns`, or a row is too short or too long.
    """
    reader = csv.DictReader(_text(path).splitlines())
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(
            f"{path}:1 must name the columns {', '.join(columns)}, but lacks "
            f"{', '.join(missing)}. Correct the header."
        )
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if None in row or None in row.values():
            raise ValueError(
                f"each row must have as many fields as the header, but {where} has not. Correct "
                f"the row."
            )
        yield where, row


def number(text: str, name: str, where: str) -> float:
    """The number in a field; `name` and `where` go into the message.

    Raises:
        ValueError: if it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"{name} must be a number, but {where} has {text!r}. Correct the line."
        ) from None


def entry(entries: Mapping[str, _V], key: str, name: str, where: str) -> _V:
    """The entry of `key`, or a ValueError that says which line asks for it in vain."""
    if key not in entries:
        raise ValueError(
            f"{name} must be known, but {where} names {key!r}, which is not. The files disagree."
        )
    return entries[key]


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(
            f"the data set must hold {path.name!r}, but {str(path)!r} is missing. Complete the "
            f"folder, or set data.root to the right one."
        )
    return path.read_text(encoding="utf-8")
