"""The log and the metrics hold the verdicts that were answered, and no others."""

import asyncio
import json

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serving.common import ATTACKED, CLEAN, NOISE, Gate, app_of, form, png

from pixeldefend.screening.audit_log import AuditLog
from pixeldefend.serving import Service
from pixeldefend.serving import service as service_module

SENDER = {"client": "shop", "request": "r"}


def rows(folder):
    return list(AuditLog(folder / "log.sqlite", read_only=True).rows())


def assert_nothing_counts(client, folder):
    assert rows(folder) == []
    text = client.get("/metrics").text
    assert "pixeldefend_verdicts_total{" not in text
    assert "pixeldefend_p_value_count{" not in text
    assert not any(state["images"] for state in client.get("/v1/drift").json().values())


def test_what_is_answered_504_while_it_is_scored_is_not_logged(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, deadline=0.05)
    gate = app.state.service.screener.judge = Gate(app.state.service.screener.judge)
    with TestClient(app, base_url="http://localhost") as client:
        assert client.post("/v1/screen", content=png(CLEAN)).status_code == 504
        gate.opened.set()
    with TestClient(app_of(tiny_detector, tmp_path), base_url="http://localhost") as client:
        assert_nothing_counts(client, tmp_path)


def screened_until(service, gate, files):
    """Screens files, and cancels the request once the gate has been entered; the result, None if there is none."""

    async def ask():
        async with service:
            asked = asyncio.create_task(service.screen(files, **SENDER))
            await asyncio.to_thread(gate.wait_until_entered)
            asked.cancel()
            await asyncio.sleep(0)  # it learns of it
            gate.opened.set()
            return (await asyncio.gather(asked, return_exceptions=True))[0]

    found = asyncio.run(ask())
    return None if isinstance(found, asyncio.CancelledError) else found


def test_a_request_that_is_given_up_is_logged_neither_in_part_nor_whole(tiny_detector, tmp_path):
    service = Service(AuditLog(tmp_path / "log.sqlite"), tiny_detector, batch_size=1)
    judge, gate, batches = service.screener.judge, Gate(service.screener.judge), []

    def second_waits(results):
        batches.append(results)
        (judge if len(batches) == 1 else gate)(results)

    service.screener.judge = second_waits
    assert screened_until(service, gate, [("a", png(CLEAN)), ("b", png(ATTACKED))]) is None
    assert len(batches) == 2
    assert rows(tmp_path) == []
    assert b"pixeldefend_verdicts_total{" not in service.metrics.text()


def test_a_request_that_is_given_up_does_not_hold_up_the_next_for_long(tiny_detector, tmp_path, monkeypatch):
    monkeypatch.setattr(service_module, "PIXELS_AT_ONCE", 2 * CLEAN.size)
    service = Service(AuditLog(tmp_path / "log.sqlite"), tiny_detector)
    judge, sizes = service.screener.judge, []
    gate = service.screener.judge = Gate(lambda results: (sizes.append(len(results)), judge(results)))

    async def ask():
        async with service:
            many = asyncio.create_task(service.screen([("", png(CLEAN))] * 8, **SENDER))
            await asyncio.to_thread(gate.wait_until_entered)
            many.cancel()
            await asyncio.wait([many])
            gate.opened.set()
            return await service.screen([("", png(CLEAN))], **SENDER)

    (question,) = asyncio.run(ask())
    assert question.record.verdict == "clean"
    assert sizes == [2, 1]


def test_a_request_whose_row_is_being_written_is_answered(tiny_detector, tmp_path):
    service = Service(AuditLog(tmp_path / "log.sqlite"), tiny_detector)
    gate = service.log.add = Gate(service.log.add)
    (question,) = screened_until(service, gate, [("a", png(CLEAN))])
    (row,) = rows(tmp_path)
    assert (row["id"], row["verdict"]) == (question.answer()["id"], "clean")


@pytest.mark.parametrize("route", ["/v1/screen", "/v1/explain", "/v2/models/custom/infer"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug")], ids=str)
def test_what_the_log_does_not_take_is_no_verdict(client, tmp_path, route, error):
    log = client.app.state.service.log

    def fail(*arguments, **options):
        raise error

    log.add, add = fail, log.add
    image = {"name": "images", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [0] * 64}
    body = json.dumps({"inputs": [image]}).encode() if route.startswith("/v2") else png(CLEAN)
    answer = client.post(route, content=body)
    assert answer.status_code == 500
    assert answer.json().keys() == {"error", "status"}
    assert_nothing_counts(client, tmp_path)
    log.add = add
    assert client.post(route, content=body).status_code == 200
    assert len(rows(tmp_path)) == 1


def test_an_explanation_that_fails_is_not_logged(client, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr("pixeldefend.serving.service.explain", fail)
    assert client.post("/v1/explain", content=png(CLEAN)).status_code == 500
    assert_nothing_counts(client, tmp_path)


def test_a_failure_of_one_batch_leaves_the_rest_of_the_request_out(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, batch_size=4)
    screener, batches = app.state.service.screener, []
    judge = screener.judge

    def second_fails(results):
        batches.append(results)
        if len(batches) == 2:
            raise RuntimeError("a bug")
        judge(results)

    screener.judge = second_fails
    with TestClient(app, base_url="http://localhost") as client:
        assert client.post("/v1/screen", files=form(*NOISE[:12])).status_code == 500
        assert rows(tmp_path) == []


def test_a_file_for_another_model_has_no_verdict_in_the_log(tmp_path):
    colour = png(np.zeros((32, 32, 3), np.uint8))
    with TestClient(app_of(None, tmp_path), base_url="http://localhost") as client:
        tensor = {"shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(colour) + 4}}
        head = json.dumps({"inputs": [tensor]}).encode()
        answer = client.post(
            "/v2/models/fashion-mnist/infer",
            content=head + len(colour).to_bytes(4, "little") + colour,
            headers={"inference-header-content-length": str(len(head))},
        )
    assert answer.status_code == 400
    assert "32 x 32" in answer.json()["error"]
    (row,) = rows(tmp_path)
    assert (row["verdict"], row["error_kind"], row["detector"]) == ("error", "size", None)
