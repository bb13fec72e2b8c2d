"""Labels of units, read from tables in several forms."""

import json

import pytest

from interp_train.report.concept_labels import ConceptLabel, find_labels, read_labels


def test_a_csv_file_the_highest_iou_counts_and_other_layers_do_not(tmp_path):
    path = tmp_path / "units.csv"
    path.write_text("layer,unit,label,iou\ntop,3,head,0.05\ntop,3,wing,0.2\ntop,4,tail,0.03\n"
                    "mid,3,leg,0.9\n")  # fmt: skip
    found = read_labels(path, ["features.12", "top"])
    assert found == {3: ConceptLabel("wing", 0.2), 4: ConceptLabel("tail", 0.03)}
    assert found[3].is_detector
    assert not found[4].is_detector


@pytest.mark.parametrize(
    "content",
    [
        [{"unit": 3, "label": "head", "iou": 0.1}],
        {"units": [{"Unit": 3, "concept": "head", "IoU": 0.1}]},
        {"top": [{"unit": 3, "label": "head", "iou": 0.1}], "mid": [{"unit": 3, "label": "leg",
         "iou": 0.9}]},
        {"layers": {"top": {"units": [{"unit": 3, "label": "head", "best_iou": 0.1}]}}},
        {"layer": "top", "quantile": 0.005, "units": {"3": {"label": "head", "iou": 0.1}}},
    ],
)  # fmt: skip
def test_json_files_in_several_forms(tmp_path, content):
    path = tmp_path / "units.json"
    path.write_text(json.dumps(content))
    assert read_labels(path, ["top"]) == {3: ConceptLabel("head", 0.1)}


def test_tables_are_found_in_a_run_folder(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "dissection_notes.csv").write_text("a,b\n1,2\n")
    (tmp_path / "tables" / "comparison.csv").write_text("unit,label,iou\n1,wrong,0.9\n")
    assert find_labels(tmp_path, ["top"]) == ({}, None)
    other = tmp_path / "tables" / "dissection_mid.csv"
    other.write_text("unit,label,iou\n1,leg,0.9\n")
    assert find_labels(tmp_path, ["top"]) == ({}, None)  # of another layer
    path = tmp_path / "tables" / "dissection_top.csv"
    path.write_text("unit,label,iou\n1,head,0.5\n")
    assert find_labels(tmp_path, ["features.12", "top"]) == ({1: ConceptLabel("head", 0.5)}, path)
    assert find_labels(None, ["top"]) == ({}, None)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, FileNotFoundError, "`dissection` must be a csv or JSON file .* does not exist"),
        ("unit,label\n1,head\n", ValueError, "is not: a line lacks 'iou'"),
        ("unit,label,iou\nx,head,.1\n", ValueError, "is not: invalid literal"),
        ("unit,label,iou,layer\n1,head,.1,mid\n", ValueError, r"layer 'top'.*\(it has mid\)"),
    ],
)
def test_errors(tmp_path, text, error, message):
    path = tmp_path / "units.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=message):
        read_labels(path, ["top"])
