"""The service's own interface, through HTTP."""

import base64
import hashlib
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


def wrapped(text, end):
    return end.join(text[i : i + 76] for i in range(0, len(text), 76)) + end


@pytest.mark.parametrize(
    "form_of",
    [
        lambda text: wrapped(text, "\n"),
        lambda text: wrapped(text, "\r\n"),
        lambda text: wrapped(text, " \t"),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.rstrip("="),
        lambda text: f"data:image/png;base64,{text}",
        lambda text: f"DATA:;base64,\n{text}",
    ],
    ids=["lines", "crlf", "tabs", "url-safe", "unpadded", "data-uri", "data-uri-without-type"],
)
def test_base64_is_taken_in_its_usual_forms(client, form_of):
    body = png(ATTACKED) + b"\xfb\xff\xbf"  # "+" and "/" occur
    body += bytes(1 - len(body) % 3 + 3)  # and padding
    text = base64.b64encode(body).decode()
    assert "+" in text
    assert "/" in text
    assert text.endswith("=")
    (record,) = client.post("/v1/screen", json={"images": [{"data": form_of(text)}]}).json()["records"]
    assert record["sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    "item",
    [
        *(
            {"name": "bad", "data": data}
            for data in ("@@", "A", "YQ==YQ==", "=", "é", "\0", "data:,a", 7, None, [], {})
        ),
        {"name": "bad"},
        {"name": 7, "data": "="},
        {"name": "n" * 1025, "data": ""},
        "bad",
        None,
    ],
    ids=str,
)
def test_an_image_that_cannot_be_read_from_json_is_an_error_of_that_image(client, tmp_path, item):
    good = {"name": "good", "data": base64.b64encode(png(CLEAN)).decode()}
    answer = client.post("/v1/screen", json={"images": [item, good]})
    assert answer.status_code == 200
    bad, well = answer.json()["records"]
    assert (bad["verdict"], bad["error_kind"], well["verdict"]) == ("error", "format", "clean")
    assert bad["error"]
    assert [row["verdict"] for row in AuditLog(tmp_path / "log.sqlite").rows()] == ["clean", "error"]
    alone = client.post("/v1/screen", json={"images": [item]})
    assert alone.status_code == 422
    assert alone.json()["records"][0]["error"] == bad["error"]


def test_the_status_says_if_no_image_can_be_screened_however_they_are_sent(client):
    file = base64.b64encode(b"no image").decode()
    for answer in (
        client.post("/v1/screen", content=b"no image"),
        client.post("/v1/screen", files=[("image", ("a.png", b"no image"))] * 2),
        client.post("/v1/screen", json={"images": [{"data": file}] * 2}),
    ):
        assert answer.status_code == 422
        assert {record["error_kind"] for record in answer.json()["records"]} == {"format"}


PART = 'content-disposition: form-data; name="image"; filename="{}"\r\n\r\n'


def send_form(client, parts, kind="multipart/form-data; boundary=b", end=b"--b--\r\n"):
    body = b"".join(b"--b\r\n" + head.encode("latin-1") + data + b"\r\n" for head, data in parts) + end
    return client.post("/v1/screen", content=body, headers={"content-type": kind})


@pytest.mark.parametrize("end", [b"", b"--b", b"--b\r\n" + PART.format("c").encode() + png(CLEAN)[:50]])
def test_a_form_without_its_end_is_refused_whole(client, tmp_path, end):
    answer = send_form(client, [(PART.format("a"), png(CLEAN)), (PART.format("b"), png(ATTACKED))], end=end)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert AuditLog(tmp_path / "log.sqlite").count() == 0


@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape", "punycode", "undefined", "nonsense", "ÿ"])
def test_a_form_of_another_charset_is_refused(client, charset):
    kind = f"multipart/form-data; boundary=b; charset={charset}".encode("latin-1")
    answer = send_form(client, [(PART.format("+2AA-\\ud800"), png(CLEAN))], kind)
    assert answer.status_code == 415
    assert answer.json()["error"]


def test_names_of_files_in_a_form_may_be_any_bytes(client):
    records = send_form(client, [(PART.format("\xff"), png(CLEAN)), (PART.format("n" * 1025), png(CLEAN))]).json()[
        "records"
    ]
    assert [record["verdict"] for record in records] == ["clean", "error"]


def test_an_image_that_a_form_holds_as_text_is_not_left_out(client):
    text = 'content-disposition: form-data; name="image"\r\n\r\n'
    other = 'content-disposition: form-data; name="comment"\r\n\r\n'
    answer = send_form(client, [(text, b"photo.png"), (other, b"hello"), (PART.format("a"), png(CLEAN))])
    assert [record["verdict"] for record in answer.json()["records"]] == ["error", "clean"]


def test_malformed_requests_are_refused_with_a_reason(client):
    json_body = {"content-type": "application/json"}
    for status, answer in [
        (400, client.post("/v1/screen", content=b'{"images": [{"name": "\\ud800", "data": ""}]}', headers=json_body)),
        (400, client.post("/v1/screen", json={"image": "x"})),
        (400, client.post("/v1/screen", json={"images": []})),
        (400, client.post("/v1/screen", json={"images": [{"data": ""}] * 257})),
        (400, client.post("/v1/screen", json={"images": "x"})),
        (400, client.post("/v1/screen", content=b"{", headers=json_body)),
        (400, client.post("/v1/screen", content=b"[" * 10_000, headers=json_body)),
        (400, client.post("/v1/screen", content=b"x", headers={"content-type": "multipart/form-data; boundary=b"})),
        (400, client.post("/v1/screen", content=b"x", headers={"content-type": "multipart/form-data"})),
        (422, client.post("/v1/feedback", json={"id": "x", "feedback": "other"})),
        (422, client.post("/v1/feedback", content=b"x")),
        (422, client.post("/v1/feedback", content=b"NaN", headers=json_body)),
        (400, client.post("/v1/feedback", content=b"\xff", headers=json_body)),
        (404, client.post("/v1/feedback", content=b'{"id": "\\ud800", "feedback": "clean"}', headers=json_body)),
        (422, client.get("/v1/verdicts?limit=²")),
        (422, client.post("/v1/explain?eps=%ff", content=png(CLEAN))),
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


def test_an_image_that_would_take_long_is_explained_without_purification(client, monkeypatch):
    monkeypatch.setattr("pixeldefend.serving.explanation.PURIFIED_AT_MOST", 63)
    pictures = client.post("/v1/explain", content=png(ATTACKED)).json()["pictures"]
    assert pictures["surprisal"].startswith("data:image/png")
    assert (pictures["purified"], pictures["difference"], pictures["p_value_purified"]) == (None, None, None)


def test_a_large_image_is_explained_without_a_heat_map(client, monkeypatch):
    monkeypatch.setattr("pixeldefend.serving.explanation.MAPPED_AT_MOST", 63)
    found = client.post("/v1/explain", content=png(ATTACKED)).json()
    assert found["record"]["verdict"] == "adversarial"
    assert found["pictures"]["image"].startswith("data:image/png")
    assert found["pictures"]["surprisal"] is None


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


def test_a_detector_of_photographs_has_no_threshold_for_all(photo_detector, tmp_path):
    with TestClient(app_of(photo_detector, tmp_path), base_url="http://localhost") as client:
        (found,) = client.get("/v1/detectors").json()
    assert found["takes"] == photo_detector.takes
    assert (found["fpr"], found["calibration_images"]) == (0.05, 100)
    assert (found["threshold"], found["alarm_rank"]) == (None, None)


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
