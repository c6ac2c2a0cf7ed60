"""The service as a process: how it starts, how it stops, and what a kill leaves."""

import os
import signal
import socket
import threading
from contextlib import suppress

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from serving.common import CLEAN, PATIENCE, Process, png

from pixeldefend.errors import ParameterError
from pixeldefend.screening.audit_log import AuditLog
from pixeldefend.serving.server import run


def connect(url):
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), PATIENCE)


def test_it_stops_when_told_and_finishes_what_it_accepted(tiny_detector, tmp_path, programs):
    tiny_detector.save(tmp_path / "tiny.safetensors")
    body = png(CLEAN)
    head = f"POST /v1/screen HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\nexpect: 100-continue\r\n\r\n"
    with Process(programs.start, tmp_path) as served:
        connections = [connect(served.url) for _ in range(4)]
        for connection in connections:
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 100")  # the request is accepted, its body awaited
        served.process.send_signal(signal.SIGTERM)
        with suppress(ConnectionError):
            while True:  # until it no longer listens
                connect(served.url).close()
        for connection in connections:
            connection.sendall(body)
            assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
            connection.close()
        assert served.process.wait(PATIENCE) == 0
        served.reader.join()
        assert '"stopped"' in served.text
    assert AuditLog(tmp_path / "pixeldefend-log.sqlite").count() == 4


def test_a_kill_loses_nothing_that_was_acknowledged(tiny_detector, tmp_path, programs):
    tiny_detector.save(tmp_path / "tiny.safetensors")
    acknowledged, answered = [], threading.Semaphore(0)
    with Process(programs.start, tmp_path) as served:

        def send():
            with httpx.Client(timeout=PATIENCE) as client:
                while True:
                    try:
                        answer = client.post(f"{served.url}/v1/screen", content=png(CLEAN))
                    except httpx.HTTPError:
                        return
                    acknowledged.append(answer.json()["records"][0]["id"])
                    answered.release()

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(12):  # then others are on their way
            assert answered.acquire(timeout=PATIENCE)
        served.process.kill()
        for thread in threads:
            thread.join()
    rows = list(AuditLog(tmp_path / "pixeldefend-log.sqlite").rows())
    assert len(acknowledged) >= 12
    assert set(acknowledged) <= {row["id"] for row in rows}
    assert all(row["verdict"] == "clean" and row["score"] is not None for row in rows)


@pytest.fixture
def start(tiny_detector, tmp_path, monkeypatch):
    """Runs the service within this process: a function is called with a client in place of the loop that serves."""
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    tiny_detector.save(tmp_path / "tiny.safetensors")

    def started(use=lambda client: pytest.fail("it must not serve"), **options):
        def serve(server, sockets):
            with TestClient(server.config.app, base_url="http://screening.example") as client:
                use(client)
            for listening in sockets:
                listening.close()

        monkeypatch.setattr(uvicorn.Server, "run", serve)
        given = dict(classifier=None, device="cpu", host="127.0.0.1", port=0, api_key_file=None, without_key=False)
        given |= dict(log=tmp_path / "log.sqlite", max_rows=None, max_days=None, deadline=PATIENCE, max_bytes=100_000)
        run(str(tmp_path / "tiny.safetensors"), **(given | options))

    return started


def test_beyond_the_loopback_a_key_is_required(start, tmp_path):
    with pytest.raises(ParameterError):
        start(host="0.0.0.0")
    (tmp_path / "keys").write_text("short\n")
    with pytest.raises(ParameterError):
        start(host="0.0.0.0", api_key_file=tmp_path / "keys")


def test_a_key_file_must_be_text(start, tmp_path):
    (tmp_path / "keys").write_bytes(b"shop \xff0123456789abcdef\n")
    with pytest.raises(ParameterError, match="keys"):
        start(api_key_file=tmp_path / "keys")
    (tmp_path / "keys").write_text("shop 0123456789abcdef\n", encoding="utf-8-sig")  # as some editors write it

    def use(client):
        headers = {"x-api-key": "0123456789abcdef"}
        client.post("/v1/screen", content=png(CLEAN), headers=headers)

    start(use, api_key_file=tmp_path / "keys")
    (row,) = AuditLog(tmp_path / "log.sqlite", read_only=True).rows()
    assert row["client"] == "shop"


def test_everybody_is_served_where_that_is_said(start):
    def use(client):
        (found,) = client.get("/v1/detectors").json()
        assert found["name"] == "tiny"
        assert len(found["sha256"]) == 64

    start(use, host="0.0.0.0", without_key=True)


def test_a_key_file_names_the_clients(start, tmp_path):
    (tmp_path / "keys").write_text("shop 0123456789abcdef\n")

    def use(client):
        assert client.post("/v1/screen", content=png(CLEAN)).status_code == 401
        headers = {"authorization": "Bearer 0123456789abcdef"}
        assert client.post("/v1/screen", content=png(CLEAN), headers=headers).status_code == 200

    start(use, host="0.0.0.0", api_key_file=tmp_path / "keys")
    (row,) = AuditLog(tmp_path / "log.sqlite", read_only=True).rows()
    assert row["client"] == "shop"
