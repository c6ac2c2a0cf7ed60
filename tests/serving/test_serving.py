"""The service, through HTTP."""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from helpers import Brightness, bomb, clean_images
from PIL import Image

from pixeldefend.classifier import ResNet
from pixeldefend.screening.audit_log import AuditLog
from pixeldefend.serving import Service, create_app
from pixeldefend.serving.metrics import Metrics
from pixeldefend.serving.middleware import limits, read_keys
from pixeldefend.serving.query_detection import QueryAttacks

COMMAND = Path(sys.executable).parent / "pixeldefend"
ATTACKED = np.random.RandomState(0).randint(0, 256, (8, 8)).astype(np.uint8)
CLEAN = clean_images(1, seed=7)[0]


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def app_of(detector, folder, *, keys=None, max_bytes=100_000, deadline=30.0, **options):
    log = AuditLog(folder / "log.sqlite")
    return create_app(Service(log, detector, **options), keys=keys, max_bytes=max_bytes, deadline=deadline)


@pytest.fixture
def client(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, classifier=Brightness(), max_pixels=10_000)
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def test_an_image_is_judged_as_by_the_detector_however_it_is_sent(client, tiny_detector):
    expected = tiny_detector.judge(np.stack([CLEAN, ATTACKED]))
    files = [("image", ("a.png", png(CLEAN))), ("image", ("b.png", png(ATTACKED)))]
    listed = [{"name": name, "data": base64.b64encode(data).decode()} for _, (name, data) in files]
    answers = [
        client.post("/v1/screen", files=files),
        client.post("/v1/screen", json={"images": listed}),
    ]
    for answer in answers:
        assert answer.status_code == 200
        records = answer.json()["records"]
        assert [record["path"] for record in records] == ["a.png", "b.png"]
        assert [record["verdict"] for record in records] == ["clean", "adversarial"]
        np.testing.assert_allclose([record["p_value"] for record in records], expected.p_value)
        np.testing.assert_allclose([record["score"] for record in records], expected.score, rtol=1e-5)
        assert answer.headers["x-request-id"] == answer.json()["request_id"]
    alone = client.post("/v1/screen?name=b.png", content=png(ATTACKED)).json()["records"]
    same = {**answers[0].json()["records"][1], "id": alone[0]["id"]}
    assert alone == [pytest.approx(same)]
    assert len({answer.json()["request_id"] for answer in answers}) == 2


def test_every_verdict_is_in_the_log_under_its_id(client, tmp_path):
    answer = client.post("/v1/screen", content=png(ATTACKED)).json()
    (row,) = AuditLog(tmp_path / "log.sqlite").rows()
    (record,) = answer["records"]
    assert (row["id"], row["request"], row["client"]) == (record["id"], answer["request_id"], "testclient")
    for name in ("verdict", "p_value", "score", "sha256", "width", "height"):
        assert row[name] == record[name]
    assert client.get("/v1/verdicts").json()[0]["id"] == record["id"]


def test_what_cannot_be_screened_is_an_error_record(client):
    files = [("image", ("a.png", b"no image")), ("image", ("b.png", png(CLEAN)))]
    answer = client.post("/v1/screen", files=files)
    assert answer.status_code == 200
    assert [record["verdict"] for record in answer.json()["records"]] == ["error", "clean"]
    for body, reason in [
        (b"", "empty"),
        (b"no image", "not a PNG"),
        (png(np.zeros((9, 9), np.uint8)), "9 x 9"),
        (bomb(200, 200), "more than the 10000 pixels"),
        (bomb(100_000, 100_000), "bomb"),
        (png(CLEAN)[:40], "damaged"),
    ]:
        answer = client.post("/v1/screen", content=body)
        assert answer.status_code == 422, reason
        assert reason in answer.json()["records"][0]["error"]
        assert client.post("/v1/explain", content=body).status_code == 422


def test_a_wrong_size_is_refused_by_the_header(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path)
    service = app.state.service
    decoded, read = [], service.screener.read
    service.screener.read = lambda name, data, **options: decoded.append(name) or read(name, data, **options)
    large = base64.b64encode(png(np.zeros((1000, 1000), np.uint8))).decode()
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.post("/v1/screen", json={"images": [{"name": "a.png", "data": large}] * 20})
        records = answer.json()["records"]
        assert not decoded
        assert {(record["verdict"], record["width"], record["height"]) for record in records} == {("error", 1000, 1000)}
        assert all("1000 x 1000" in record["error"] and record["sha256"] for record in records)
        service._sizes = {(8, 16)}
        client.post("/v1/screen?name=turned", content=png(np.zeros((16, 8), np.uint8)))  # EXIF may turn it back
    assert decoded == ["turned"]


def test_places_in_the_queue_are_taken_before_anything_is_decoded(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, capacity=4)
    service = app.state.service
    read, gate, reading = service.screener.read, threading.Event(), threading.Semaphore(0)

    def slowly(name, data, **options):
        reading.release()
        gate.wait(20)
        return read(name, data, **options)

    service.screener.read = slowly
    files = [("image", ("a.png", png(CLEAN)))] * 2
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(2) as pool:
        accepted = [pool.submit(client.post, "/v1/screen", files=files) for _ in range(2)]
        for _ in accepted:
            assert reading.acquire(timeout=20)
        assert client.post("/v1/screen", files=files).status_code == 503
        gate.set()
        assert [answer.result().status_code for answer in accepted] == [200, 200]


def test_bodies_are_counted_as_they_come_in_and_by_client(monkeypatch):
    monkeypatch.setattr(limits, "BODIES", 1000)
    monkeypatch.setattr(limits, "BODIES_OF_ONE", 400)

    async def read(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200})

    async def ask():
        app = limits.Limits(read, metrics=Metrics(), max_bytes=350, deadline=10, keys=None)
        answers, go_on = {}, asyncio.Event()

        async def send_half(name, client, size):
            messages = [{"type": "http.request", "body": bytes(size), "more_body": True}]

            async def receive():
                if messages:
                    return messages.pop()
                await go_on.wait()
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message):
                answers.setdefault(name, message.get("status"))

            await app({"type": "http", "method": "POST", "path": "/", "headers": [], "client": client}, receive, send)

        tasks = []
        for name, client, size in [("a", "1", 300), ("b", "1", 300), ("c", "2", 300), ("d", "3", 300), ("e", "4", 300)]:
            tasks.append(asyncio.create_task(send_half(name, (client, 1), size)))
            await asyncio.sleep(0.01)
        assert answers == {"b": 503, "e": 503}  # too much of one client, too much of all
        go_on.set()
        await asyncio.gather(*tasks)
        assert answers == {"a": 200, "b": 503, "c": 200, "d": 200, "e": 503}
        await send_half("f", ("1", 1), 300)
        assert answers["f"] == 200  # nothing is held any more

    asyncio.run(ask())


def test_a_request_has_its_line_in_the_log(client, capsys):
    answer = client.post("/v1/screen?name=secret.png", content=png(ATTACKED))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["request"] == answer.headers["x-request-id"] == answer.json()["request_id"]
    assert (line["client"], line["method"], line["path"], line["status"]) == ("testclient", "POST", "/v1/screen", 200)
    assert (line["clean"], line["adversarial"], line["error"]) == (0, 1, 0)
    assert "secret" not in json.dumps(lines)


def test_requests_that_are_wrong_are_refused_with_a_reason(client):
    too_many = {"images": [{"data": ""}] * 257}
    for status, answer in [
        (400, client.post("/v1/screen", json={"image": "x"})),
        (400, client.post("/v1/screen", json=too_many)),
        (400, client.post("/v1/screen", json={"images": [{"data": "?"}]})),
        (400, client.post("/v1/screen", content=b"{", headers={"content-type": "application/json"})),
        (400, client.post("/v1/screen", content=b"x", headers={"content-type": "multipart/form-data; boundary=b"})),
        (400, client.post("/v1/screen", content=b"x", headers={"content-type": "multipart/form-data"})),
        (415, client.post("/v1/screen", content=b"x", headers={"content-encoding": "gzip"})),
        (413, client.post("/v1/screen", content=bytes(100_001))),
        (413, client.post("/v1/screen", content=iter([bytes(60_000), bytes(60_000)]))),  # no length is given
        (404, client.post("/v1/feedback", json={"id": "x", "feedback": "clean"})),
        (404, client.get("/v1/nothing")),
        (405, client.get("/v1/screen")),
        (400, client.get("/v1/drift", headers={"host": "elsewhere.example"})),
    ]:
        assert answer.status_code == status, answer.text
        assert status == 400 or answer.json()["error"]


def test_a_key_is_wanted_where_there_are_keys(tiny_detector, tmp_path):
    keys = read_keys("# of clients\nshop 0123456789abcdef\nfedcba9876543210\n")
    with TestClient(app_of(tiny_detector, tmp_path, keys=keys), base_url="http://localhost") as client:
        for path in ("/v1/detectors", "/v1/verdicts", "/metrics", "/v2/models/custom"):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "é"}, {"authorization": "Bearer "}):
                encoded = {name: value.encode() for name, value in headers.items()}
                assert client.get(path, headers=encoded).status_code == 401
            assert client.get(path, headers={"authorization": "Bearer 0123456789abcdef"}).status_code == 200
        for path in ("/", "/v2/health/live", "/page/page.js"):
            assert client.get(path).status_code == 200
        client.post("/v1/screen", content=png(CLEAN), headers={"x-api-key": "0123456789abcdef"})
    (row,) = AuditLog(tmp_path / "log.sqlite").rows()
    assert row["client"] == "shop"
    for text, reason in [("", "no key"), ("short", "16"), ("a 0123456789abcdef\na 0123456789abcdefg", "twice")]:
        with pytest.raises(ValueError, match=reason):
            read_keys(text)


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
    expected = Brightness()(base_batch(ATTACKED)).argmax(1)
    assert pictures["label_before"] == int(expected)
    assert client.post("/v1/explain?eps=256", content=png(CLEAN)).status_code == 422


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28)])
def test_labels_are_given_where_the_classifier_fits(tiny_detector, tmp_path, shape):
    classifier = ResNet(shape, width=4).eval()
    with TestClient(app_of(tiny_detector, tmp_path, classifier=classifier), base_url="http://localhost") as client:
        answer = client.post("/v1/explain", content=png(ATTACKED))
    assert answer.status_code == 200
    assert (answer.json()["pictures"]["label_before"] is not None) == (shape == (1, 8, 8))


def test_explanations_wait_for_one_another(client):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/explain", content=png(CLEAN)).status_code, range(32)))
    assert set(answers) == {200}


def base_batch(image):
    import torch

    return torch.from_numpy(image)[None, None] / 255


def test_feedback_marks_a_verdict(client):
    records = [client.post("/v1/screen", content=png(image)).json()["records"][0] for image in (CLEAN, ATTACKED)]
    assert client.post("/v1/feedback", json={"id": records[1]["id"], "feedback": "false_alarm"}).status_code == 200
    assert client.post("/v1/feedback", json={"id": records[0]["id"], "feedback": "false_alarm"}).status_code == 409
    assert client.post("/v1/feedback", json={"id": records[0]["id"], "feedback": "wrong"}).status_code == 422
    assert [row["feedback"] for row in client.get("/v1/verdicts").json()] == ["false_alarm", None]
    assert client.post("/v1/feedback", json={"id": records[1]["id"], "feedback": "attack"}).status_code == 200
    assert client.post("/v1/feedback", json={"id": records[0]["id"], "feedback": "attack"}).status_code == 409


def test_a_full_queue_answers_503_and_loses_nothing(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, capacity=4, batch_size=2)
    body = png(CLEAN)
    with TestClient(app, base_url="http://localhost") as client:
        service = app.state.service
        judge, gate = service.screener.judge, threading.Event()
        service.screener.judge = lambda results, **options: (gate.wait(20), judge(results, **options))
        with ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(client.post, "/v1/screen", content=body) for _ in range(12)]
            refused = []
            while len(refused) < 6:  # two are being scored, at most four wait
                refused = [a for a in answers if a.done()]
                time.sleep(0.01)
            gate.set()
            found = [a.result() for a in answers]
        assert {a.result().status_code for a in refused} == {503}
        assert all(a.result().headers["retry-after"] == "1" for a in refused)
        accepted = [a for a in found if a.status_code == 200]
        assert len(accepted) == 12 - sum(a.status_code == 503 for a in found) >= 4
        assert AuditLog(tmp_path / "log.sqlite").count() == len(accepted)
        assert client.post("/v1/screen", content=body).status_code == 200


def test_what_takes_too_long_is_answered_504(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, deadline=0.3)
    with TestClient(app, base_url="http://localhost") as client:
        judge = app.state.service.screener.judge
        app.state.service.screener.judge = lambda results, **options: (time.sleep(0.8), judge(results, **options))
        assert client.post("/v1/screen", content=png(CLEAN)).status_code == 504
        assert client.get("/v2/health/live").status_code == 200


def test_a_failure_is_a_500_that_says_nothing_of_the_inside(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        judge = app.state.service.screener.judge

        def fail(results, **options):
            raise KeyError("secret")

        app.state.service.screener.judge = fail
        answer = client.post("/v1/screen", content=png(CLEAN))
        assert answer.status_code == 500
        assert "secret" not in answer.text
        app.state.service.screener.judge = judge
        assert client.post("/v1/screen", content=png(CLEAN)).status_code == 200


def test_only_flagged_images_are_kept_and_only_if_asked(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, quarantine=tmp_path / "cache")
    with TestClient(app, base_url="http://localhost") as client:
        for image in (CLEAN, ATTACKED, ATTACKED):
            client.post("/v1/screen", content=png(image))
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.read_bytes() == png(ATTACKED)


def test_metrics_count_what_happened(client):
    client.post("/v1/screen", content=png(CLEAN))
    client.post("/v1/screen", content=png(ATTACKED))
    client.post("/v1/screen", content=b"x")
    text = client.get("/metrics").text
    for line in [
        'pixeldefend_verdicts_total{detector="custom",verdict="clean"} 1.0',
        'pixeldefend_verdicts_total{detector="custom",verdict="adversarial"} 1.0',
        'pixeldefend_errors_total{kind="format"} 1.0',
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
    noise = np.random.RandomState(1).randint(0, 256, (40, 8, 8)).astype(np.uint8)
    client.post("/v1/screen", files=[("image", (f"{i}.png", png(image))) for i, image in enumerate(noise)])
    state = client.get("/v1/drift").json()["custom"]
    assert state["images"] == 40
    assert any(state["alarms"].values())
    assert "pixeldefend_drift_alarms_total" in client.get("/metrics").text


def test_near_duplicates_from_one_client_are_named(client):
    random = np.random.RandomState(0)
    base = random.randint(20, 230, (8, 8))
    files = [png((base + random.randint(-2, 3, (8, 8))).astype(np.uint8)) for _ in range(12)]
    flags = [client.post("/v1/screen", content=file).json()["records"][0]["query_attack"] for file in files]
    assert not any(flags[:5])
    assert all(flags[6:])


def test_what_is_refused_does_not_displace_what_is_remembered(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path)
    app.state.service.queries = QueryAttacks(window=6, neighbours=5, clients=1)
    random = np.random.RandomState(0)
    base = random.randint(20, 230, (8, 8))
    flags = []
    with TestClient(app, base_url="http://localhost") as client:
        for _ in range(8):
            for shape in ((8, 8, 3), (9, 9)):  # in colour, and of another size
                client.post("/v1/screen", content=png(random.randint(0, 256, shape).astype(np.uint8)))
            near = png((base + random.randint(-2, 3, (8, 8))).astype(np.uint8))
            flags.append(client.post("/v1/screen", content=near).json()["records"][0]["query_attack"])
    assert all(flags[5:])


def test_old_rows_leave_the_log_of_an_idle_service(tiny_detector, tmp_path):
    log = AuditLog(tmp_path / "log.sqlite", max_days=1)
    log.add([{"verdict": "clean", "time": time.time() - 2 * 86400}, {"verdict": "clean"}], source="serve")
    with TestClient(create_app(Service(log, tiny_detector))):
        until = time.monotonic() + 20
        while log.count() > 1 and time.monotonic() < until:
            time.sleep(0.01)
    assert log.count() == 1


# -- the Open Inference Protocol, by Triton's own client -----------------------------------------------------------


@pytest.fixture(scope="module")
def served(tiny_detector, tmp_path_factory):
    """A service as a process: its URL, its folder and the process."""
    folder = tmp_path_factory.mktemp("served")
    tiny_detector.save(folder / "tiny.safetensors")
    with serving(folder) as (url, process):
        yield url, folder, process


class serving:
    def __init__(self, folder, *options):
        self.folder, self.options = folder, options

    def __enter__(self):
        arguments = ["--detector", "tiny.safetensors", "--port", "0", *self.options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(self.folder / "service.log", "a") as log:
            self.process = subprocess.Popen(
                [COMMAND, "serve", *arguments], cwd=self.folder, stderr=log, env=environment
            )
        start = (self.folder / "service.log").read_text().count('"listening"')
        for _ in range(1200):
            found = re.findall(r'"url": "([^"]+)"', (self.folder / "service.log").read_text())
            if len(found) > start and self.process.poll() is None:
                return found[-1], self.process
            assert self.process.poll() is None, (self.folder / "service.log").read_text()
            time.sleep(0.05)
        raise AssertionError("the service did not start")

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def test_triton_client(served, tiny_detector):
    triton = pytest.importorskip("tritonclient.http")
    url, _, _ = served
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    described = client.get_model_metadata("tiny")
    assert described["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}]
    images = np.stack([CLEAN, ATTACKED])[..., None]
    expected = tiny_detector.judge(images)
    for binary in (True, False):
        pixels = triton.InferInput("images", list(images.shape), "UINT8")
        pixels.set_data_from_numpy(images, binary_data=binary)
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("is_adversarial", "p_value")]
        result = client.infer("tiny", [pixels], outputs=outputs, request_id="7")
        assert result.get_response()["id"] == "7"
        np.testing.assert_array_equal(result.as_numpy("is_adversarial"), [False, True])
        np.testing.assert_allclose(result.as_numpy("p_value"), expected.p_value)
    files = triton.InferInput("images", [2], "BYTES")
    files.set_data_from_numpy(np.array([png(CLEAN), png(ATTACKED)], dtype=object))
    np.testing.assert_allclose(client.infer("tiny", [files]).as_numpy("score"), expected.score, rtol=1e-5)
    with pytest.raises(triton.InferenceServerException, match="no model 'other'"):
        client.get_model_metadata("other")
    wrong = triton.InferInput("images", [1, 9, 9, 1], "UINT8")
    wrong.set_data_from_numpy(np.zeros((1, 9, 9, 1), np.uint8))
    with pytest.raises(triton.InferenceServerException, match="shape must be"):
        client.infer("tiny", [wrong])


def test_inference_requests_that_are_wrong(client):
    good = {"name": "images", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [0] * 64}
    assert client.post("/v2/models/custom/infer", json={"inputs": [good]}).status_code == 200
    for change in [
        {"shape": [1, 8, 8]},
        {"shape": [0, 8, 8, 1]},
        {"shape": [257, 8, 8, 1]},
        {"shape": "x"},
        {"datatype": "FP32"},
        {"data": [0] * 63},
        {"data": [256] * 64},
        {"data": [0.5] * 64},
        {"data": [[1], [2, 3]]},
        {"data": None},
        {"parameters": {"binary_data_size": 64}},
        {"datatype": "BYTES", "shape": [1], "data": ["?"]},
        {"datatype": "BYTES", "shape": [1], "data": [7]},
        {"datatype": "BYTES", "shape": [1], "data": [base64.b64encode(b"no image").decode()]},
    ]:
        status = client.post("/v2/models/custom/infer", json={"inputs": [{**good, **change}]}).status_code
        if change != {"shape": [1, 8, 8]}:  # grey images may go without their one channel
            assert status == 400, change
    for body in (b"", b"[]", b"{}", b'{"inputs": []}', b"[" * 10_000):
        assert client.post("/v2/models/custom/infer", content=body).status_code == 400
    for length in ("-1", "x", "1000"):
        headers = {"inference-header-content-length": length}
        assert client.post("/v2/models/custom/infer", content=b"{}", headers=headers).status_code == 400
    asked = {"inputs": [good], "outputs": [{"name": "other"}]}
    assert client.post("/v2/models/custom/infer", json=asked).status_code == 400


# -- the process ---------------------------------------------------------------------------------------------------


def test_it_stops_when_told_and_finishes_what_it_accepted(tiny_detector, tmp_path):
    tiny_detector.save(tmp_path / "tiny.safetensors")
    with serving(tmp_path, "--wait", "1500") as (url, process):
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(httpx.post, f"{url}/v1/screen", content=png(CLEAN)) for _ in range(4)]
            time.sleep(0.7)  # they wait for others to score with
            process.send_signal(signal.SIGTERM)
            assert [answer.result().status_code for answer in answers] == [200] * 4
        assert process.wait(30) == 0
    log = AuditLog(tmp_path / "pixeldefend-log.sqlite")
    assert log.count() == 4
    assert '"stopped"' in (tmp_path / "service.log").read_text()


def test_a_kill_loses_nothing_that_was_acknowledged(tiny_detector, tmp_path):
    tiny_detector.save(tmp_path / "tiny.safetensors")
    acknowledged = []
    for _ in range(3):
        with serving(tmp_path) as (url, process):

            def send(url=url):
                with httpx.Client() as client:
                    while True:
                        try:
                            answer = client.post(f"{url}/v1/screen", content=png(CLEAN))
                        except httpx.HTTPError:
                            return
                        acknowledged.append(answer.json()["records"][0]["id"])

            threads = [threading.Thread(target=send) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            process.kill()
            for thread in threads:
                thread.join()
    rows = list(AuditLog(tmp_path / "pixeldefend-log.sqlite").rows())
    assert len(acknowledged) > 10
    assert set(acknowledged) <= {row["id"] for row in rows}
    assert all(row["verdict"] == "clean" and row["score"] is not None for row in rows)


def test_beyond_the_loopback_a_key_is_wanted(tmp_path):
    run = subprocess.run([COMMAND, "serve", "--host", "0.0.0.0"], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 2
    assert "--api-key-file" in run.stderr
    (tmp_path / "keys").write_text("short\n")
    options = ["--host", "0.0.0.0", "--api-key-file", "keys"]
    run = subprocess.run([COMMAND, "serve", *options], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 2
    assert "16 characters" in run.stderr


def test_everybody_is_served_where_that_is_said(served):
    _, folder, _ = served
    with serving(folder, "--host", "0.0.0.0", "--without-key", "--log", "open.sqlite") as (url, _):
        port = url.rpartition(":")[2]
        headers = {"host": "screening.example"}
        assert httpx.get(f"http://127.0.0.1:{port}/v1/detectors", headers=headers).status_code == 200


def test_a_key_file_names_the_clients(served):
    _, folder, _ = served
    (folder / "keys").write_text("shop 0123456789abcdef\n")
    with serving(folder, "--host", "0.0.0.0", "--api-key-file", "keys", "--log", "keys.sqlite") as (url, _):
        screen = f"http://127.0.0.1:{url.rpartition(':')[2]}/v1/screen"
        assert httpx.post(screen, content=png(CLEAN)).status_code == 401
        headers = {"authorization": "Bearer 0123456789abcdef"}
        assert httpx.post(screen, content=png(CLEAN), headers=headers).status_code == 200
    (row,) = AuditLog(folder / "keys.sqlite", read_only=True).rows()
    assert row["client"] == "shop"


# -- the page ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=900,1400"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = chromium
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)), carried = new DataTransfer();
carried.items.add(new File([bytes], arguments[1]));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true}));
"""


def test_the_page(served, browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    url, folder, _ = served
    browser.get(url)
    wait = WebDriverWait(browser, 20)

    def text(id):
        return browser.find_element(By.ID, id).text

    def drop(data, name):
        browser.execute_script(DROP, base64.b64encode(data).decode(), name)

    wait.until(lambda _: "8 x 8 grey" in text("models"))
    drop(png(ATTACKED), "noise.png")
    wait.until(lambda _: text("verdict") == "Flagged as adversarial")
    assert "p-value" in text("numbers")
    names = "['image', 'surprisal', 'purified', 'difference']"
    shown = f"return {names}.every((id) => document.getElementById(id).naturalWidth)"
    wait.until(lambda _: browser.execute_script(shown))
    browser.find_element(By.CSS_SELECTOR, "#feedback button").click()
    wait.until(lambda _: "false alarm" in text("verdicts"))
    drop(b"no image", "text.png")
    wait.until(lambda _: text("verdict") == "Could not be screened")
    assert "not a PNG" in text("words")
    (tmp_path / "clean.png").write_bytes(png(CLEAN))
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "clean.png"))
    wait.until(lambda _: text("verdict") == "Looks clean")
    wait.until(lambda _: "clean.png" in text("verdicts"))
    assert "nothing unusual" in text("drift") or "no longer" in text("drift")
    assert Image.open(io.BytesIO(browser.get_screenshot_as_png())).width >= 800
    wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    )
    assert not browser.execute_script(wide)
    severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert all("422" in line["message"] for line in severe), severe
    rows = [row for row in AuditLog(folder / "pixeldefend-log.sqlite").rows() if row["feedback"]]
    assert [row["path"] for row in rows] == ["noise.png"]


PASTE = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)), carried = new DataTransfer();
carried.items.add(new File([bytes], "image.png", {type: "image/png"}));
document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: carried, bubbles: true}));
"""
FOCUSED = (
    "const at = document.activeElement; return at.id || at.textContent.trim() || at.getAttribute('aria-labelledby')"
)


def test_the_page_by_keyboard_by_paste_and_in_the_dark(served, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    url, _, _ = served
    wait = WebDriverWait(browser, 20)
    browser.get(url)

    def text(id):
        return browser.find_element(By.ID, id).text

    def tabs(n):
        found = []
        for _ in range(n):
            browser.switch_to.active_element.send_keys(Keys.TAB)
            found.append(browser.execute_script(FOCUSED))
        return found

    assert tabs(3) == ["API", "metrics", "file"]
    browser.execute_script(PASTE, base64.b64encode(png(ATTACKED)).decode())
    wait.until(lambda _: text("verdict") == "Flagged as adversarial" and "image.png" in text("verdicts"))
    assert browser.execute_script(FOCUSED) == "verdict"  # a screen reader goes on from there
    assert tabs(3) == ["opacity", "This is a false alarm", "This is an attack"]
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait.until(lambda _: "Noted" in text("feedback") and "attack" in text("verdicts"))

    def colours():
        style = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        return [sum(map(int, re.findall(r"\d+", found)[:3])) for found in browser.execute_script(style)]

    for scheme, sign in (("light", -1), ("dark", 1)):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        letters, ground = colours()
        assert sign * (letters - ground) > 300


def test_the_page_shows_an_alarm(served, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    url, _, _ = served
    noise = np.random.RandomState(1).randint(0, 256, (40, 8, 8)).astype(np.uint8)
    httpx.post(f"{url}/v1/screen", files=[("image", (f"{i}.png", png(image))) for i, image in enumerate(noise)])
    browser.get(url)

    def check_summary(_):
        return browser.find_element(By.ID, "drift").text

    WebDriverWait(browser, 20).until(lambda _: "no longer looks like the calibration images" in check_summary(_))
    assert "by chance: with a probability of at most 1 %" in check_summary(None)
    bars = browser.find_elements(By.CSS_SELECTOR, "#drift [role=meter]")
    assert "100" in [bar.get_attribute("aria-valuenow") for bar in bars]
    assert browser.find_elements(By.CSS_SELECTOR, "#drift .alarm")


def test_nothing_is_fetched_from_elsewhere(client):
    pages = [client.get("/").text, client.get("/page/page.js").text, client.get("/page/page.css").text]
    pages.append(client.get("/docs").text)
    for page in pages:
        assert not re.search(r"(src|href|url|fetch)\W{1,3}https?:", page)
    document = client.get("/openapi.json").json()
    assert {"/v1/screen", "/v1/feedback", "/v2/models/{name}/infer"} <= document["paths"].keys()
    assert json.dumps(document)
