"""What is written beside the code is true: the method table, names, versions and addresses."""

import os
import re
import subprocess
import tomllib

import pytest
import yaml

from tests.guards.method_table import with_table
from tests.guards.sources import REPOSITORY

# Written in pieces, so that this file does not contain them.
REGISTRIES = tuple(
    first + rest
    for first, rest in [
        ("pypi", ".org"),
        ("python", "hosted.org"),
        ("download.py", "torch.org"),
        ("registry.npm", "js.org"),
        ("conda.ana", "conda.org"),
        ("--index", "-url"),
        ("--find", "-links"),
    ]
)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|home|root|opt|Users|mnt)/[\w.]")
TEXT_FILES = {".py", ".md", ".toml", ".txt", ".yaml", ".cff", ".html", ".css", ".j2", ".cfg", ""}


def address_violations(root, files):
    """Every line that names a package registry or a path of one machine."""
    found = []
    for name in files:
        path = root / name
        if path.suffix not in TEXT_FILES or not path.is_file():
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if any(address in line for address in REGISTRIES) or MACHINE_PATH.search(line):
                found.append(f"{name}:{number}: {line.strip()[:80]}")
    return found


def tracked_files():
    """What the repository holds; all files where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("needs a git checkout to know which files belong to the repository")
    return listed.stdout.split("\0")[:-1]


def test_no_registry_and_no_machine_is_named():
    assert address_violations(REPOSITORY, tracked_files()) == []


@pytest.mark.parametrize(
    "line", [f"see https://{REGISTRIES[0]}/p", f"pip {REGISTRIES[5]} x", "cd /" + "home/me/x"]
)
def test_an_address_is_found(tmp_path, line):
    (tmp_path / "a.md").write_text(f"fine: tests/home/x\n{line}\n")
    assert len(address_violations(tmp_path, ["a.md"])) == 1


def test_the_method_table_is_up_to_date():
    text = (REPOSITORY / "README.md").read_text("utf-8")
    assert text == with_table(text, REPOSITORY), "run `make table`"


def test_a_new_method_makes_the_table_out_of_date(plant):
    plant("interp_train/diagnosis/heatmaps/planted.py", '"""Where it\nlooks.\n\nMore."""\n')
    target = "_target_: interp_train.diagnosis.heatmaps.planted.Planted\n"
    copy = plant("conf/heatmap/planted.yaml", target)
    text = (copy / "README.md").read_text("utf-8")
    assert "| Heatmaps | `heatmap=planted` | Where it looks | | 4 | |" in with_table(text, copy)
    with pytest.raises(ValueError, match=r"README\.md must contain the lines"):
        with_table("no marks", copy)


def test_constraints_pin_every_requirement():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.match(r"[\w-]+", text)[0].lower() for text in required}
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    assert names - pinned == set()


def test_versions_agree():
    import interp_train

    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == interp_train.__version__


def test_scripts_hold_no_logic():
    for path in sorted((REPOSITORY / "scripts").glob("*.py")):
        lines = path.read_text("utf-8").splitlines()
        assert f'    sys.exit(main(["{path.stem}", *sys.argv[1:]]))' in lines
        assert len(lines) <= 8


def test_files_that_are_run_may_be_run():
    for name in (".ci/run", ".ci/install"):
        assert os.access(REPOSITORY / name, os.X_OK)
