"""The Open Inference Protocol, by Triton's own client and by hand."""

import base64
import json

import numpy as np
import pytest
from fastapi.testclient import TestClient
from helpers import clean_images
from serving.common import ATTACKED, CLEAN, app_of, png

from pixeldefend import Detector, zoo

GOOD = {"name": "images", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [0] * 64}
INFER = "/v2/models/custom/infer"


@pytest.fixture
def triton(served):
    module = pytest.importorskip("tritonclient.http")
    client = module.InferenceServerClient(served.removeprefix("http://"))
    yield module, client
    client.close()


def test_triton_client(triton, tiny_detector):
    module, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    described = client.get_model_metadata("tiny")
    assert described["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}]
    images = np.stack([CLEAN, ATTACKED])[..., None]
    expected = tiny_detector.judge(images)
    for binary in (True, False):
        pixels = module.InferInput("images", list(images.shape), "UINT8")
        pixels.set_data_from_numpy(images, binary_data=binary)
        outputs = [module.InferRequestedOutput(name, binary_data=binary) for name in ("is_adversarial", "p_value")]
        result = client.infer("tiny", [pixels], outputs=outputs, request_id="7")
        assert result.get_response()["id"] == "7"
        np.testing.assert_array_equal(result.as_numpy("is_adversarial"), [False, True])
        np.testing.assert_allclose(result.as_numpy("p_value"), expected.p_value)
    files = module.InferInput("images", [2], "BYTES")
    files.set_data_from_numpy(np.array([png(CLEAN), png(ATTACKED)], dtype=object))
    np.testing.assert_allclose(client.infer("tiny", [files]).as_numpy("score"), expected.score, rtol=1e-5)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_triton_client_may_compress(triton, algorithm):
    module, client = triton
    pixels = module.InferInput("images", [1, 8, 8, 1], "UINT8")
    for binary in (True, False):
        pixels.set_data_from_numpy(ATTACKED[None, ..., None], binary_data=binary)
        result = client.infer("tiny", [pixels], request_compression_algorithm=algorithm)
        assert result.as_numpy("is_adversarial").tolist() == [True]


def test_one_bad_file_of_several_is_an_error_of_that_file(triton):
    module, client = triton
    files = module.InferInput("images", [3], "BYTES")
    files.set_data_from_numpy(np.array([png(CLEAN), b"no image", png(ATTACKED)], dtype=object))
    for binary in (True, False):
        names = ("is_adversarial", "p_value", "error")
        outputs = [module.InferRequestedOutput(name, binary_data=binary) for name in names]
        result = client.infer("tiny", [files], outputs=outputs)
        assert result.as_numpy("is_adversarial").tolist() == [False, True, True]
        assert np.isnan(result.as_numpy("p_value")).tolist() == [False, True, False]
        errors = [str(error) for error in result.as_numpy("error")]
        assert [bool(error.strip("b'")) for error in errors] == [False, True, False]


def test_triton_client_is_told_what_is_wrong(triton):
    module, client = triton
    with pytest.raises(module.InferenceServerException, match="other"):
        client.get_model_metadata("other")
    wrong = module.InferInput("images", [1, 9, 9, 1], "UINT8")
    wrong.set_data_from_numpy(np.zeros((1, 9, 9, 1), np.uint8))
    with pytest.raises(module.InferenceServerException, match="shape"):
        client.infer("tiny", [wrong])


def test_all_outputs_come_as_json_unless_it_is_asked_for_binary(client):
    found = client.post(INFER, json={"inputs": [GOOD]}).json()
    assert [output["name"] for output in found["outputs"]] == [
        "is_adversarial",
        "p_value",
        "bits_per_dim",
        "score",
        "error",
    ]
    assert all(len(output["data"]) == 1 for output in found["outputs"])
    asked = {"inputs": [GOOD], "parameters": {"binary_data_output": True}, "outputs": [{"name": "score"}]}
    answer = client.post(INFER, json=asked)
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(answer.content[length:], "<f8")[0] == pytest.approx(found["outputs"][3]["data"][0])


@pytest.mark.parametrize("shape", [[1, 8, 8], [1, 8, 8, 1]])
def test_grey_images_may_come_without_their_one_channel(client, shape):
    assert client.post(INFER, json={"inputs": [{**GOOD, "shape": shape}]}).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [0, 8, 8, 1]},
        {"shape": [257, 8, 8, 1]},
        {"shape": [64]},
        {"shape": [1, 8, 4, 2]},
        {"shape": [1, 4, 16, 1]},
        {"shape": "x"},
        {"shape": [1.5, 8, 8, 1]},
        {"shape": [2**70, 8, 8, 1]},
        {"shape": [1, 10**4000, 10**4000]},
        {"shape": [1] * 10_000},
        {"shape": []},
        {"datatype": "FP32"},
        {"datatype": None},
        {"data": [0] * 63},
        {"data": [256] * 64},
        {"data": [-1] * 64},
        {"data": [2**70] * 64},
        {"data": [0.5] * 64},
        {"data": [[1], [2, 3]]},
        {"data": [[0] * 63, [0]]},
        {"data": [True] * 64},
        {"data": ["0"] * 64},
        {"data": ["x" * 50_000] + ["0"] * 5000},
        {"data": {"0": 0}},
        {"data": 64},
        {"data": [[]]},
        {"data": None},
        {"parameters": {"binary_data_size": 64}},
        {"parameters": {"binary_data_size": "x"}},
        {"datatype": "BYTES", "shape": [1], "data": ["?"]},
        {"datatype": "BYTES", "shape": [1], "data": [7]},
        {"datatype": "BYTES", "shape": [1], "data": None},
        {"datatype": "BYTES", "shape": [2], "data": [base64.b64encode(png(CLEAN)).decode()]},
        {"datatype": "BYTES", "shape": [1], "data": [base64.b64encode(b"no image").decode()]},
    ],
    ids=lambda change: str(change)[:50],
)
def test_a_malformed_tensor_is_refused_with_a_reason(client, change):
    answer = client.post(INFER, json={"inputs": [{**GOOD, **change}]})
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_malformed_request_is_refused_with_a_reason(client):
    for body in (b"", b"[]", b"{}", b'{"inputs": []}', b"[" * 10_000, json.dumps({"inputs": [GOOD, GOOD]}).encode()):
        assert client.post(INFER, content=body).status_code == 400
    for length in ("-1", "x", "1000", "9" * 5000, "²", "", "1.5"):
        headers = {"inference-header-content-length": length.encode("latin-1")}
        assert client.post(INFER, content=b"{}", headers=headers).status_code == 400
    for name, value in (("id", "\ud800"), ("\ud800", 1), ("parameters", {"\ud800": 1}), ("id", 7)):
        assert client.post(INFER, content=json.dumps({"inputs": [GOOD], name: value})).status_code == 400
    for outputs in ([{"name": "other"}], "score"):
        assert client.post(INFER, json={"inputs": [GOOD], "outputs": outputs}).status_code == 400
    assert client.post("/v2/models/other/infer", json={"inputs": [GOOD]}).status_code == 404


@pytest.mark.parametrize("damage", ["cut", "long"])
def test_binary_files_must_be_as_long_as_they_say(client, damage):
    data = png(CLEAN)
    binary = len(data).to_bytes(4, "little") + data
    binary = binary[:-1] if damage == "cut" else binary + b"\xff"
    tensor = {"shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(binary)}}
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(header))}
    assert client.post(INFER, content=header + binary, headers=headers).status_code == 400


def test_a_named_detector_takes_its_images_even_if_another_one_does_too(tiny_density, monkeypatch, tmp_path):
    made = {
        "plain": Detector(tiny_density, fpr=0.05).fit(clean_images(99)),
        "processed": Detector(tiny_density, fpr=0.05).fit(clean_images(99), corruptions=["brighter-10%"]),
    }
    monkeypatch.setattr(zoo, "shipped", lambda kind: list(made))
    monkeypatch.setattr(zoo, "cached_detector", lambda name, device: made[name])
    monkeypatch.setattr(zoo, "card", lambda name: {"sha256": name})
    lossless = base64.b64encode(png(CLEAN)).decode()
    with TestClient(app_of(None, tmp_path), base_url="http://localhost") as client:
        for name in made:
            files = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [lossless]}
            answer = client.post(f"/v2/models/{name}/infer", json={"inputs": [files]})
            assert answer.status_code == 200, answer.text
            assert client.get("/v1/verdicts").json()[0]["detector"] == name
