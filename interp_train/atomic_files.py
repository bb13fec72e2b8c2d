"""Write files so that a reader, a crash or a full disk never meets a half-written one."""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` in one step; its folder must exist.

    Raises:
        OSError: if the disk is full or the folder is not writable; the old file stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by `value` as indented JSON; see `write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty where there is no file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content


def replace_by_copy(source: Path, destination: Path) -> None:
    """Make `destination` a copy of `source` in one step, without using disk where links work.

    The copy keeps its content when `source` is later replaced (not when it is written into).
    """
    part = destination.with_name(f".{destination.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        try:
            os.link(source, part)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, part)
        part.replace(destination)
    finally:
        part.unlink(missing_ok=True)
