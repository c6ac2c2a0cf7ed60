"""The application as a whole: its description, its host names, and that it needs nothing from elsewhere."""

import json
import re
from dataclasses import fields

from fastapi.testclient import TestClient

from pixeldefend.screening import Record
from pixeldefend.screening.audit_log import AuditLog
from pixeldefend.serving import Service, create_app


def test_nothing_is_fetched_from_elsewhere(client):
    pages = [client.get("/").text, client.get("/page/page.js").text, client.get("/page/page.css").text]
    pages.append(client.get("/docs").text)
    for page in pages:
        assert not re.search(r"(src|href|url|fetch)\W{1,3}https?:", page)


def test_the_description_of_the_api_names_every_route_and_body(client):
    document = client.get("/openapi.json").json()
    assert {"/v1/screen", "/v1/feedback", "/v2/models/{name}/infer"} <= document["paths"].keys()
    schemas = document["components"]["schemas"]
    for name in set(re.findall(r"#/components/schemas/([\w-]+)", json.dumps(document))):
        assert name in schemas


def test_the_schema_of_a_verdict_follows_from_the_record(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Verdict"]
    names = {field.name for field in fields(Record)} | {"id", "query_attack"}
    assert schema["properties"].keys() == names
    assert set(schema["required"]) == names


def test_other_host_names_are_refused_unless_any_is_allowed(client, tiny_detector, tmp_path):
    assert client.get("/v1/drift", headers={"host": "elsewhere.example"}).status_code == 400
    service = Service(AuditLog(tmp_path / "other.sqlite"), tiny_detector)
    with TestClient(create_app(service, any_host=True), base_url="http://elsewhere.example") as other:
        assert other.get("/v1/drift").status_code == 200
