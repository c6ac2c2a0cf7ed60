"""Each middleware around a small application of its own, and all of them around the service."""

import asyncio
import base64
import gzip
import json
import zlib

import pytest
from fastapi.testclient import TestClient
from serving.common import ATTACKED, CLEAN, PATIENCE, app_of, events, png
from starlette.responses import PlainTextResponse

from pixeldefend.errors import ParameterError
from pixeldefend.screening.audit_log import AuditLog
from pixeldefend.serving.metrics import Metrics
from pixeldefend.serving.middleware import (
    AccessLog,
    BodyLimits,
    Deadline,
    Decompression,
    Failures,
    SecurityHeaders,
    read_keys,
)

KEY = "0123456789abcdef"


async def hello(scope, receive, send):
    await PlainTextResponse("hello")(scope, receive, send)


def around(middleware, app=hello, **options):
    """A client of an application inside a middleware and the access log, which all others rely on."""
    metrics = Metrics()
    if middleware is Failures:
        options["metrics"] = metrics
    client = TestClient(AccessLog(middleware(app, **options), metrics), base_url="http://localhost")
    client.metrics = metrics
    return client


# -- access log ----------------------------------------------------------------------------------------------------


def test_a_request_has_its_line_in_the_log(client, capsys):
    answer = client.post("/v1/screen?name=secret.png", content=png(ATTACKED))
    text = capsys.readouterr().err
    (line,) = events(text, "request")
    assert line["request"] == answer.headers["x-request-id"] == answer.json()["request_id"]
    assert (line["client"], line["method"], line["path"], line["status"]) == ("testclient", "POST", "/v1/screen", 200)
    assert (line["clean"], line["adversarial"], line["error"]) == (0, 1, 0)
    assert "secret" not in text


@pytest.mark.parametrize(
    ("status", "path", "headers", "body"),
    [
        (401, "/v1/screen", {}, b"x"),
        (400, "/v1/screen", {"x-api-key": KEY, "host": "elsewhere.example"}, b"x"),
        (413, "/v1/screen", {"x-api-key": KEY}, bytes(100_001)),
        (404, "/v1/nothing", {"x-api-key": KEY}, b"x"),
        (422, "/v1/screen", {"x-api-key": KEY}, b"x"),
    ],
)
def test_refusals_are_logged_counted_and_guarded_too(tiny_detector, tmp_path, capsys, status, path, headers, body):
    app = app_of(tiny_detector, tmp_path, keys={"shop": KEY})
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.post(path, content=body, headers=headers)
        text = client.get("/metrics", headers={"x-api-key": KEY}).text
    assert answer.status_code == status
    (line, _) = events(capsys.readouterr().err, "request")
    assert (line["status"], line["request"]) == (status, answer.headers["x-request-id"])
    assert line["client"] == ("shop" if "x-api-key" in headers else "testclient")
    assert f'status="{status}"}} 1.0' in text
    assert answer.headers["x-content-type-options"] == "nosniff"


# -- failures ------------------------------------------------------------------------------------------------------


def test_a_failure_is_a_500_that_says_nothing_of_the_inside(capsys):
    async def fail(scope, receive, send):
        raise RuntimeError("secret")

    client = around(Failures, fail)
    answer = client.get("/")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    text = capsys.readouterr().err
    (line,) = events(text, "internal error")
    assert line["request"] == answer.headers["x-request-id"]
    assert "RuntimeError: secret" in line["traceback"]
    assert events(text, "request")[0]["status"] == 500
    assert b"pixeldefend_internal_errors_total 1.0" in client.metrics.text()


# -- keys ----------------------------------------------------------------------------------------------------------


def test_a_key_is_required_where_there_are_keys(tiny_detector, tmp_path):
    keys = read_keys(f"# of clients\nshop {KEY}\nfedcba9876543210\n")
    with TestClient(app_of(tiny_detector, tmp_path, keys=keys), base_url="http://localhost") as client:
        for path in ("/v1/detectors", "/v1/verdicts", "/metrics", "/v2/models/custom"):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "é"}, {"authorization": "Bearer "}):
                encoded = {name: value.encode() for name, value in headers.items()}
                assert client.get(path, headers=encoded).status_code == 401
            assert client.get(path, headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        for path in ("/", "/docs", "/v2/health/live", "/page/page.js"):
            assert client.get(path).status_code == 200
        client.post("/v1/screen", content=png(CLEAN), headers={"x-api-key": KEY})
    (row,) = AuditLog(tmp_path / "log.sqlite").rows()
    assert row["client"] == "shop"


def test_a_key_may_hold_any_characters(tiny_detector, tmp_path):
    key = "ключ-schlüssel-0123"
    with TestClient(
        app_of(tiny_detector, tmp_path, keys=read_keys(f"shop {key}")), base_url="http://localhost"
    ) as client:
        for sent, status in ((key.encode(), 200), (key.encode("utf-16"), 401), (b"\xff" * 20, 401)):
            headers = {"x-api-key": bytes(byte for byte in sent if byte >= 32)}
            assert client.get("/v2", headers=headers).status_code == status


@pytest.mark.parametrize("text", ["", "short", f"a {KEY}\na {KEY}g", f"a b {KEY}"])
def test_a_bad_key_file_is_refused(text):
    with pytest.raises(ParameterError):
        read_keys(text)


# -- bodies --------------------------------------------------------------------------------------------------------


async def read_all(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await hello(scope, receive, send)


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length():
    client = around(BodyLimits, read_all, max_bytes=1000)
    assert client.post("/", content=bytes(1000)).status_code == 200
    for body in (bytes(1001), iter([bytes(600), bytes(600)])):
        answer = client.post("/", content=body)
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        assert answer.json()["error"]


async def echo(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    await PlainTextResponse(body)(scope, receive, send)


def decompressing(max_bytes=100_000):
    return around(lambda app: Decompression(BodyLimits(app, max_bytes), max_bytes), echo)


BODY = bytes(range(256)) * 300


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        (" GZip ", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("identity, gzip", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY[:100]) + gzip.compress(BODY[100:])),
        ("deflate", zlib.compress(BODY)),
        ("identity", BODY),
        ("", BODY),
    ],
)
def test_compressed_bodies_are_inflated(coding, body):
    client = decompressing()
    for sent in (body, (body[i : i + 7] for i in range(0, len(body), 7))):  # at once, and in small parts
        answer = client.post("/", content=sent, headers={"content-encoding": coding})
        assert (answer.status_code, answer.content) == (200, BODY)


@pytest.mark.parametrize("size", [64 * 2**10, 64 * 2**10 + 1, 99_999])
def test_nothing_is_lost_where_a_piece_ends(size):
    body = gzip.compress(bytes(size))
    answer = decompressing().post("/", content=body, headers={"content-encoding": "gzip"})
    assert answer.content == bytes(size)


@pytest.mark.parametrize(
    ("status", "coding", "body"),
    [
        (415, "br", b"x"),
        (415, "zstd", b"x"),
        (415, "ÿ", b"x"),
        (415, "gzip, gzip", gzip.compress(gzip.compress(BODY))),
        (415, "gzip, br", b"x"),
        (400, "gzip", BODY),
        (400, "gzip", gzip.compress(BODY)[:-1]),
        (400, "gzip", gzip.compress(BODY)[:3]),
        (400, "gzip", gzip.compress(BODY)[:-8] + bytes(8)),
        (400, "gzip", gzip.compress(BODY) + b"x"),
        (400, "gzip", gzip.compress(b"") * 2000),
        (400, "deflate", gzip.compress(BODY)),
        (413, "gzip", gzip.compress(bytes(100_001))),
        (413, "deflate", zlib.compress(bytes(100_001), 0)),
        (413, "gzip", gzip.compress(b"") * 6000),
    ],
)
def test_other_codings_damaged_bodies_and_bombs_are_refused(status, coding, body):
    answer = decompressing().post("/", content=body, headers={"content-encoding": coding.encode("latin-1")})
    assert answer.status_code == status
    assert answer.json()["error"]
    assert ("accept-encoding" in answer.headers) == (status == 415)


def test_a_bomb_is_not_inflated_whole():
    given = []

    async def count(scope, receive, send):
        while True:
            given.append(len((await receive())["body"]))

    client = around(lambda app: Decompression(BodyLimits(app, 10**6), 10**6), count)
    bomb = gzip.compress(bytes(10**8))
    assert client.post("/", content=bomb, headers={"content-encoding": "gzip"}).status_code == 413
    assert sum(given) <= 10**6


@pytest.mark.parametrize("route", ["/v1/screen", "/v1/explain", "/v1/feedback", "/v2/models/custom/infer"])
def test_every_route_takes_compressed_bodies_and_refuses_other_codings(client, route):
    file = base64.b64encode(png(CLEAN)).decode()
    tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [file]}
    (row,) = client.post("/v1/screen", content=png(CLEAN)).json()["records"]
    said = {"id": row["id"], "feedback": row["verdict"]}
    body = png(CLEAN) if route in ("/v1/screen", "/v1/explain") else json.dumps({"inputs": [tensor], **said}).encode()
    kind = {"content-type": "image/png" if body.startswith(b"\x89") else "application/json"}
    for coding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        assert client.post(route, content=packed, headers={**kind, "content-encoding": coding}).status_code == 200
    for coding in ("br", "gzip, gzip"):
        answer = client.post(route, content=body, headers={**kind, "content-encoding": coding})
        assert answer.status_code == 415
        assert answer.json()["error"]
    assert client.get("/v2", headers={"content-encoding": "br"}).status_code == 200


def test_bodies_are_counted_as_they_come_in_and_by_client():
    async def ask():
        app = AccessLog(BodyLimits(read_all, 350, max_held=1000, max_held_of_one=400), Metrics())
        answers, go_on = {}, asyncio.Event()

        async def send_half(name, client, reached):
            messages = [{"type": "http.request", "body": bytes(300), "more_body": True}]

            async def receive():
                if messages:
                    return messages.pop()
                reached.set()  # the first half has been counted
                await go_on.wait()
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message):
                answers.setdefault(name, message.get("status"))
                reached.set()

            scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "client": (client, 1)}
            await app(scope, receive, send)

        tasks = []
        for name, client in [("a", "1"), ("b", "1"), ("c", "2"), ("d", "3"), ("e", "4")]:
            reached = asyncio.Event()
            tasks.append(asyncio.create_task(send_half(name, client, reached)))
            await asyncio.wait_for(reached.wait(), PATIENCE)
        assert answers == {"b": 503, "e": 503}  # too much of one client, too much of all
        go_on.set()
        await asyncio.gather(*tasks)
        assert answers == {"a": 200, "b": 503, "c": 200, "d": 200, "e": 503}
        await send_half("f", "1", asyncio.Event())
        assert answers["f"] == 200  # nothing is held any more

    asyncio.run(ask())


# -- deadline ------------------------------------------------------------------------------------------------------


def test_what_takes_too_long_is_stopped_and_answered_504():
    stopped = []

    async def wait(scope, receive, send):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    answer = around(Deadline, wait, seconds=0.01).get("/")
    assert answer.status_code == 504
    assert answer.headers["connection"] == "close"
    assert stopped


def test_a_request_is_stopped_when_its_client_goes():
    stopped, sent = [], []
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"", "more_body": False}]

    async def wait(scope, receive, send):
        await receive()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    async def receive():
        return messages.pop()

    async def send(message):
        sent.append(message)

    asyncio.run(Deadline(wait, seconds=PATIENCE)({"type": "http"}, receive, send))
    assert stopped
    assert not sent


@pytest.mark.parametrize("route", ["/v1/screen", "/v1/feedback", "/v2/models/custom/infer"])
def test_a_client_that_goes_before_the_end_of_its_body_is_no_failure(tiny_detector, tmp_path, capsys, route):
    app = app_of(tiny_detector, tmp_path)
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"x", "more_body": True}]

    async def ask():
        async def receive():
            return messages.pop()

        async def send(message):
            pass

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": route, "query_string": b"", "headers": headers}
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)

    asyncio.run(ask())
    assert not events(capsys.readouterr().err, "internal error")


def test_a_time_out_of_something_else_is_not_the_deadline():
    async def fail(scope, receive, send):
        raise TimeoutError

    metrics = Metrics()
    app = AccessLog(Failures(Deadline(fail, seconds=PATIENCE), metrics), metrics)
    assert TestClient(app).get("/").status_code == 500


# -- headers -------------------------------------------------------------------------------------------------------


def test_browsers_are_told_to_trust_nothing_else():
    client = around(SecurityHeaders)
    answer = client.get("/")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "content-security-policy" not in client.get("/docs").headers


# -- HEAD, and names of hosts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/docs", "/openapi.json", "/metrics", "/page/page.js", "/v1/detectors", "/v1/verdicts", "/v1/drift"),
        *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/custom", "/v2/models/custom/ready"),
    ],
)
def test_head_is_answered_as_get_without_the_body(client, capsys, path):
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == client.get(path).headers["content-type"]
    assert events(capsys.readouterr().err, "request")[0]["method"] == "HEAD"


def test_other_methods_are_refused_with_those_that_are_allowed(client):
    for method, path in [
        ("OPTIONS", "/v2"),
        ("DELETE", "/v1/verdicts"),
        ("HEAD", "/v1/screen"),
        ("PUT", "/page/page.js"),
    ]:
        answer = client.request(method, path)
        assert answer.status_code == 405
        assert answer.headers["allow"]
        assert method == "HEAD" or answer.json()["error"]
    assert 'route="/v2",status="200"' not in client.get("/metrics").text
    client.head("/v2")
    assert 'route="/v2",status="200"' in client.get("/metrics").text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]", "[::1]:80"])
def test_the_service_answers_under_its_own_names(client, host):
    assert client.get("/v2", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["", "elsewhere.example", "localhost.example", "[::1", "::1", "ÿ", "localhost:x"])
def test_another_name_is_refused_with_a_reason(client, host):
    answer = client.get("/v2", headers={"host": host.encode("latin-1")})
    assert answer.status_code == 400
    assert answer.json()["error"]
