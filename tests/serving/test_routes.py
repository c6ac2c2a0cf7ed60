"""The service's own interface, through HTTP."""

import base64
import io

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from helpers import Brightness, bomb
from PIL import Image
from serving.common import ATTACKED, CLEAN, NOISE, app_of, form, png

from pixeldefend.classifier import ResNet
from pixeldefend.errors import IMAGE_ERROR_KINDS
from pixeldefend.screening.audit_log import AuditLog


def test_an_image_is_judged_as_by_the_detector_however_it_is_sent(client, tiny_detector):
    expected = tiny_detector.judge(np.stack([CLEAN, ATTACKED]))
    images = [
        {"name": f"{i}.png", "data": base64.b64encode(png(image)).decode()} for i, image in enumerate((CLEAN, ATTACKED))
    ]
    answers = [
        client.post("/v1/screen", files=form(CLEAN, ATTACKED)),
        client.post("/v1/screen", json={"images": images}),
    ]
    for answer in answers:
        assert answer.status_code == 200
        records = answer.json()["records"]
        assert [record["path"] for record in records] == ["0.png", "1.png"]
        assert [record["verdict"] for record in records] == ["clean", "adversarial"]
        assert [record["error_kind"] for record in records] == [None, None]
        np.testing.assert_allclose([record["p_value"] for record in records], expected.p_value)
        np.testing.assert_allclose([record["score"] for record in records], expected.score, rtol=1e-5)
        assert answer.headers["x-request-id"] == answer.json()["request_id"]
    alone = client.post("/v1/screen?name=1.png", content=png(ATTACKED)).json()["records"]
    same = {**answers[0].json()["records"][1], "id": alone[0]["id"]}
    assert alone == [pytest.approx(same)]
    assert len({answer.json()["request_id"] for answer in answers}) == 2


def test_every_verdict_is_in_the_log_under_its_id(client, tmp_path):
    answer = client.post("/v1/screen", content=png(ATTACKED)).json()
    (row,) = AuditLog(tmp_path / "log.sqlite").rows()
    (record,) = answer["records"]
    assert (row["id"], row["request"], row["client"]) == (record["id"], answer["request_id"], "testclient")
    for name in record.keys() - {"query_attack"}:
        assert row[name] == record[name]
    listed = client.get("/v1/verdicts").json()[0]
    assert {name: listed[name] for name in record} == record


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "empty"),
        (b"no image", "format"),
        (png(np.zeros((9, 9), np.uint8)), "size"),
        (bomb(200, 200), "too large"),
        (bomb(100_000, 100_000), "too large"),
        (png(CLEAN)[:40], "damaged"),
    ],
    ids=["empty", "text", "9x9", "200x200", "bomb", "cut"],
)
def test_an_image_that_cannot_be_screened_is_an_error_record(client, body, kind):
    assert kind in IMAGE_ERROR_KINDS
    for answer in (client.post("/v1/screen", content=body), client.post("/v1/explain", content=body)):
        assert answer.status_code == 422
        found = answer.json()
        record = found["record"] if "record" in found else found["records"][0]
        assert (record["verdict"], record["error_kind"]) == ("error", kind)
        assert record["error"]
    assert found["pictures"] is None
    assert f'pixeldefend_errors_total{{kind="{kind}"}} 2.0' in client.get("/metrics").text


def test_one_error_among_several_images_does_not_stop_the_others(client):
    answer = client.post("/v1/screen", files=[("image", ("a.png", b"no image")), *form(CLEAN)])
    assert answer.status_code == 200
    assert [record["verdict"] for record in answer.json()["records"]] == ["error", "clean"]


def test_malformed_requests_are_refused_with_a_reason(client):
    json_body = {"content-type": "application/json"}
    for status, answer in [
        (400, client.post("/v1/screen", json={"image": "x"})),
        (400, client.post("/v1/screen", json={"images": []})),
        (400, client.post("/v1/screen", json={"images": [{"data": ""}] * 257})),
        (400, client.post("/v1/screen", json={"images": [{"data": "?"}]})),
        (400, client.post("/v1/screen", json={"images": [{"data": 7}]})),
        (400, client.post("/v1/screen", content=b"{", headers=json_body)),
        (400, client.post("/v1/screen", content=b"[" * 10_000, headers=json_body)),
        (400, client.post("/v1/screen", content=b"x", headers={"content-type": "multipart/form-data; boundary=b"})),
        (400, client.post("/v1/screen", content=b"x", headers={"content-type": "multipart/form-data"})),
        (415, client.post("/v1/screen", content=b"x", headers={"content-encoding": "gzip"})),
        (404, client.post("/v1/feedback", json={"id": "x", "feedback": "clean"})),
        (404, client.get("/v1/nothing")),
        (405, client.get("/v1/screen")),
    ]:
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]
        assert answer.json()["status"]


def test_the_explanation_shows_surprisal_and_purification(client):
    found = client.post("/v1/explain?eps=32&name=x.png", content=png(ATTACKED)).json()
    assert found["record"]["verdict"] == "adversarial"
    pictures = found["pictures"]
    decoded = {}
    for name in ("image", "surprisal", "purified", "difference"):
        data = base64.b64decode(pictures[name].removeprefix("data:image/png;base64,"))
        decoded[name] = np.asarray(Image.open(io.BytesIO(data))).astype(int)
        assert decoded[name].shape[:2] == (8, 8)
    np.testing.assert_array_equal(decoded["image"], ATTACKED)
    assert 0 < abs(decoded["purified"] - ATTACKED).max() <= 32
    label = Brightness()(torch.from_numpy(ATTACKED)[None, None] / 255).argmax(1)
    assert pictures["label_before"] == int(label)
    assert client.post("/v1/explain?eps=256", content=png(CLEAN)).status_code == 422


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28)])
def test_labels_are_given_where_the_classifier_fits(tiny_detector, tmp_path, shape):
    classifier = ResNet(shape, width=4).eval()
    with TestClient(app_of(tiny_detector, tmp_path, classifier=classifier), base_url="http://localhost") as client:
        answer = client.post("/v1/explain", content=png(ATTACKED))
    assert answer.status_code == 200
    assert (answer.json()["pictures"]["label_before"] is not None) == (shape == (1, 8, 8))


def test_feedback_marks_a_verdict(client):
    def say(record, feedback):
        return client.post("/v1/feedback", json={"id": record["id"], "feedback": feedback}).status_code

    clean, attacked = client.post("/v1/screen", files=form(CLEAN, ATTACKED)).json()["records"]
    assert say(attacked, "false_alarm") == 200
    assert say(clean, "false_alarm") == 409
    assert say(clean, "wrong") == 422
    marked = {row["id"]: row["feedback"] for row in client.get("/v1/verdicts").json()}
    assert marked == {attacked["id"]: "false_alarm", clean["id"]: None}
    assert say(attacked, "attack") == 200
    assert say(clean, "attack") == 409


def test_detectors_say_what_they_take(client, tiny_detector):
    (found,) = client.get("/v1/detectors").json()
    assert found["takes"] == tiny_detector.takes
    assert found["image_shape"] == [1, 8, 8]
    assert found["score"] == "excess_surprisal"
    assert found["threshold"] == pytest.approx(-tiny_detector.offset_)
    assert found["alarm_rank"] == tiny_detector.rank_


def test_metrics_count_what_happened(client):
    for body in (png(CLEAN), png(ATTACKED), b"x"):
        client.post("/v1/screen", content=body)
    text = client.get("/metrics").text
    for line in [
        'pixeldefend_verdicts_total{detector="custom",verdict="clean"} 1.0',
        'pixeldefend_verdicts_total{detector="custom",verdict="adversarial"} 1.0',
        'pixeldefend_errors_total{kind="format"} 1.0',
        "pixeldefend_internal_errors_total 0.0",
        'pixeldefend_requests_total{route="/v1/screen",status="422"} 1.0',
        'pixeldefend_p_value_count{detector="custom"} 2.0',
        "pixeldefend_batch_images_count 3.0",
        'pixeldefend_martingale{bet="drift",detector="custom"}',
        "pixeldefend_drift_false_alarm_bound 0.01",
        "pixeldefend_queue_images 0.0",
    ]:
        assert line in text, line


def test_drift_raises_an_alarm(client):
    state = client.get("/v1/drift").json()["custom"]
    assert not any(state["alarms"].values())
    client.post("/v1/screen", files=form(*NOISE))
    state = client.get("/v1/drift").json()["custom"]
    assert state["images"] == len(NOISE)
    assert any(state["alarms"].values())
    assert "pixeldefend_drift_alarms_total" in client.get("/metrics").text


def test_near_duplicates_from_one_client_are_named(client):
    random = np.random.RandomState(0)
    base = random.randint(20, 230, (8, 8))
    files = [png((base + random.randint(-2, 3, (8, 8))).astype(np.uint8)) for _ in range(12)]
    flags = [client.post("/v1/screen", content=file).json()["records"][0]["query_attack"] for file in files]
    assert not any(flags[:5])
    assert all(flags[6:])
    assert "pixeldefend_query_attack_images_total" in client.get("/metrics").text
