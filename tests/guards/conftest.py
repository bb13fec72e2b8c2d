"""A copy of the repository, and a way to plant violations in it."""

import pytest

from tests.guards.sources import copy_repository


@pytest.fixture
def copy(tmp_path):
    """Folder of the copy."""
    return copy_repository(tmp_path / "copy")


@pytest.fixture
def plant(copy):
    """Function: append `text` to a file of the copy (made if missing); returns the copy.

    With `instead_of`, that passage is replaced; it must occur.
    """

    def write(path, text, instead_of=None):
        file = copy / path
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.read_text("utf-8") if file.exists() else ""
        if instead_of is not None:
            assert instead_of in before
            after = before.replace(instead_of, text)
        else:
            after = before + text
        file.write_text(after, "utf-8")
        return copy

    return write
