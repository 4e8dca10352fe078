"""Requests that schemathesis makes from `/openapi.json`, wrong ones and odd ones: never a fault, one form of errors."""

from collections import Counter

import pytest
import requests
import schemathesis
import schemathesis.specs.openapi.schemas  # now: beside the server's thread, Python 3.11 may fail to parse a file
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

BODIES = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
]
OTHERS = ["/health", "/version", "/metrics", "/v1/models", "/v1/models/{name}"]
CLOSE = "/v1/chat/completions/{request_id}/close_thinking"


@pytest.fixture(scope="module")
def document(live):
    return live.web.get("/openapi.json").json()


def test_every_path_is_described_with_its_answer_and_the_form_of_its_errors(document):
    assert sorted(document["paths"]) == sorted([*BODIES, *OTHERS, CLOSE])
    for path, item in document["paths"].items():
        [(method, operation)] = item.items()
        assert method == ("get" if path in OTHERS else "post")
        assert ("requestBody" in operation) == (path in BODIES), path
        assert {"200", "4XX", "5XX"} <= set(operation["responses"])
        error = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
        assert error == {"$ref": "#/components/schemas/Error"}
        streams = "text/event-stream" in operation["responses"]["200"]["content"]
        assert streams == (path in BODIES[:4])
    assert document["components"]["schemas"]["ChatBody"]["additionalProperties"] is False


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("mode", [GenerationMode.NEGATIVE, GenerationMode.POSITIVE], ids=["wrong", "odd"])
def test_whatever_is_sent_the_answer_is_as_described(live, engine, document, path, mode):
    engine.text = "</think>ok"
    operation = schemathesis.openapi.from_dict(document)[path]["POST"]
    statuses = Counter()

    @settings(
        max_examples=12, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        answer = case.call(base_url=live.url, session=session)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (case.body, answer.text)
        checks = [schemathesis.checks.not_a_server_error]
        if "text/event-stream" in answer.headers["content-type"]:  # described as a text, which the library cuts up
            assert answer.text.startswith(("data: ", "event: ", ": ")) and answer.text.endswith("\n\n")
        else:
            checks.append(schemathesis.checks.response_schema_conformance)
        case.validate_response(answer, checks=checks)
        if answer.status_code >= 400:
            error = answer.json()["error"]
            details = {"details"} if error["param"] == "thread" else set()
            assert set(error) == {"message", "type", "param", "code"} | details

    with requests.Session() as session:
        send()
    assert sum(statuses.values()) == 12
    if mode is GenerationMode.NEGATIVE:
        assert 200 not in statuses
