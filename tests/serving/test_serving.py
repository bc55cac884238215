"""The server's answers, limits, and what becomes of nonsense."""

import asyncio
import http.client
import json
import resource
import socket
import time
from urllib.parse import quote

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recalign.cli import recalign
from recalign.errors import UserError
from recalign.serving import server
from recalign.serving.app import Limits
from tests.test_readmes import ROOT, commands

JSON = {"Content-Type": "application/json"}


def ask(port, method, url, body=None, headers=None):
    """The status, headers and body of a response, the body out of JSON if it is JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, url, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        if response.headers["Content-Type"] == "application/json":
            content = json.loads(content)
        return response.status, response.headers, content
    finally:
        connection.close()


def recommend(port, headers=JSON, **body):
    return ask(port, "POST", "/api/recommend", json.dumps(body), headers)


def test_recommendations(port):
    status, _, answer = recommend(port, history=["toy-1", "#3"], k=2)
    assert status == 200
    assert [(r["rank"], r["id"], r["item"], r["score"]) for r in answer["items"]] == [
        (1, "toy-0", "#0", -2.0),
        (2, "toy-2", "#2", -4.0),
    ]
    assert [row["probability"] for row in answer["items"]] == [0.5, 0.125]
    _, _, answer = recommend(port, history=["toy-1"], include_seen=True, k=5)
    assert [row["id"] for row in answer["items"]] == [f"toy-{i}" for i in range(5)]
    assert [row["id"] for row in answer["items"] if row["seen"]] == ["toy-1"]
    _, _, answer = recommend(port, history=[f"toy-{i}" for i in range(6)], k=5)
    assert answer["items"] == []


def test_the_call_that_the_readme_shows(port):
    [words] = commands((ROOT / "recalign/README.md").read_text(), "curl")
    [address] = [word for word in words if word.startswith("localhost")]
    header = words[words.index("-H") + 1].split(": ")
    body = words[words.index("-d") + 1].replace("#127", "#1").replace("#095", "#3")  # of this shop
    place = address.partition("/")[2]
    status, _, answer = ask(port, "POST", f"/{place}", body, dict([header]))
    assert status == 200
    assert len(answer["items"]) == 3


def test_several_histories_are_answered_at_once(port, params):
    histories = [["toy-1", "#3"], ["toy-2"], ["toy-1"]]
    body = json.dumps({"histories": histories, "k": 2}).encode()
    status, _, answer = ask(port, "POST", "/api/recommend_batch", body, JSON)
    assert status == 200
    assert sum(params["calls"]) < 32  # in batches of 8, not one by one
    assert len(params["calls"]) <= 2
    alone = [recommend(port, history=history, k=2)[2]["items"] for history in histories]
    assert answer["rankings"] == alone


def test_what_the_model_looked_at(port):
    asked = {"history": ["toy-0", "toy-2"], "item": "toy-4"}
    status, _, answer = ask(port, "POST", "/api/why", json.dumps(asked).encode(), JSON)
    assert (status, answer) == (200, {"looked_at": [1.0, 0.0]})
    for wrong, message in (
        (asked | {"item": "toy-9"}, "toy-9"),
        (asked | {"item": None}, "expected `item`, the id of an item"),
        (asked | {"history": []}, "a history needs at least one item"),
        (asked | {"history": ["toy-0"] * 101}, "at most 100 items"),
        (asked | {"k": 3}, "unknown field 'k'"),
    ):
        status, _, answer = ask(port, "POST", "/api/why", json.dumps(wrong).encode(), JSON)
        assert status == 400
        assert message in answer["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "a list of 1 to 32 histories"),
        (b'{"histories": []}', "a list of 1 to 32 histories"),
        (json.dumps({"histories": [["toy-1"]] * 33}).encode(), "a list of 1 to 32 histories"),
        (b'{"histories": [["toy-1"], []]}', "at least one item"),
        (b'{"histories": [["toy-1"], ["toy-9"]]}', "no item 'toy-9'"),
        (b'{"histories": ["toy-1"]}', "list of item ids"),
        (b'{"histories": [["toy-1"]], "history": ["toy-1"]}', "unknown field 'history'"),
        (json.dumps({"histories": [["toy-1"] * 101]}).encode(), "at most 100 items"),
    ],
)
def test_mistakes_in_a_batch_are_told(port, body, message):
    status, _, answer = ask(port, "POST", "/api/recommend_batch", body, JSON)
    assert (status, message in answer["error"]) == (400, True), answer


def test_items_are_described_by_id(port):
    _, _, answer = ask(port, "GET", "/api/items?id=toy-3&id=%230")
    assert [item["id"] for item in answer["items"]] == ["toy-3", "toy-0"]
    status, _, answer = ask(port, "GET", "/api/items?id=toy-9")
    assert (status, "no item 'toy-9'" in answer["error"]) == (400, True)
    assert ask(port, "GET", "/api/items?" + "id=toy-1&" * 101)[0] == 400


def test_prometheus_is_told_of_every_request(port):
    recommend(port, history=["toy-1"])
    recommend(port, history=["toy-9"])
    for url in ("/nowhere", "/nowhere/else"):
        ask(port, "GET", url)
    _, headers, text = ask(port, "GET", "/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=")
    lines = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if line[0] != "#")
    counted = 'recalign_requests_total{path="%s",status="%s"}'
    assert lines[counted % ("/api/recommend", 200)] == "1.0"
    assert lines[counted % ("/api/recommend", 400)] == "1.0"
    assert lines[counted % ("other", 404)] == "2.0"
    assert lines['recalign_request_seconds_count{path="/api/recommend"}'] == "2.0"
    assert lines["recalign_batch_histories_sum"] == "1.0"
    assert lines["recalign_waiting"] == "0.0"


def test_the_interface_is_as_it_is_documented(port):
    """Requests that the OpenAPI document allows, and such as it forbids; none breaks the server."""
    import schemathesis
    from schemathesis.checks import positive_data_acceptance
    from schemathesis.generation import GenerationMode

    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/api/openapi.json")
    # A body that is too large is refused as such, whatever else is wrong with it.
    refused = schema.config.checks.negative_data_rejection
    refused.expected_statuses = [*refused.expected_statuses, "413"]
    # An id may be any text, of which hardly one is an item's: it is refused all the same.
    left_out = [positive_data_acceptance]
    seen = set()
    for operation in [each.ok() for each in schema.get_all_operations()]:
        seen.add(operation.path)
        asks = operation.body or operation.query
        for mode in (GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if asks else [])):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
            def check(case):
                case.call_and_validate(excluded_checks=left_out)

            check()
    assert seen == {
        "/api/about",
        "/api/items",
        "/api/recommend",
        "/api/recommend_batch",
        "/api/why",
        "/healthz",
        "/metrics",
    }


def test_the_catalogue_is_searched_by_all_words(port):
    def found(words):
        return [item["id"] for item in ask(port, "GET", f"/api/items?q={words}")[2]["items"]]

    assert found("PUZZLE") == ["toy-0"]
    assert found("brand%20%3Cscript%3E") == ["toy-1"]
    assert found("toy-3") == ["toy-3"]
    assert found("nothing") == []
    assert len(found("")) == 6


def assert_policy(headers):
    [policy] = headers.get_all("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_everything_comes_with_a_policy(port):
    for url in ("/", "/page.js", "/page.css", "/api/about", "/api/items", "/metrics", "/nowhere"):
        _, headers, _ = ask(port, "GET", url)
        assert_policy(headers)
    about = ask(port, "GET", "/api/about")[2]
    examples = about.pop("examples")
    assert sorted([item["id"] for item in example] for example in examples) == [
        ["toy-0", "toy-1", "toy-2"],
        ["toy-4", "toy-0"],
    ]
    assert about == {
        "domain": "shop",
        "items": 6,
        "most_history": 100,
        "most_histories": 32,
        "most_items": 5,
    }


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[" * 60_000, 400, "not JSON"),
        (b"\xff\xfe{}", 400, "not JSON"),
        (b"[]", 400, "not a JSON object"),
        (b"{}", 400, "list of item ids"),
        (b'{"history": []}', 400, "at least one item"),
        (b'{"history": [1]}', 400, "list of item ids"),
        (b'{"history": ["toy-9"]}', 400, "has no item 'toy-9'; did you mean toy-"),
        (b'{"history": ["toy-1"], "k": 6}', 400, "from 1 to 5"),
        (b'{"history": ["toy-1"], "k": true}', 400, "from 1 to 5"),
        (b'{"history": ["toy-1"], "k": 1e400}', 400, "from 1 to 5"),
        (b'{"history": ["toy-1"], "include_seen": 1}', 400, "true or false"),
        (b'{"history": ["toy-1"], "beams": 1}', 400, "unknown field 'beams'"),
        (json.dumps({"history": ["toy-1"] * 101}).encode(), 400, "at most 100 items"),
        (b'{"history": ["' + b"a" * 70_000 + b'"]}', 413, "at most 65536 bytes"),
    ],
)
def test_mistakes_are_told(port, body, status, message):
    found, _, answer = ask(port, "POST", "/api/recommend", body, JSON)
    assert (found, message in answer["error"]) == (status, True), answer


def test_other_mistakes_are_told(port):
    assert ask(port, "GET", "/nowhere")[0] == 404
    assert ask(port, "GET", "/../../etc/passwd")[0] == 404
    assert ask(port, "GET", "/api/recommend")[0] == 405
    assert ask(port, "GET", f"/api/items?q={'a' * 101}")[0] == 400
    assert recommend(port, headers={"Content-Type": "text/plain"}, history=["toy-1"])[0] == 415
    assert recommend(port, headers=JSON | {"Host": "evil.example"}, history=["toy-1"])[0] == 400


def test_what_arrives_together_is_answered_together(port, params, clients):
    params["seconds"] = 0.2
    statuses = asyncio.run(clients.burst(port, [clients.request(b'{"history": ["toy-1"]}')] * 24))
    assert statuses == [200] * 24
    assert max(params["calls"]) == 8
    assert len(params["calls"]) < 2 + 24


def test_too_many_are_sent_away(serving, recommender, params, clients):
    params["seconds"] = 0.0
    with serving(recommender, Limits(batch=1, waiting=2)) as port:
        params["seconds"] = 0.3
        statuses = asyncio.run(
            clients.burst(port, [clients.request(b'{"history": ["toy-1"]}')] * 20)
        )
        assert set(statuses) == {200, 503}
        assert 1 <= statuses.count(200) <= 5
        params["seconds"] = 0.0
        assert recommend(port, history=["toy-1"])[0] == 200


def test_an_answer_that_takes_too_long_is_given_up(serving, recommender, params):
    with serving(recommender, Limits(seconds=0.2)) as port:
        params["seconds"] = 0.5
        assert recommend(port, history=["toy-1"])[0] == 504
        params["seconds"] = 0.0
        time.sleep(0.6)  # what nobody waits for any more is still being worked on
        assert recommend(port, history=["toy-1"])[0] == 200


@pytest.mark.parametrize("broken", [lambda _: 1 / 0, lambda _: next(iter(()))])
def test_a_failure_is_told_without_its_reason(port, recommender, monkeypatch, broken):
    """Be it one that a future cannot hold."""
    monkeypatch.setattr(recommender, "_ask", broken)
    status, headers, answer = recommend(port, history=["toy-1"])
    assert status == 500
    assert set(answer) == {"error"}
    assert "division" not in answer["error"]
    assert_policy(headers)
    monkeypatch.undo()
    assert recommend(port, history=["toy-1"])[0] == 200


def test_whoever_is_one_too_many_is_sent_away(serving, recommender, params, clients):
    with serving(recommender, Limits(requests=4)) as port:
        params["seconds"] = 0.3
        right = clients.request(b'{"history": ["toy-1"]}')
        statuses = asyncio.run(clients.burst(port, [right] * 10))
        assert sorted(statuses) == [200] * 4 + [503] * 6
        assert recommend(port, history=["toy-1"])[0] == 200
    with serving(recommender, Limits(requests=0)) as port:
        status, headers, answer = ask(port, "GET", "/")
        assert (status, answer) == (503, {"error": "too many requests at once: try again soon"})
        assert headers["Retry-After"] == "1"
        assert_policy(headers)


def test_a_batcher_that_died_is_noticed(port, recommender, monkeypatch, caplog):
    """Nobody waits for the time limit, and the health check fails."""
    assert ask(port, "GET", "/healthz")[::2] == (200, {"status": "ok"})

    def die(histories):
        raise asyncio.CancelledError  # ends the task that it gets into

    monkeypatch.setattr(recommender, "_ask", die)
    begin = time.monotonic()
    for _ in range(2):
        status, headers, answer = recommend(port, history=["toy-1"])
        assert (status, "must be started anew" in answer["error"]) == (503, True)
        assert_policy(headers)
    assert ask(port, "GET", "/healthz")[0] == 503
    assert time.monotonic() - begin < 20  # the limit is 30
    assert "start the server anew" in caplog.text


def test_a_client_that_leaves_is_no_failure(port, caplog):
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(
            b"POST /api/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            b"Content-Type: application/json\r\n\r\n{"
        )
        time.sleep(0.2)
    time.sleep(0.2)
    assert recommend(port, history=["toy-1"])[0] == 200
    assert "failed" not in caplog.text


def test_200_clients_at_once_nonsense_among_them(port, clients):
    rng = np.random.default_rng(0)
    right = clients.request(b'{"history": ["toy-1"]}')
    wrong = [clients.nonsense(rng) for _ in range(100)]
    asyncio.run(clients.burst(port, [right, *wrong] * 2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        mixed = [right if rng.random() < 0.5 else clients.nonsense(rng) for _ in range(200)]
        statuses = asyncio.run(clients.burst(port, mixed))
        for content, status in zip(mixed, statuses, strict=True):
            wanted = {200, 503} if content == right else {400, 404, 413, None}
            assert status in wanted, content[:100]
        assert 200 in statuses
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 1024  # KiB; what was kept of the requests would be that and more
    assert recommend(port, history=["toy-1"])[0] == 200


@given(
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"history": st.lists(st.sampled_from(["toy-1", "#2", "toy", "", "\0"]), max_size=4)},
        optional={"k": st.integers(-2, 9) | st.floats(), "include_seen": st.booleans()},
    ).map(lambda value: json.dumps(value).encode()),
)
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_body_gets_a_ranking_or_one_clear_error(port, body):
    status, _, answer = ask(port, "POST", "/api/recommend", body, JSON)
    assert (status, set(answer)) in ((200, {"items"}), (400, {"error"}))
    assert "Traceback" not in str(answer)


@given(words=st.text(st.characters(codec="utf-8"), max_size=120))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_search_gets_items_or_one_clear_error(port, words):
    status, _, answer = ask(port, "GET", f"/api/items?q={quote(words)}")
    assert (status, set(answer)) in ((200, {"items"}), (400, {"error"}))


def test_an_address_that_cannot_be_had_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(UserError, match=f"cannot serve on 127.0.0.1 port {port}"):
            server.listen("127.0.0.1", port)
    with pytest.raises(UserError, match=r"cannot serve on no\.such\.host\.invalid"):
        server.listen("no.such.host.invalid", 0)


def test_the_default_is_loopback():
    [host] = [p for p in recalign.commands["serve"].params if p.name == "host"]
    assert server.is_loopback(host.default)
    assert server.is_loopback("::1")
    assert server.is_loopback("localhost")
    assert not server.is_loopback("0.0.0.0")
    assert not server.is_loopback("example.org")


def test_a_folder_without_a_run_is_named(tmp_path):
    result = CliRunner().invoke(recalign, ["serve", "--model_dir", str(tmp_path), "--port", "0"])
    assert isinstance(result.exception, UserError)
    assert "holds no run" in str(result.exception)
