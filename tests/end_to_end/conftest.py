"""The command, in this process and in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from interp_train import cli
from interp_train.config_places import CONFIG_DIR_VARIABLE

REPOSITORY = Path(__file__).parents[2]
TOY = (
    "--trust", "tests", "--config-dir", str(REPOSITORY / "tests" / "end_to_end" / "conf"),
)  # fmt: skip
TOY_GROUPS = (
    "data=squares", "backbone=two_layers", "learning=squares", "filter_objective=none",
    "heatmap=[]", "callbacks=[progress,finite_loss,predictions]", "trainer.max_epochs=2",
    "report=false",
)  # fmt: skip


@pytest.fixture
def command(monkeypatch, capsys):
    """Function: run the command in this process; returns (exit code, output, errors)."""
    monkeypatch.delenv(CONFIG_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["interp-train", *map(str, arguments)])
        try:
            code = cli.main(list(map(str, arguments)))
        except SystemExit as end:
            code = end.code or 0
        finally:
            os.environ.pop(CONFIG_DIR_VARIABLE, None)
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture
def process():
    """Function: run the command in a process of its own; returns the completed process."""

    def run(*arguments, **options):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "interp_train.cli", *map(str, arguments)],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            **options,
        )

    return run
