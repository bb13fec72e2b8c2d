"""What a user gets who installs the package without the repository."""

import os
import subprocess
import sys
import zipfile

import pytest

import interp_train
from tests.guards.sources import REPOSITORY


def run(*command, cwd, path=None):
    """Standard output of a command that succeeds, with only `path` added to Python's."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    finished = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    run(*build, cwd=REPOSITORY)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_every_source_and_every_configuration(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {f"interp_train/{path}" for path in relative("interp_train", "*.py")}
    configs = {f"interp_train/conf/{path}" for path in relative("conf", "*.yaml")}
    assert configs
    assert sources | configs | {"interp_train/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "outputs/", "scripts/"))]


def relative(folder, pattern):
    """Paths below a folder of the repository."""
    root = REPOSITORY / folder
    return [path.relative_to(root).as_posix() for path in root.rglob(pattern)]


@pytest.mark.slow
def test_an_installed_wheel_composes_from_any_folder(wheel, tmp_path):
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", str(installed), str(wheel), cwd=elsewhere)
    command = (sys.executable, "-m", "interp_train.cli")
    where = run(
        sys.executable, "-c", "import interp_train; print(interp_train.__file__)",
        cwd=elsewhere, path=installed,
    )  # fmt: skip
    assert where.startswith(str(installed))
    composed = run(*command, "train", "seed=7", "--cfg", "job", cwd=elsewhere, path=installed)
    assert "seed: 7" in composed
    assert "interp_train.learning.classifier.Classifier" in composed
    assert (installed / "bin" / "interp-train").exists()
    assert list(elsewhere.iterdir()) == []


def test_importing_the_package_does_not_import_torch():
    code = "import interp_train, sys; print('torch' in sys.modules, interp_train.__version__)"
    printed = run(sys.executable, "-c", code, cwd=REPOSITORY)
    assert printed.split() == ["False", interp_train.__version__]


def test_load_is_public_and_other_names_are_not_there():
    from interp_train.systems import load_system

    assert interp_train.load is load_system
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        interp_train.laod  # noqa: B018
