"""Read annotation files so that each mistake is reported with its file and line."""

import contextlib
import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, final

from interp_train.checks import check_choice
from interp_train.data.views import Box

_V = TypeVar("_V")

logger = logging.getLogger(__name__)

ON_ERROR = ("raise", "skip")


@final
class Mistakes:
    """What to do with bad images and inconsistent lines: raise at once, or leave out and report.

    Args:
        on_error: ``"raise"`` or ``"skip"``.

    Attributes:
        messages: what was left out.
    """

    def __init__(self, on_error: str) -> None:
        check_choice("on_error", on_error, ON_ERROR)
        self.skip = on_error == "skip"
        self.messages: list[str] = []

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note a ValueError of the block instead of raising it, if mistakes are skipped."""
        try:
            yield
        except ValueError as error:
            if not self.skip:
                raise ValueError(f"{error} Or leave such samples out: on_error=skip.") from error
            self.messages.append(str(error))

    def report(self) -> None:
        """Log number and list of what was left out since the last report."""
        if self.messages:
            listed = "\n  ".join(dict.fromkeys(self.messages))
            logger.warning("Left out for %d mistakes:\n  %s", len(self.messages), listed)
        self.messages = []


def rows_of(path: Path, num_columns: int, mistakes: Mistakes) -> Iterator[tuple[str, list[str]]]:
    """Lines of a text file, split at blanks.

    Yields:
        Place (``file:line``) and columns.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: for a line of another number of columns.
    """
    for count, line in enumerate(_text(path).splitlines(), 1):
        columns = line.split()
        where = f"{path}:{count}"
        if not columns:
            continue
        with mistakes.noted():
            if len(columns) != num_columns:
                raise ValueError(
                    f"each line must have {num_columns} columns, but {where} has {len(columns)}: "
                    f"{line!r}. Correct the line."
                )
        if len(columns) == num_columns:
            yield where, columns


def table_of(path: Path, num_columns: int, mistakes: Mistakes) -> dict[str, tuple[str, list[str]]]:
    """First column of a text file -> place (``file:line``) and the other columns.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: for a line of another number of columns, or a second line of the same key.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for where, (key, *fields) in rows_of(path, num_columns, mistakes):
        with mistakes.noted():
            if key in found:
                raise ValueError(
                    f"each key must occur once, but {where} repeats {key!r} of {found[key][0]}. "
                    f"Remove one of the lines."
                )
            found[key] = where, fields
    return found


def records_of(
    path: Path, columns: tuple[str, ...], mistakes: Mistakes
) -> Iterator[tuple[str, dict[str, str]]]:
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
        whole = None not in row and None not in row.values()
        with mistakes.noted():
            if not whole:
                raise ValueError(
                    f"each row must have as many fields as the header, but {where} has not. "
                    f"Correct the row."
                )
        if whole:
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


def box_of(row: Mapping[str, str], columns: Sequence[str], where: str) -> Box:
    """The box in four columns (left, top, right, bottom) of a row.

    Raises:
        ValueError: for a field that is no number, or an empty box.
    """
    left, top, right, bottom = (number(row[column], column, where) for column in columns)
    if not (right > left and bottom > top):
        raise ValueError(
            f"a box must have xmin < xmax and ymin < ymax, but {where} has "
            f"{(left, top, right, bottom)}. Correct it."
        )
    return left, top, right, bottom


def entry(entries: Mapping[str, _V], key: str, file: str, where: str) -> _V:
    """The entry of `key` in a file, or a ValueError that says which line asks for it in vain."""
    if key not in entries:
        raise ValueError(
            f"{file} must have a line for {key!r}, which {where} names, but has none. Add it, or "
            f"remove the other line."
        )
    return entries[key]


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(
            f"the data set must hold {path.name!r}, but {str(path)!r} is missing. Complete the "
            f"folder, or set data.root to the right one."
        )
    return path.read_text(encoding="utf-8")
