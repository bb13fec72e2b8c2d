"""What counts as the same configuration."""

import subprocess

import pytest

import interp_train
from interp_train import provenance
from interp_train.provenance import command, commit, config_hash, versions

CONFIG = {
    "name": "a", "output_dir": "/x", "folder": None, "resume": None, "seed": 0,
    "data": {"root": "/data/CUB", "size": 3}, "learning": {"lr": 0.1, "weights": "w.pth"},
    "cache": {"enabled": True, "folder": "/cache"}, "callbacks": {"progress": {}, "parts": {}},
}  # fmt: skip


def changed(key, value):
    copy = {k: dict(v) if isinstance(v, dict) else v for k, v in CONFIG.items()}
    node, _, last = key.rpartition(".")
    (copy[node] if node else copy)[last] = value
    return copy


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "b"), ("output_dir", "/y"), ("folder", "/z"), ("report", False),
        ("data.root", "/elsewhere/CUB"), ("cache.folder", "/c2"), ("callbacks.progress", {"a": 1}),
    ],
)  # fmt: skip
def test_places_and_names_do_not_count(key, value):
    assert config_hash(changed(key, value)) == config_hash(CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1), ("data.size", 4), ("data.root", "/data/CUB2"), ("learning.lr", 0.2),
        ("learning.weights", "v.pth"), ("cache.enabled", False), ("callbacks.parts", {"a": 1}),
    ],
)  # fmt: skip
def test_what_changes_a_result_counts(key, value):
    assert config_hash(changed(key, value)) != config_hash(CONFIG)


def test_the_order_of_keys_does_not_count():
    assert config_hash(dict(reversed(CONFIG.items()))) == config_hash(CONFIG)


def test_another_version_of_the_package_counts(monkeypatch):
    before = config_hash(CONFIG)
    monkeypatch.setattr(interp_train, "__version__", "99.0")
    assert config_hash(CONFIG) != before


def test_versions_name_the_package_and_torch():
    assert versions()["interp_train"] == interp_train.__version__
    assert "torch" in versions()


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/x/bin/interp-train", "interp-train train 'a=b c'"),
        ("/x/interp_train/cli.py", "interp-train train 'a=b c'"),
        ("mine.py", "python mine.py train 'a=b c'"),
    ],
)
def test_the_command_is_one_to_repeat(monkeypatch, program, expected):
    monkeypatch.setattr("sys.argv", [program, "train", "a=b c"])
    assert command() == expected


def test_the_commit_is_none_outside_of_git(monkeypatch, tmp_path):
    commit.cache_clear()
    monkeypatch.setattr(provenance.interp_train, "__file__", str(tmp_path / "a" / "__init__.py"))
    assert commit() is None
    (tmp_path / ".git").mkdir()

    def fail(*arguments, **options):
        raise subprocess.CalledProcessError(128, "git")

    commit.cache_clear()
    monkeypatch.setattr(subprocess, "run", fail)
    assert commit() is None
    commit.cache_clear()
