"""Measures the service under load. It runs as a process, its clients beside it on the same machine.

    python benchmarks/service.py throughput overload kill fuzz soak [--seconds N] [--kills 50] [--bodies 10000]

throughput: 64 clients that send 28 x 28 PNGs, compared with scoring the same images in one process. overload: twice as
many requests a second as the service can answer, for a minute. kill: SIGKILL under load, again and again. fuzz: damaged
images, forms and JSON, and schemathesis on the API's own description if it is installed. soak: full load for 20
minutes. Results go to service.json and service.md beside this file; jobs that are not named keep their old results.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pixeldefend import load_detector
from pixeldefend.markdown import table as markdown_table
from pixeldefend.screening.audit_log import AuditLog

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).parent / "pixeldefend"
SAMPLE = HERE.parent / "tests" / "data" / "fashion_mnist_test_500.npz"
CLIENTS = 64


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[str, int, subprocess.Popen[bytes]]]:
    """Runs the service in a folder. Yields host, port and process."""
    output = folder / f"{time.monotonic_ns()}.log"
    with output.open("wb") as log:
        arguments = [COMMAND, "serve", "--detector", "fashion-mnist", "--port", "0", *options]
        process = subprocess.Popen(arguments, cwd=folder, stderr=log)
    try:
        while not (found := re.search(r"http://([\d.]+):(\d+)", output.read_text())):
            if process.poll() is not None:
                raise RuntimeError(output.read_text())
            time.sleep(0.05)
        yield found[1], int(found[2]), process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


class Connection:
    """A small HTTP/1.1 client: the clients' own work must not be what is measured."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.reader: asyncio.StreamReader | None = None

    async def post(
        self, path: str, body: bytes, kind: str = "application/octet-stream", **more: str
    ) -> tuple[int, bytes]:
        if self.reader is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in more.items())
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {kind}\r\n{extra}"
        head += f"content-length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length: ")[2].split("\r\n")[0])
            answer = await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.reader = None
            raise ConnectionError("closed") from None
        if "connection: close" in head:
            self.writer.close()
            self.reader = None
        return int(head.split()[1]), answer


def resources(process: subprocess.Popen[bytes]) -> dict[str, float]:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return {
        "mib": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024,  # type: ignore[index]
        "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),  # type: ignore[index]
        "handles": len(os.listdir(f"/proc/{process.pid}/fd")),
    }


async def closed_loop(host: str, port: int, files: list[bytes], seconds: float) -> tuple[float, list[float]]:
    """Runs CLIENTS clients. Each sends its next image when it has its answer.

    Returns:
        Images a second, and the seconds that each answer took.
    """
    waits: list[float] = []
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        connection = Connection(host, port)
        i = number
        while (now := time.perf_counter()) < until:
            status, _ = await connection.post("/v1/screen", files[i % len(files)])
            assert status == 200, status
            waits.append(time.perf_counter() - now)
            i += CLIENTS

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return len(waits) / seconds, waits


def in_process(images: np.ndarray, seconds: float) -> float:
    detector = load_detector("fashion-mnist")
    detector.judge(images[:64])
    done, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        start = done % 448
        detector.judge(images[start : start + 64])
        done += 64
    return done / took


def throughput(folder: Path, images: np.ndarray, files: list[bytes], arguments: Any) -> dict[str, Any]:
    ratios, added, rates = [], [], []
    with serving(folder) as (host, port, _):
        asyncio.run(closed_loop(host, port, files, 5))
        for _ in range(5):  # in turns, so that both have the same machine
            alone = in_process(images, arguments.seconds or 10)
            served, waits = asyncio.run(closed_loop(host, port, files, arguments.seconds or 10))
            batch = CLIENTS / alone
            ratios.append(served / alone)
            rates.append([alone, served])
            added.append((statistics.median(waits) - batch) / batch)
    return {
        "images_a_second_in_one_process": statistics.median(alone for alone, _ in rates),
        "images_a_second_served": statistics.median(served for _, served in rates),
        "ratio": statistics.median(ratios),
        "median_wait_added_in_batch_times": statistics.median(added),
    }


def overload(folder: Path, images: np.ndarray, files: list[bytes], arguments: Any) -> dict[str, Any]:
    detector = load_detector("fashion-mnist")
    expected = detector.judge(images).p_value
    seconds = arguments.seconds or 60
    statuses: Counter[int] = Counter()
    wrong, memory = 0, []
    with serving(folder) as (host, port, process):
        capacity, _ = asyncio.run(closed_loop(host, port, files, 8))

        async def load() -> float:
            nonlocal wrong
            idle: list[Connection] = []
            running: set[asyncio.Task[None]] = set()

            async def one(i: int) -> None:
                nonlocal wrong
                connection = idle.pop() if idle else Connection(host, port)
                try:
                    status, answer = await connection.post("/v1/screen", files[i])
                except ConnectionError:  # it was idle for so long that the service has closed it
                    status, answer = await connection.post("/v1/screen", files[i])
                statuses[status] += 1
                if status == 200 and abs(json.loads(answer)["records"][0]["p_value"] - expected[i]) > 0.002:
                    wrong += 1
                idle.append(connection)

            started, sent = time.perf_counter(), 0
            while (now := time.perf_counter() - started) < seconds:
                while sent < 2 * capacity * now:
                    task = asyncio.create_task(one(sent % len(files)))
                    running.add(task)
                    task.add_done_callback(running.discard)
                    sent += 1
                if len(memory) < now:
                    memory.append(resources(process)["mib"])
                await asyncio.sleep(0.005)
            stopped = time.perf_counter()
            connection = Connection(host, port)
            while True:  # until one alone is answered as fast as if there were no others
                begun = time.perf_counter()
                status, _ = await connection.post("/v1/screen", files[0])
                if status == 200 and time.perf_counter() - begun < 0.25:
                    break
                await asyncio.sleep(0.02)
            back = time.perf_counter() - stopped
            await asyncio.gather(*running)
            return back

        back = asyncio.run(load())
        alive = process.poll() is None
    third = len(memory) // 3
    return {
        "seconds": seconds,
        "capacity_a_second": capacity,
        "answers": {str(status): n for status, n in sorted(statuses.items())},
        "wrong_answers": wrong,
        "alive": alive,
        "mib_second_third": statistics.median(memory[third : 2 * third]),
        "mib_last_third": statistics.median(memory[2 * third :]),
        "seconds_back_to_normal": back,
    }


def kill(folder: Path, images: np.ndarray, files: list[bytes], arguments: Any) -> dict[str, Any]:
    acknowledged: list[str] = []
    for turn in range(arguments.kills):
        with serving(folder) as (host, port, process):

            async def send(host: str = host, port: int = port, process: Any = process, turn: int = turn) -> None:
                answered = asyncio.Semaphore(0)

                async def client(number: int) -> None:
                    connection, i = Connection(host, port), number
                    while True:
                        try:
                            _, answer = await connection.post("/v1/screen", files[i % len(files)])
                        except (ConnectionError, OSError):
                            return
                        acknowledged.append(json.loads(answer)["records"][0]["id"])
                        answered.release()
                        i += 16

                clients = [asyncio.create_task(client(number)) for number in range(16)]
                for _ in range(random.Random(turn).randint(50, 150)):
                    await answered.acquire()
                process.send_signal(signal.SIGKILL)
                await asyncio.gather(*clients)

            asyncio.run(send())
    rows = {row["id"]: row for row in AuditLog(folder / "pixeldefend-log.sqlite").rows()}
    torn = [row for row in rows.values() if row["verdict"] not in ("clean", "adversarial") or row["score"] is None]
    lost = set(acknowledged) - rows.keys()
    return {"kills": arguments.kills, "acknowledged": len(acknowledged), "lost": len(lost), "torn": len(torn)}


def bodies(files: list[bytes], n: int) -> Iterator[tuple[str, bytes, str, dict[str, str]]]:
    """Yields n paths, bodies, content types and headers, most of them wrong in some way."""
    draw = random.Random(0)

    def damaged(data: bytes) -> bytes:
        if not data or draw.random() < 0.1:
            return draw.randbytes(draw.randrange(200))
        changed = bytearray(data)
        for _ in range(draw.choice((0, 1, 3, 20))):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed[: draw.choice((len(changed), draw.randrange(len(changed))))])

    for _ in range(n):
        image = Image.open(io.BytesIO(draw.choice(files)))
        buffer = io.BytesIO()
        image.convert(draw.choice(("L", "RGB", "P", "1"))).save(buffer, draw.choice(("PNG", "BMP", "WEBP")))
        data = buffer.getvalue()
        kind = draw.randrange(5)
        if kind == 0:
            yield (
                draw.choice(["/v1/screen"] * 9 + ["/v1/explain"]),
                damaged(data),
                draw.choice(("image/png", "x", "")),
                {},
            )
        elif kind == 1:
            text = json.dumps({"images": [{"name": "a", "data": base64.b64encode(damaged(data)).decode()}]}).encode()
            yield "/v1/screen", damaged(text), "application/json", {}
        elif kind == 2:
            head = b'--b\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'
            yield "/v1/screen", damaged(head + data + b"\r\n--b--\r\n"), "multipart/form-data; boundary=b", {}
        elif kind == 3:
            tensor = {"name": "images", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": [7] * 784}
            tensor[draw.choice(list(tensor))] = draw.choice((None, -1, [], {}, "x", [1e400], 2**70))  # type: ignore[assignment]
            yield (
                "/v2/models/fashion-mnist/infer",
                damaged(json.dumps({"inputs": [tensor]}).encode()),
                "application/json",
                {},
            )
        else:
            tensor = {
                "name": "images",
                "shape": [1],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(data) + 4},
            }
            head = json.dumps({"inputs": [tensor]}).encode()
            body = head + len(data).to_bytes(4, "little") + damaged(data)
            length = str(len(head) + draw.choice((0, 0, -3, 5)))
            headers = {"inference_header_content_length": length}
            yield "/v2/models/fashion-mnist/infer", body, "application/octet-stream", headers


def fuzz(folder: Path, images: np.ndarray, files: list[bytes], arguments: Any) -> dict[str, Any]:
    statuses: Counter[int] = Counter()
    longest = 0.0
    with serving(folder) as (host, port, process):

        async def send() -> None:
            waiting = iter(bodies(files, arguments.bodies))

            async def client() -> None:
                nonlocal longest
                connection = Connection(host, port)
                for path, body, kind, headers in waiting:
                    started = time.perf_counter()
                    status, _ = await asyncio.wait_for(connection.post(path, body, kind, **headers), 60)
                    longest = max(longest, time.perf_counter() - started)
                    statuses[status] += 1

            await asyncio.gather(*(client() for _ in range(16)))

        asyncio.run(send())
        found: dict[str, Any] = {
            "bodies": arguments.bodies,
            "answers": {str(s): n for s, n in sorted(statuses.items())},
        }
        found["longest_seconds"] = longest
        program = shutil.which("schemathesis", path=str(COMMAND.parent)) or shutil.which("schemathesis")
        if program is not None:
            url = f"http://{host}:{port}/openapi.json"
            options = ["--checks", "not_a_server_error", "--max-examples", "100", "--seed", "1"]
            run = subprocess.run([program, "run", url, *options], capture_output=True, text=True, cwd=folder)
            print(run.stdout[-3000:])
            found["schemathesis"] = "no failure" if run.returncode == 0 else f"exit status {run.returncode}"
        found["alive"] = process.poll() is None
    return found


def soak(folder: Path, images: np.ndarray, files: list[bytes], arguments: Any) -> dict[str, Any]:
    seconds = arguments.seconds or 1200
    samples = []
    with serving(folder, "--max-rows", "5000") as (host, port, process):

        async def both() -> float:
            async def watch() -> None:
                for _ in range(int(seconds // 5) - 1):
                    await asyncio.sleep(5)
                    samples.append(resources(process))

            watching = asyncio.create_task(watch())
            rate, _ = await closed_loop(host, port, files, seconds)
            await watching
            return rate

        rate = asyncio.run(both())
    quarter = len(samples) // 4
    found: dict[str, Any] = {"seconds": seconds, "images_a_second": rate}
    for name in ("mib", "threads", "handles"):
        values = [sample[name] for sample in samples]
        found[name] = [statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])]
    return found


JOBS = {"throughput": throughput, "overload": overload, "kill": kill, "fuzz": fuzz, "soak": soak}


def report(results: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    rows: list[list[str]] = []
    if found := results.get("throughput"):
        rates = (
            f"{found['images_a_second_served']:.0f} of {found['images_a_second_in_one_process']:.0f} images a second"
        )
        rows.append(
            ["64 clients, compared with one process that scores", f"{found['ratio']:.0%} ({rates})", "at least 70 %"]
        )
        added = found["median_wait_added_in_batch_times"]
        rows.append(["median wait beyond the scoring of a batch of 64", f"{added:.2f} batch times", "less than 2"])
    if found := results.get("overload"):
        answers = ", ".join(f"{n} x {status}" for status, n in found["answers"].items())
        what = f"{answers}; {found['wrong_answers']} wrong; back to normal in {found['seconds_back_to_normal']:.1f} s; "
        what += f"{found['mib_second_third']:.0f} MiB in the second third, {found['mib_last_third']:.0f} in the last"
        rows.append([f"twice its capacity for {found['seconds']:.0f} s", what, "200 or 503, none wrong, 5 s, flat"])
    if found := results.get("kill"):
        what = f"{found['lost']} lost, {found['torn']} torn of {found['acknowledged']} acknowledged"
        rows.append([f"`kill -9` under load, {found['kills']} times", what, "0 and 0"])
    if found := results.get("fuzz"):
        answers = ", ".join(f"{n} x {status}" for status, n in found["answers"].items())
        what = f"{answers}; the longest took {found['longest_seconds']:.1f} s"
        rows.append([f"{found['bodies']} fuzzed bodies", what, "no 5xx, no hang"])
        if "schemathesis" in found:
            rows.append(["schemathesis, 100 examples an operation", found["schemathesis"], "no 5xx"])
    if found := results.get("soak"):
        pairs = (("mib", "MiB"), ("threads", "threads"), ("handles", "handles"))
        what = ", ".join(f"{found[name][0]:.0f} -> {found[name][1]:.0f} {unit}" for name, unit in pairs)
        title = f"{found['seconds'] / 60:.0f} minutes of full load ({found['images_a_second']:.0f} a second)"
        rows.append([f"{title}: second quarter -> last", what, "no growth"])
    head = ["# The service under load", "", results["machine"], "", "Made by `python benchmarks/service.py`.", ""]
    return "\n".join([*head, markdown_table(["", "measured", "goal"], rows)]).rstrip("\n") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="+", choices=JOBS)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--bodies", type=int, default=10_000)
    arguments = parser.parse_args()
    with np.load(SAMPLE) as file:
        images = file["x"]
    files = [png(image) for image in images]
    kept = HERE / "service.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    results["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__.split('+')[0]}"
    for job in arguments.jobs:
        with tempfile.TemporaryDirectory() as folder:
            results[job] = JOBS[job](Path(folder), images, files, arguments)
        print(job, json.dumps(results[job]), flush=True)
        kept.write_text(json.dumps(results, indent=1) + "\n")
        (HERE / "service.md").write_text(report(results))


if __name__ == "__main__":
    main()
