import html.parser
import json
import re
from importlib import resources

import pytest

from interp_train.report.page import write_report
from tests.report.fake_study import LAYER, drawn_images, write_run, write_study

IMAGES = drawn_images(60)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("outputs"), images=IMAGES)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(study):
    return (study / "report.html").read_text(encoding="utf-8")


class Collector(html.parser.HTMLParser):
    """Every attribute, and whether elements close in the order in which they opened."""

    VOID = ("meta", "img", "br", "path", "use", "rect", "circle", "image")

    def __init__(self):
        super().__init__()
        self.attributes, self.open, self.errors, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.errors.append((tag, self.getpos()))

    def handle_data(self, data):
        self.text.append(data)


def parsed(text):
    collector = Collector()
    collector.feed(text)
    return collector


def test_the_page_loads_nothing_from_outside(page):
    for tag, name, value in parsed(page).attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert value.startswith(("#", "data:image/")), (tag, name, value[:60])
        elif name not in ("aria-label", "alt"):
            assert "http" not in (value or ""), (tag, name, value[:60])
    for style in re.findall(r"<style.*?</style>", page, flags=re.DOTALL):
        assert "@import" not in style
        assert all(inside.startswith("#") for inside in re.findall(r"url\(([^)]*)\)", style))
    assert "<script" not in page
    assert "<link" not in page


def test_elements_close_in_order(page):
    found = parsed(page)
    assert found.errors == []
    assert found.open == []


def test_ids_are_unique_and_references_resolve(page):
    attributes = parsed(page).attributes
    ids = [value for _, name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for _, name, value in attributes if name == "href" and value[0] == "#"}
    targets |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets <= set(ids)


def test_every_picture_says_what_it_shows(page):
    attributes = parsed(page).attributes
    images = [value for tag, name, value in attributes if tag == "img" and name == "src"]
    alts = [value for tag, name, value in attributes if tag == "img" and name == "alt"]
    assert len(images) == len(alts) > 0
    assert all(alts)
    plots = [v for tag, name, v in attributes if (tag, name) == ("svg", "role")]
    labels = [v for tag, name, v in attributes if (tag, name) == ("svg", "aria-label")]
    assert len(plots) == len(labels) > 0


def test_all_parts_are_there(page):
    for heading in (
        "Results", "Paired differences", "Scores beside their baselines", "Over training",
        "The same images, the best filter of each network", "Where filters fire",
        "Best filter of each part", "Position against landmark", "What excites the filters",
        "What the decision rests on", "Cost", "What the measures show, and what they cannot",
        "Provenance", "Configuration",
    ):  # fmt: skip
        assert f">{heading}</h" in page, heading
    for fact in ("feedc0de", "CC BY 4.0", "a" * 40, "python 3.11.9", "interp-train study"):
        assert fact in page, fact
    assert len(page) < 10e6


def test_what_runs_wrote_is_escaped(page):
    assert "https://example.org/&lt;data&gt;?a=1&amp;b=2" in page
    assert "<data>" not in page


def test_colours_follow_the_reader_s_light_or_dark_screen(page):
    assert "prefers-color-scheme: dark" in page
    plots = re.findall(r'<div class="plot"><svg.*?</svg>', page, flags=re.DOTALL)
    assert plots
    for plot in plots:
        assert "var(--ink)" in plot
        assert "#1f2328" not in plot
        assert "#ffffff" not in plot


def test_every_figure_and_table_stands_alone(study):
    figures = {path.name for path in (study / "figures").iterdir()}
    for name in ("measures", "curves", "differences", "best_filters", "tracking"):
        for suffix in ("png", "pdf", "svg"):
            assert f"{name}_creatures.{suffix}" in figures
    assert {"heatmaps_grad_cam_creatures.png", "heatmaps_grad_cam_creatures.pdf"} <= figures
    tables = {path.name for path in (study / "tables").iterdir()}
    for name in (f"comparison_creatures_{LAYER}", "differences_creatures", "cost_creatures"):
        assert {f"{name}.csv", f"{name}.tex"} <= tables


def test_the_same_folder_gives_the_same_page(study, page):
    assert write_report(study).read_text(encoding="utf-8") == page


def test_failed_and_missing_runs_are_named_and_the_rest_is_reported(tmp_path):
    gone = {"failed": [("interpretable", 1)], "missing": [("ordinary", 0)]}
    study = write_study(tmp_path, **gone, images=IMAGES, landmarks=False)
    page = write_report(study).read_text(encoding="utf-8")
    assert "interpretable, creatures, seed 1 is failed: ValueError: &lt;no&gt; images." in page
    assert "ordinary, creatures, seed 0 is waiting." in page
    assert "2 of 4 with results" in page
    assert ">Results</h" in page
    assert ">Paired differences</h" not in page  # no seed has both


def test_a_study_without_any_result_still_has_a_page(tmp_path):
    study = write_study(tmp_path, seeds=(0,), missing=[("ordinary", 0), ("interpretable", 0)])
    page = write_report(study).read_text(encoding="utf-8")
    assert "No run has results yet." in page
    assert parsed(page).errors == []


def test_without_landmarks_the_page_says_what_is_missing_and_shows_no_zero(tmp_path):
    study = write_study(tmp_path, seeds=(0,), landmarks=False, images=IMAGES)
    page = write_report(study).read_text(encoding="utf-8")
    assert "part_tracking needs part_locations; this data set has none" in page
    assert "part tracking, mean\u00a0R²" not in page
    assert ">What the decision rests on</h" in page


def test_a_single_run(tmp_path):
    folder = write_run(tmp_path / "run", "only", 3, 0.8, images=IMAGES)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "run report" in page
    assert ">Paired differences</h" not in page
    assert parsed(page).errors == []


def test_several_categories_and_data_sets(tmp_path):
    study = write_study(
        tmp_path, seeds=(0,), data=("fold_0", "fold_1"), classes=3, images=drawn_images(90, 3)
    )
    page = write_report(study).read_text(encoding="utf-8")
    assert "All data sets together" in page
    assert page.count(">Filters by category</h") == 2
    assert "species 2" in page
    ids = [value for _, name, value in parsed(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_broken_files_are_named_and_the_rest_is_reported(tmp_path):
    folder = write_run(tmp_path / "run", "only", 0, 0.8, images=IMAGES)
    (folder / "measures" / f"{LAYER}.npz").write_bytes(b"PK broken")
    (folder / "metrics.csv").write_text("step,epoch,accuracy/top1\n1,0,not a number\n")
    page = write_report(folder).read_text(encoding="utf-8")
    assert f"{LAYER}.npz could not be read" in page
    assert "metrics.csv could not be read" in page
    assert "accuracy" in page


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="`folder` must be the folder of a run"):
        write_report(tmp_path)


def test_a_broken_status_file_does_not_stop_the_page(tmp_path):
    folder = write_run(tmp_path / "run", "only", 0, 0.8, images=IMAGES, landmarks=False)
    (folder / "status.json").write_text("{")
    assert "status.json could not be read" in write_report(folder).read_text(encoding="utf-8")


def test_the_templates_belong_to_the_package():
    folder = resources.files("interp_train.report") / "templates"
    assert {entry.name for entry in folder.iterdir()} >= {"page.html.j2", "style.css.j2"}


def test_the_study_file_may_lack_its_newer_entries(tmp_path):
    study = write_study(tmp_path, seeds=(0,), images=IMAGES, landmarks=False)
    described = json.loads((study / "study.json").read_text())
    del described["command"], described["ordinary_row"]
    (study / "study.json").write_text(json.dumps(described))
    assert ">Paired differences</h" not in write_report(study).read_text(encoding="utf-8")
