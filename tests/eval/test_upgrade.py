"""Results of earlier formats."""

import json

import pytest

from pixeldefend.errors import DataError
from pixeldefend.eval import read_results, upgrade

OLD = {
    "data": "ramps",
    "command": "pixeldefend benchmark --scores fused --controls --keep runs/kept",
    "score": "fused",
    "asking_the_classifier": ["purified_disagreement"],
    "rows": [{"attack": "pgd-8", "control": False, "score": "fused", "auroc": 0.9}],
    "controls": [
        {"what": "jpeg-75", "images": 9, "score": "fused", "flagged_at_0.01": 0.5},
        {"what": "mnist", "images": 9, "score": "fused", "flagged_at_0.01": 1.0},
    ],
    "histograms": {"fused": {"edges": [0, 1], "counts": {"clean": [3]}}},
    "adaptive": {
        "rows": [{"attack": "spsa", "fooled": 1.0, "success_at_fpr_0.05": 0.4, "success_at_fpr_0.05_ci": [0.1, 0.7]}],
        "checks": [
            {"what": "spsa: more budget does no worse", "passed": True, "detail": ""},
            {"what": "within 32/255 nearly every image gets by", "passed": True, "detail": "100%"},
            {"what": "to know the detector helps at 8/255", "passed": True, "detail": ""},
        ],
    },
    "gallery": [{"attack": "pgd-8", "read": 1, "read_attacked": 2, "read_purified": None}],
}
NEW = {
    "format": 2,
    "data": "ramps",
    "command": "pixeldefend benchmark --statistics fused --corruptions --cache runs/kept",
    "statistic": "fused",
    "classifier_statistics": ["purified_disagreement"],
    "rows": [{"attack": "pgd-8", "is_control": False, "statistic": "fused", "auroc": 0.9}],
    "benign_corruptions": [{"what": "jpeg-75", "images": 9, "statistic": "fused", "flagged_at_0.01": 0.5}],
    "other_data": [{"what": "mnist", "images": 9, "statistic": "fused", "flagged_at_0.01": 1.0}],
    "histograms": {"fused": {"edges": [0, 1], "counts": {"clean": [3]}}},
    "adaptive": {
        "rows": [
            {
                "attack": "spsa",
                "misclassified": 1.0,
                "evasion_rate_at_fpr_0.05": 0.4,
                "evasion_rate_at_fpr_0.05_ci": [0.1, 0.7],
            }
        ],
        "checks": [
            {"what": "spsa: a larger budget does no worse", "passed": True, "detail": ""},
            {"what": "nearly every image evades within 32/255", "passed": True, "detail": "100%"},
            {"what": "knowing the detector helps at 8/255", "passed": True, "detail": ""},
        ],
    },
    "examples": [{"attack": "pgd-8", "predicted": 1, "predicted_attacked": 2, "predicted_purified": None}],
}


def test_every_name_is_upgraded_and_no_figure_changes(tmp_path):
    before = json.dumps(OLD)
    assert upgrade(OLD) == NEW
    assert json.dumps(OLD) == before
    assert upgrade(NEW) == NEW
    (tmp_path / "results.json").write_text(before)
    assert read_results(tmp_path / "results.json") == NEW


def test_a_comparison_is_upgraded_with_all_its_detectors():
    found = upgrade({"data": "ramps", "scores": ["fused"], "detectors": {"score": OLD}})
    assert found["statistics"] == ["fused"]
    assert found["detectors"] == {"score": NEW}  # a detector's name is no key of ours


def test_a_later_format_is_refused():
    with pytest.raises(DataError, match="3"):
        upgrade({"format": 3})
