"""Whatever bytes come, in whatever field: an answer in JSON that is no failure, and a row for each verdict."""

import base64
import gzip
import json
import zlib
from copy import deepcopy

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from serving.common import ATTACKED, CLEAN, app_of, png

from pixeldefend.screening.audit_log import AuditLog

STATUSES = {200, 400, 404, 405, 409, 413, 415, 422}
INFER = "/v2/models/custom/infer"
FILE = base64.b64encode(png(ATTACKED)).decode()
SOUND = {
    "/v1/screen": {"images": [{"name": "a", "data": FILE}, {"name": "b", "data": FILE}]},
    INFER: {
        "id": "7",
        "parameters": {"binary_data_output": False},
        "inputs": [{"name": "images", "shape": [2], "datatype": "BYTES", "data": [FILE, FILE]}],
        "outputs": [{"name": "is_adversarial"}, {"name": "error"}],
    },
    "/v1/feedback": {"id": "x", "feedback": "clean"},
}
FORM = b'--b\r\ncontent-disposition: form-data; name="image"; filename="%b"\r\n\r\n%b\r\n--b--\r\n'

any_text = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates, too
any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | any_text | st.just("A" * 2000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)
any_header = st.binary(max_size=20).map(lambda text: bytes(byte for byte in text if byte >= 32).strip())


def places(value, place=()):
    """The places of all values within a document."""
    yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*place, key))


@st.composite
def documents(draw, sound):
    """A sound document in which one value is another, or is missing, or has a new neighbour."""
    *path, last = draw(st.sampled_from([place for place in places(sound) if place]))
    document = deepcopy(sound)
    holder = document
    for key in path:
        holder = holder[key]
    change = draw(st.sampled_from(["replace", "remove", "add"]))
    if change == "replace":
        holder[last] = draw(any_value)
    elif change == "remove":
        del holder[last]
    elif isinstance(holder, dict):
        holder[draw(any_text)] = draw(any_value)
    else:
        holder.append(draw(any_value))
    return document


@st.composite
def requests(draw):
    """The route, the query, the headers and the body of a request."""
    route = draw(st.sampled_from(["/v1/screen", "/v1/explain", "/v1/feedback", INFER, "/v1/nothing"]))
    query, headers = {}, {}
    kind = draw(st.sampled_from(["json", "bytes", "form", "file"]))
    if kind == "json":
        document = draw(documents(SOUND.get(route, SOUND["/v1/screen"])) | any_value)
        encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-32"]))
        body = json.dumps(document).encode(encoding)
        headers["content-type"] = b"application/json"
    elif kind == "form":
        name = draw(any_text).encode("utf-8", "surrogatepass").translate(None, b'"\r\n')
        body = FORM % (name, png(CLEAN))
        body = body[: draw(st.sampled_from([len(body)] * 3 + [len(body) - 4, len(body) // 2]))]
        charset = draw(st.sampled_from([b"", b"", b"; charset=utf-7", b"; charset=unicode_escape", b"; charset=\xff"]))
        headers["content-type"] = b"multipart/form-data; boundary=b" + charset
    else:
        body = draw(st.binary(max_size=100)) if kind == "bytes" else png(CLEAN)
        query = {"name": draw(any_text.map(lambda text: text.encode("utf-8", "surrogatepass")))}
    if draw(st.booleans()):
        query["eps"] = draw(any_text.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.just(b"8"))
    coding = draw(st.sampled_from([None] * 6 + ["gzip", "deflate", "br", "cut", "wrong"]))
    if coding is not None:
        headers["content-encoding"] = b"br" if coding == "br" else b"deflate" if coding == "deflate" else b"gzip"
        packed = {"gzip": gzip.compress, "deflate": zlib.compress, "cut": lambda data: gzip.compress(data)[:-3]}
        body = packed.get(coding, bytes)(body)
    for name in ("content-type", "inference-header-content-length", "x-request-id", "authorization"):
        if draw(st.integers(0, 9)) == 0:
            headers[name] = draw(any_header | st.just(b"9" * 5000) | st.just(b"-1"))
    return route, query, headers, body


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def verdicts_in(answer):
    """The number of verdicts that an answer holds."""
    length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    found = json.loads(answer.content[:length].decode(), parse_constant=refuse_constant)
    json.dumps(found, ensure_ascii=False).encode()  # no lone surrogate
    if "error" in found:
        assert found["error"]
        assert found["status"]
        assert answer.status_code >= 400
    records = found.get("records", [found["record"]] if "record" in found else [])
    outputs = {output["name"]: output for output in found.get("outputs", [])}
    if outputs:  # without this one the answer does not say which of them are errors
        return outputs["error"]["data"].count("") if "data" in outputs.get("error", {}) else None
    if answer.status_code != 200 and records:
        assert all(record["error"] for record in records)
    return sum(record["verdict"] != "error" for record in records)


@pytest.fixture(scope="module")
def service(tiny_detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    with TestClient(app_of(tiny_detector, folder), base_url="http://localhost") as client:
        client.log = AuditLog(folder / "log.sqlite", read_only=True)
        yield client


@given(request=requests())
@settings(max_examples=150)
def test_any_request_is_answered_in_json_and_every_verdict_has_its_row(service, request):
    route, query, headers, body = request
    before = {row["id"] for row in service.log.rows()}
    answer = service.post(route, params=query, headers=headers, content=body)
    assert answer.status_code in STATUSES, answer.text
    new = [row for row in service.log.rows() if row["id"] not in before]
    verdicts = verdicts_in(answer)
    if verdicts is not None:
        assert sum(row["verdict"] != "error" for row in new) == verdicts


@given(path=st.binary(max_size=30), query=st.binary(max_size=30), method=st.sampled_from(["GET", "HEAD", "PUT"]))
@settings(max_examples=50)
def test_any_path_and_query_are_answered(service, path, query, method):
    url = "".join(f"%{byte:02x}" for byte in path), "".join(f"%{byte:02x}" for byte in query)
    for prefix in ("/", "/v2/models/", "/page/", "/v1/verdicts?limit="):
        answer = service.request(method, prefix + url["?" in prefix], follow_redirects=False)
        assert answer.status_code in STATUSES | {307}, answer.text
        if answer.status_code >= 400 and method != "HEAD":
            assert answer.json()["error"]
