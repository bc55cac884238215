"""What no client of good will sends: one clear message in the service's own form, and no hang."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from recalign.serving import server
from recalign.serving.app import Limits

JSON = b"Content-Type: application/json\r\n"
RIGHT = b'{"history": ["toy-1"]}'
CHUNKED = JSON + b"Transfer-Encoding: chunked\r\n"


def request(method, target, headers=b"", host=b"Host: 127.0.0.1\r\n", body=b""):
    start = method + b" " + target + b" HTTP/1.1\r\n" + host + b"Connection: close\r\n"
    return start + headers + b"\r\n" + body


def post(body, url=b"/api/recommend", headers=JSON, length=None):
    length = b"%d" % len(body) if length is None else length
    return request(b"POST", url, headers + b"Content-Length: " + length + b"\r\n", body=body)


def send(port, content, seconds=20):
    """The status, the headers and the body of the first response."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(content)
        return read(connection)


def read(connection):
    head, body = b"", b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(4096)
        assert part, f"no answer, but {head!r}"
        head += part
    head, _, body = head.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(4096)
    return int(line.split()[1]), headers, body


def feed(connection):
    """Sends a byte now and then."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        connection.sendall(b"a")
        time.sleep(0.1)


def assert_told(answer, status, message):
    """One message in the service's form, under its policy."""
    found, headers, body = answer
    assert headers["content-type"] == "application/json", body
    [(key, text)] = json.loads(body).items()
    assert (found, key, message in text) == (status, "error", True), (found, text)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert len(text) < 250, text


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"no request\r\n\r\n", 400, "this is no HTTP request: illegal request line"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 99, 400, "no HTTP request"),
        (request(b"GET", b"/a b"), 400, "no HTTP request"),
        (request(b"GET", b"/", b"X: " + b"a" * 70_000), 400, "no HTTP request"),
        (request(b"GET", b"/", host=b""), 400, "Host"),
        (request(b"GET", b"/", host=b"Host: evil.example\r\n"), 400, "'evil.example'"),
        (request(b"GET", b"/", host=b"Host: localhost/x\r\n"), 400, "'localhost/x'"),
        (request(b"GET", b"/", host=b"Host: evil@localhost\r\n"), 400, "'evil@localhost'"),
        (request(b"GET", b"/", host=b"Host: localhost.evil:80\r\n"), 400, "'localhost.evil:80'"),
        (request(b"GET", b"/", host=b"Host: " + b"a" * 9999 + b"\r\n"), 400, "this server's name"),
        (post(RIGHT, length=b"-1"), 400, "Content-Length"),
        (post(RIGHT, length=b"five"), 400, "Content-Length"),
        (post(RIGHT, length=b"9" * 30), 400, "Content-Length"),
        (post(RIGHT, headers=JSON + b"Content-Length: 5\r\n"), 400, "Content-Length"),
        (post(RIGHT, headers=JSON + b"Transfer-Encoding: gzip\r\n"), 400, "Transfer-Encoding"),
        (request(b"POST", b"/api/recommend", CHUNKED, body=b"zz\r\n"), 400, "chunk"),
        (request(b"POST", b"/api/recommend", CHUNKED, body=b"-5\r\n"), 400, "chunk"),
        # Refused by what it says of itself: nobody waits for the body.
        (post(b"{", length=b"1000000000"), 413, "at most 65536 bytes"),
    ],
)
def test_what_breaks_the_protocol_is_told(port, content, status, message):
    assert_told(send(port, content, seconds=5), status, message)


@pytest.mark.parametrize("host", [b"LOCALHOST", b"localhost:1", b"[::1]:8765", b"127.0.0.1"])
def test_this_machine_may_be_called_by_any_of_its_names(port, host):
    assert send(port, request(b"GET", b"/healthz", host=b"Host: " + host + b"\r\n"))[0] == 200


@pytest.mark.parametrize(
    ("method", "url", "allowed"),
    [
        (b"GET", b"/api/recommend", "POST"),
        (b"OPTIONS", b"/api/recommend", "POST"),
        (b"PUT", b"/page.js", "GET or HEAD"),
        (b"X" * 9999, b"/healthz", "GET or HEAD"),
    ],
)
def test_a_wrong_verb_is_told_the_right_one(port, method, url, allowed):
    answer = send(port, request(method, url))
    assert_told(answer, 405, f"{url.decode()} answers {allowed}, not '{method[:9].decode()}")
    assert set(answer[1]["allow"].split(", ")) == set(allowed.split(" or "))


@pytest.mark.parametrize(
    "url",
    [
        b"/../app.py",
        b"/%2e%2e/app.py",
        b"/page.js%00",
        b"/page/page.js",
        b"/%ff",
        b"/" + b"a" * 9999,
        b"*",
        b"//evil.example/x",
        b"/%0d%0aX-Injected:%20y",
    ],
)
def test_what_is_not_there_is_told(port, url):
    answer = send(port, request(b"GET", url))
    assert_told(answer, 404, "nothing at")
    assert_told(answer, 404, "/api/openapi.json")
    assert "x-injected" not in answer[1]


@pytest.mark.parametrize(
    ("url", "body", "message"),
    [
        (b"/api/recommend", b"", "the body: not JSON: Expecting value: line 1 column 1"),
        (b"/api/recommend", b'{"history": ["\xe9"]}', "can't decode byte 0xe9"),
        (b"/api/recommend", b"[" * 60_000, "the body: not JSON"),
        (b"/api/recommend", b'{"history": ["toy-1"], "k": %s}' % (b"1" * 5000), "4300 digits"),
        (b"/api/recommend", b'{"k": 1, "history": ["toy-1"], "k": 2}', "the field 'k' twice"),
        (b"/api/recommend", b'{"%s": 1}' % (b"a" * 60_000), "unknown field"),
        (b"/api/recommend", b'{"history": ["toy-1"], "k": 2.5}', "a whole number from 1 to 5"),
        (b"/api/recommend", b'{"history": ["toy-1"], "k": NaN}', "a whole number from 1 to 5"),
        (b"/api/recommend", b'{"history": ["\\ud800"]}', r"no item '\ud800'"),
        (b"/api/recommend_batch", b'{"histories": [["toy-1"], []]}', "history 2: a history needs"),
        (b"/api/recommend_batch", b'{"histories": ["toy-1"]}', "history 1: expected"),
        (b"/api/recommend_batch", b'{"histories": [["toy-1"], ["no"]]}', "history 2: shop has no"),
        (
            b"/api/recommend_batch",
            json.dumps({"histories": [["toy-1"], ["toy-1"] * 101]}).encode(),
            "history 2: at most 100 items",
        ),
        (b"/api/why", b'{"history": ["toy-1"]}', "expected `item`, the id of an item"),
        (b"/api/why", b'{"history": ["toy-1"], "item": 5}', "expected `item`, the id of an item"),
    ],
)
def test_what_is_wrong_in_a_body_is_told_by_its_place(port, url, body, message):
    assert_told(send(port, post(body, url)), 400, message)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (b"query=kite", "unknown parameter 'query'"),
        (b"q=kite&limit=5", "unknown parameter 'limit'"),
        (b"q=kite&q=drum", "expected one q, or one id or several"),
        (b"q=kite&id=toy-1", "expected one q, or one id or several"),
        (b"&".join([b"id=toy-1"] * 101), "at most 100 items"),
        (b"a" * 50_000, "unknown parameter"),
    ],
)
def test_what_is_wrong_in_a_search_is_told(port, query, message):
    assert_told(send(port, request(b"GET", b"/api/items?" + query)), 400, message)


def test_a_content_type_may_be_written_in_capitals(port):
    content = post(RIGHT, headers=b"Content-Type: Application/JSON; charset=UTF-8\r\n")
    assert send(port, content)[0] == 200


def test_a_body_that_does_not_come_is_given_up(serving, recommender):
    with serving(recommender, Limits(seconds=0.2)) as port:
        answer = send(port, post(b"{", length=b"20"), seconds=5)
        assert_told(answer, 408, "the body did not come within 0.2 seconds")


@pytest.mark.parametrize("sent", [b"", b"GET / HT", post(b"{", headers=b"", length=b"9000")])
def test_a_connection_without_a_whole_request_is_closed(
    serving, recommender, monkeypatch, caplog, sent
):
    """Be it fed a byte at a time: else such connections pile up."""
    monkeypatch.setattr(server, "SECONDS_WITHOUT_REQUEST", 0.5)
    with (
        serving(recommender, Limits()) as port,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.sendall(sent.replace(b"Connection: close\r\n", b""))
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            feed(connection)
    assert "Traceback" not in caplog.text


def test_a_client_that_reads_no_answer_is_left(serving, recommender, monkeypatch, caplog):
    """It would be under way for ever, and so many at once are all that are admitted."""
    monkeypatch.setattr(server, "SECONDS_UNREAD", 0.5)
    asked = request(b"GET", b"/page.js").replace(b"Connection: close\r\n", b"")
    with serving(recommender, Limits(requests=1)) as port:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", port))
            connection.sendall(asked * 3000)  # whose answers no buffer of the system's holds
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                feed(connection)
        assert send(port, request(b"GET", b"/healthz"))[0] == 200
    assert "Traceback" not in caplog.text


def test_nonsense_after_an_answer_closes_the_connection(port, caplog):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        start = b"POST /api/recommend HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(start + b"Transfer-Encoding: chunked\r\n\r\n")
        assert read(connection)[0] == 415
        connection.sendall(b"zz\r\n")
        assert connection.recv(4096) == b""
    assert "Traceback" not in caplog.text
    assert "exception" not in caplog.text.lower()


def test_who_asks_for_a_web_socket_is_answered_without_a_word_in_the_log(port, caplog):
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n"
    assert send(port, request(b"GET", b"/healthz", upgrade))[0] == 200
    assert not caplog.text


def test_who_still_waits_when_the_server_stops_is_told(serving, recommender, params, caplog):
    with ThreadPoolExecutor(1) as client:
        with serving(recommender, Limits()) as port:
            params["seconds"] = 4.0  # the server waits for 2
            waiting = client.submit(send, port, post(RIGHT))
            time.sleep(0.5)
        assert_told(waiting.result(), 503, "this server is being stopped")
    assert "Traceback" not in caplog.text
    assert "Exception" not in caplog.text
