"""The client of chat servers: what it sends, and that no server can break, stall, swell or sound it out.

Over 400 lines: whatever a server may do is tried against the same loopback.
"""

import base64
import contextlib
import io
import json
import logging
import socket
import threading
import time
import traceback
import tracemalloc

import pytest
import torch
from PIL import Image

from steadydiff.arpo.language import server as module
from steadydiff.arpo.language.exchange import Address
from steadydiff.arpo.language.keys import find_key, keys_file
from steadydiff.arpo.language.server import ChatServer
from steadydiff.errors import ProposerError, SettingsError

CANARY = "sk-canary-0123456789abcdef"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def http(body, status="200 OK", *headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chat(content, **more):
    return http({"choices": [{"message": {"role": "assistant", "content": content}, **more}]})


class Loopback:
    """A server on this machine that answers its nth caller with the nth answer: bytes, or what a function of
    the connection does. The last answer serves all that follow. `requests` are (path, headers, body)."""

    def __init__(self, *answers):
        self.answers, self.requests, self.closed = list(answers), [], threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def stop(self):
        """Nothing listens from here on: after closing alone a pending `accept` takes one more caller."""
        with contextlib.suppress(OSError):  # macOS refuses to shut down a socket that only listens
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def answer(self, connection):
        with connection, connection.makefile("rb") as lines:
            try:
                self.requests.append(read_request(lines))
                reply = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                connection.sendall(reply) if isinstance(reply, bytes) else reply(connection)
            except (OSError, ValueError, LookupError):
                pass  # the client has gone, or does not speak HTTP
            self.closed.set()


def read_request(lines):
    path = lines.readline().split()[1].decode()
    headers = {}
    while line := lines.readline().decode().strip():
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    return path, headers, lines.read(int(headers["content-length"]))


@pytest.fixture
def loopback():
    servers = []

    def start(*answers):
        servers.append(Loopback(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    for thread in threading.enumerate():
        if thread.name == "steadydiff-exchange":
            thread.join(5)
            assert not thread.is_alive()


def asked(server, **settings):
    return ChatServer(server.url, "tiny", **({"timeout": 5.0, "backoff": 0.01} | settings))("What is it?")


def complaint(server, **settings):
    """What the user reads when it fails; one line without anything unprintable."""
    with pytest.raises(ProposerError) as failed:
        asked(server, **settings)
    text = str(failed.value)
    assert text.isprintable() and len(text) < 500 and server.url in text and "tiny" in text
    assert failed.value.__cause__ is None
    return text


# --- what is sent -----------------------------------------------------------------------------------------


def test_a_question_about_pictures(loopback):
    server = loopback(chat("two pictures"))
    reference = torch.rand(6, 10, 3)
    ask = ChatServer(
        server.url + "/v1/", "tiny", seed=5, side=80, options='{"top_p": 0.9, "max_tokens": null}'
    )
    assert ask("What differs?", (reference, torch.zeros(160, 110, 3))) == "two pictures"
    [(path, headers, body)] = server.requests
    sent = json.loads(body)
    [message] = sent.pop("messages")
    assert path == "/v1/chat/completions" and "authorization" not in headers
    assert sent == {"model": "tiny", "temperature": 0.2, "seed": 5, "top_p": 0.9, "stream": False}
    *pictures, text = message["content"]
    assert message["role"] == "user" and text == {"type": "text", "text": "What differs?"}
    first, second = (opened(part["image_url"]["url"]) for part in pictures)
    assert torch.equal(first, (reference * 255).round().to(torch.uint8))  # Image 1, bit for bit
    assert second.shape == (80, 55, 3)


def opened(url):
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    return torch.tensor(bytearray(picture.tobytes()), dtype=torch.uint8).view(*picture.size[::-1], 3)


def test_a_question_without_pictures_is_plain_text(loopback):
    server = loopback(chat([{"type": "text", "text": "yes"}, {"type": "other"}]))
    assert asked(server) == "yes"
    assert json.loads(server.requests[0][2])["messages"] == [{"role": "user", "content": "What is it?"}]


@pytest.mark.parametrize(
    ("url", "origin", "base"),
    [
        ("http://localhost:11434", "http://localhost:11434", "/v1"),
        (" http://localhost:1234/v1/ ", "http://localhost:1234", "/v1"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai", "/api/v1"),
        ("https://Host.example:443/v1/chat/completions", "https://host.example", "/v1"),
        ("http://[::1]:8080", "http://[::1]:8080", "/v1"),
    ],
)
def test_addresses(url, origin, base):
    assert (Address.of(url).origin, Address.of(url).base) == (origin, base)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:11434",
        "ftp://host",
        "file:///etc/passwd",
        "http://",
        "http://host:port",
        "http://a:99999",
    ]
    + ["http://user:word@host", "http://host/?key=word", "http://host/#word", "http://a b"]
    + ["http://a\r\nX: y", "http://[::1", "http://evil.example\\@localhost"],
)
def test_other_addresses_are_refused(url):
    with pytest.raises(SettingsError) as refused:
        ChatServer(url, "tiny")
    assert "word" not in str(refused.value).replace("password", "")


@pytest.mark.parametrize("options", ["{", "[]", "3", '{"messages": []}', '{"stream": true}', "[" * 100_000])
def test_bad_options_are_refused(options):
    with pytest.raises(SettingsError, match="options must be a JSON object"):
        ChatServer("http://localhost:1", "tiny", options=options)


# --- servers that fail ------------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again(loopback):
    server = loopback(http(b"", "503 Loading"), http(b"", "429 Slow", "Retry-After: 0"), b"", chat("a cat"))
    assert asked(server) == "a cat"
    assert len(server.requests) == 4


def limit(words, code):
    """An error that says it is none, as OpenRouter sends it."""
    return http({"error": {"message": words, "code": code}})


@pytest.mark.parametrize(
    "error",
    [
        limit("Rate limit exceeded", 429),
        limit("upstream failed", 502),
        http({"error": "Rate limit reached, please try again in 2s"}),
        http({"choices": [{"error": {"message": "overloaded", "code": 503}, "message": {"content": ""}}]}),
        http([{"error": {"message": "Resource has been exhausted", "code": 429}}]),  # as Gemini sends it
        http({"object": "error", "message": "Too many requests", "code": 429}),
        http(b'data: {"choices": [{"delta": {"content": "a d"}}]}\n\ndata: {"choices": [{"de'),
    ],
)
def test_a_limit_told_in_a_good_reply_is_asked_again(loopback, error):
    server = loopback(error, chat("a cat"))
    assert asked(server) == "a cat"
    assert len(server.requests) == 2


def test_an_error_told_in_a_good_reply_is_shown_and_not_asked_again(loopback):
    server = loopback(http({"error": "Model unloaded; load one in LM Studio"}))
    assert "refused (Model unloaded; load one in LM Studio)" in complaint(server)
    assert len(server.requests) == 1
    both = http({"choices": [{"message": {"content": "a cat"}}], "error": "deprecated field"})
    assert asked(loopback(both)) == "a cat"
    server = loopback(limit("Invalid credentials", 401))
    assert "does not accept the key (none was sent) (401: Invalid credentials)" in complaint(server)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (http([{"error": {"message": "API key not valid"}}], "400 Bad"), "refused (400: API key not valid)"),
        (http({"detail": "Not authenticated", "code": 401}), "key (none was sent) (401: Not authenticated)"),
        (http({"object": "error", "message": "no model x", "code": 404}), "or path (404: no model x)"),
        (chat("", finish_reason="content_filter"), "its filter stopped the answer"),
        (chat(" \n "), "answered with no text"),
    ],
    ids=["a list", "a detail", "a message", "a filter", "spaces"],
)
def test_errors_of_other_forms_show_the_servers_words(loopback, reply, said):
    assert said in complaint(loopback(reply))


def test_only_what_may_be_about_pictures_is_explained_by_them(loopback):
    assert complaint(loopback(http({"error": "no credits"}, "402 Pay"))).endswith("refused (402: no credits)")


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "thinking", "thinking": "a dog?"}, {"type": "text", "text": "a cat"}],
        [{"type": "output_text", "text": "a "}, {"type": "output_text", "text": "cat"}],
        ["a ", "cat"],
    ],
)
def test_an_answer_in_parts_is_put_together(loopback, parts):
    assert asked(loopback(chat(parts))) == "a cat"
    assert asked(loopback(stream(*({"content": [part]} for part in parts)))) == "a cat"


def stream(*deltas, end="data: [DONE]\n\n"):
    chunks = [f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n" for delta in deltas]
    return http(
        (": PROCESSING\n\n" + "".join(chunks) + end).encode(), "200 OK", "Content-Type: text/event-stream"
    )


def test_an_answer_that_streams_unasked_is_read(loopback):
    pieces = (
        {"role": "assistant"},
        {"reasoning_content": "hm, a dog"},
        {"content": "a black"},
        {"content": " cat"},
    )
    assert asked(loopback(stream(*pieces))) == "a black cat"
    assert asked(loopback(stream(*pieces, end=""))) == "a black cat"
    assert "no chat completion" in complaint(loopback(http(b"data: [DONE]\n\n")))
    failed = stream(end='data: {"error": {"message": "out of memory", "code": 500}}\n\n')
    assert "(500: out of memory)" in complaint(loopback(failed), retries=0)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_beside_the_answer_are_not_the_answer(loopback, name):
    def says(content):
        return http({"choices": [{"message": {"content": content, name: "perhaps a dog"}}]})

    assert asked(loopback(says("a cat"))) == "a cat"
    assert "thought, but did not answer" in complaint(loopback(says("")))
    assert "thought, but did not answer" in complaint(loopback(says(None)))


def test_a_refusal_in_its_own_field_is_an_answer(loopback):
    words = "I'm sorry, I can't assist with that."
    assert asked(loopback(http({"choices": [{"message": {"content": None, "refusal": words}}]}))) == words


def test_a_server_that_stays_busy_is_given_up(loopback):
    server = loopback(http({"error": {"message": "out of memory"}}, "500 Error"))
    assert "is busy or failing (500: out of memory)" in complaint(server, retries=2)
    assert len(server.requests) == 3


@pytest.mark.parametrize("until", ["60", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_server_that_asks_to_wait_too_long_is_not_waited_for(loopback, until):
    server = loopback(http(b"", "429 Slow", f"Retry-After: {until}"))
    assert "(429)" in complaint(server)
    assert len(server.requests) == 1


def test_a_part_of_a_second_is_waited_for(loopback):
    server, begun = loopback(http(b"", "429 Slow", "Retry-After: 0.4"), chat("a cat")), time.monotonic()
    assert asked(server) == "a cat" and time.monotonic() - begun > 0.35


@pytest.mark.parametrize("until", ["soon", "-5", "", "Fri, 99 Dec", "9" * 5000])
def test_nonsense_about_waiting_does_no_harm(loopback, until):
    server = loopback(http(b"", "429 Slow", f"Retry-After: {until}"), chat("a cat"))
    try:
        assert asked(server) == "a cat"
    except ProposerError:
        assert until.startswith("9")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (http({"error": "no such model"}, "404 Not Found"), "no such model or path (404: no such model)"),
        (
            http({"detail": [{"msg": "x"}]}, "422 No"),
            'refused (422: {"detail": [{"msg": "x"}]}); some models',
        ),
        (http(b"<html><b>Not\x1b[2J allowed</b>", "400 No"), "refused (400: Not [2J allowed)"),
        (http(b"", "401 No"), "does not accept the key (none was sent) (401)"),
        (http({"error": "data:image/png;base64,AAAA is bad"}, "400 No"), "refused (400: is bad)"),
        (http({"choices": []}), "no chat completion"),
        (http({"choices": [{"message": {"content": 3}}]}), "no chat completion"),
        (http({"choices": {"0": "x"}}), "no chat completion"),
        (http(b"[" * 100_000), "no chat completion"),
        (http(b'{"choices": [{"message": {"content": "a c'), "no chat completion"),
        (http(b"\x1f\x8b\x08junk", "200 OK", "Content-Encoding: gzip"), "no chat completion"),
        (http(b"\xff\xfe\x00\xd8"), "no chat completion"),
        (chat(None), "answered with no text"),
        (chat("", finish_reason="length"), "raise max_tokens"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200 + b"\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 100_000, "does not speak HTTP"),
        (HEAD + b"Content-Length: 100\r\n\r\n{}", "broke the connection off"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "broke the connection off"),
        (HEAD + b"Content-Length: 300000000\r\n\r\n", "sent far more than an answer"),
    ],
)
def test_every_failure_has_its_sentence(loopback, reply, said):
    assert said in complaint(loopback(reply), retries=0)


def test_a_server_is_reached_without_being_asked(loopback):
    server = loopback(b"")
    running = ChatServer(server.url, "tiny")
    running.reach()
    server.stop()
    with pytest.raises(ProposerError, match=r"\(model tiny\) does not run: nothing listens there"):
        running.reach()


def test_a_server_that_does_not_run_is_named(loopback):
    server = loopback(b"")
    server.stop()
    assert "nothing listens there; start it" in complaint(server)
    server = loopback(b"")
    server.answer = lambda connection: connection.sendall(b"no TLS\r\n") or connection.close()
    server.url = "https" + server.url[4:]
    assert "does not speak https" in complaint(server, timeout=10.0)


# --- servers that mean harm -------------------------------------------------------------------------------


def endless(head, piece, pause=0.0):
    def send(connection):
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(pause)

    return send


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Content-Length: 300000000\r\n\r\n",
    ],
)
def test_a_huge_answer_is_cut_off_and_takes_no_memory(loopback, head):
    piece = b"x" * 65_536
    server = loopback(endless(head, b"10000\r\n" + piece + b"\r\n" if b"chunked" in head else piece))
    tracemalloc.start()
    began = time.monotonic()
    assert "sent far more than an answer" in complaint(server, timeout=10.0)
    assert tracemalloc.get_traced_memory()[1] < 6_000_000
    tracemalloc.stop()
    assert time.monotonic() - began < 5
    assert server.closed.wait(2)


@pytest.mark.parametrize(
    "drip",
    [
        endless(HEAD + b"\r\n", b"x", 0.02),
        endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.02),
        endless(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x", 0.02),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
        endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", 0.02),
        lambda connection: time.sleep(4),
    ],
)
def test_a_slow_answer_ends_at_the_deadline(loopback, drip):
    began = time.monotonic()
    assert "gave no answer within 0.05 seconds" in complaint(loopback(drip), timeout=0.05)
    assert time.monotonic() - began < 2


def test_a_server_that_takes_nothing_ends_at_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = ChatServer(f"http://127.0.0.1:{deaf.getsockname()[1]}", "tiny", timeout=0.1)
        with pytest.raises(ProposerError, match="gave no answer within"):
            ask("x" * 6_000_000)


@pytest.mark.slow
def test_a_silent_handshake_ends_at_the_deadline(loopback):
    server = loopback(b"")

    def listen(connection):
        with connection:
            while connection.recv(4096):
                pass

    server.answer = listen
    server.url = "https" + server.url[4:]
    assert "gave no answer within 0.2 seconds" in complaint(server, timeout=0.2)


def test_no_redirect_is_followed(loopback):
    other = loopback(chat("stolen"))
    for status in ("301 Moved", "302 Found", "307 Temporary", "308 Permanent"):
        server = loopback(http(b"", status, f"Location: {other.url}/v1/chat/completions"))
        assert f"sends callers elsewhere ({other.url}" in complaint(server)
        assert len(server.requests) == 1
    assert other.requests == []


def test_no_proxy_is_asked(loopback, monkeypatch):
    proxy = loopback(chat("from the proxy"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    assert asked(loopback(chat("a cat"))) == "a cat"
    assert proxy.requests == []


# --- cancel -----------------------------------------------------------------------------------------------


class Cancelled(BaseException):
    pass


@pytest.mark.parametrize("reply", [lambda connection: time.sleep(4), http(b"", "503 Busy", "Retry-After: 4")])
def test_cancel_ends_the_waiting_and_the_connection(loopback, reply):
    server, began = loopback(reply), time.monotonic()

    def cancel():
        if time.monotonic() > began + 0.02:
            raise Cancelled

    with pytest.raises(Cancelled):
        asked(server, timeout=10.0, on_wait=cancel)
    assert time.monotonic() - began < 2


def test_a_server_sees_that_nobody_waits_any_more(loopback):
    gone = threading.Event()

    def listen(connection):
        connection.settimeout(2)
        if connection.recv(1) == b"":
            gone.set()

    complaint(loopback(listen), timeout=0.1)
    assert gone.wait(1)


# --- keys -------------------------------------------------------------------------------------------------


@pytest.fixture
def canary(monkeypatch):
    """A key in the environment; returns a function that allows it for a server."""
    monkeypatch.setenv("CANARY_KEY", CANARY)
    return lambda server: monkeypatch.setenv("CANARY_KEY_FOR", server.url + "/v1")


def test_a_key_is_sent_to_its_server_only(loopback, canary):
    server = loopback(chat("a cat"))
    with pytest.raises(SettingsError, match=f"CANARY_KEY is not meant for {server.url}, and was not sent"):
        asked(server, key_name="CANARY_KEY")
    assert server.requests == []
    canary(server)
    assert asked(server, key_name="CANARY_KEY") == "a cat"
    assert server.requests[0][1]["authorization"] == f"Bearer {CANARY}"
    with pytest.raises(SettingsError, match="is not meant for"):
        asked(loopback(chat("a cat")), key_name="CANARY_KEY")


def test_a_key_may_lie_in_the_users_file(tmp_path):
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "APPDATA": str(tmp_path)}
    file = keys_file(environment)
    file.parent.mkdir()
    file.write_text(json.dumps({"MINE": {"key": CANARY, "for": "https://a.example/v1"}, "ODD": CANARY}))
    assert find_key("MINE", "https://a.example", environment) == CANARY
    assert find_key("", "https://a.example", environment) == ""
    for name, origin, why in (
        ("MINE", "http://a.example", "not meant for"),
        ("MINE", "https://a.example:8443", "not meant for"),
        ("OTHER", "https://a.example", "there is no key OTHER"),
        ("ODD", "https://a.example", "cannot be read"),
    ):
        with pytest.raises(SettingsError, match=why) as refused:
            find_key(name, origin, environment)
        assert CANARY not in str(refused.value)
    file.write_text("{" + CANARY)
    with pytest.raises(SettingsError, match="cannot be read"):
        find_key("MINE", "https://a.example", environment)


@pytest.mark.parametrize("pasted", [CANARY, "gsk_0123456789abcdef", "my key", "ключ"])
def test_a_key_pasted_as_its_name_is_refused_and_not_repeated(pasted):
    with pytest.raises(SettingsError, match="key_name wants a key's name") as refused:
        ChatServer("http://localhost:1", "tiny", key_name=pasted)
    assert pasted not in str(refused.value)


def test_a_key_that_breaks_a_header_is_refused_and_not_repeated(monkeypatch, loopback, canary):
    server = loopback(chat("a cat"))
    canary(server)
    monkeypatch.setenv("CANARY_KEY", CANARY + "\r\nX-Other: 1")
    with pytest.raises(SettingsError, match="has letters no key has") as refused:
        asked(server, key_name="CANARY_KEY")
    assert CANARY not in "".join(traceback.format_exception(refused.value))
    assert server.requests == []


ECHOES = {
    "text": chat(f"a cat, {CANARY}, {CANARY.upper()}"),
    "escaped": http(chat(CANARY).partition(b"\r\n\r\n")[2].replace(b"sk-", b"\\u0073k-")),
    "error": http({"error": {"message": f"Incorrect API key provided: {CANARY}"}}, "401 No"),
    "page": http(b"y" * 230 + CANARY.encode(), "500 No"),
    "cut page": http(b"<i>" * 700 + b"y" * 220 + CANARY.encode(), "500 No"),
    "redirect": http(b"", "302 Found", f"Location: http://{'a' * 80}/{CANARY}"),
    "status": f"HTTP/1.1 418 {CANARY}\r\n\r\n".encode(),
    "no status": CANARY.encode() + b"\r\n\r\n",
    "header": http(b"", "429 No", f"Retry-After: {CANARY}", f"{CANARY}: {CANARY}"),
    "no chat": http({"choices": CANARY}),
    "chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CANARY.encode() + b"\r\n",
}


@pytest.mark.parametrize("echo", ECHOES)
def test_a_key_that_a_server_repeats_is_cut_out(echo, loopback, canary, caplog):
    caplog.set_level(logging.DEBUG)
    server = loopback(ECHOES[echo])
    canary(server)
    ask = ChatServer(server.url, "tiny", "CANARY_KEY", timeout=5.0, backoff=0.01, retries=1)
    seen = [repr(ask), str(ask)]
    try:
        seen.append(ask("What is it?"))
    except ProposerError as error:
        seen += [repr(error), "".join(traceback.format_exception(error))]
    assert server.requests[0][1]["authorization"] == f"Bearer {CANARY}"
    for text in (*seen, caplog.text):
        assert CANARY not in text.lower() and "0123456789abcdef" not in text.lower()


# --- memory -----------------------------------------------------------------------------------------------


def test_memory_is_yielded_around_a_round_of_questions(loopback):
    server, events = loopback(chat("a cat")), []
    ask = ChatServer(server.url, "tiny", timeout=1, make_room=lambda: events.append(len(server.requests)))
    with ask.session():
        ask("one")
        ask("two")
    assert events == [0]
    assert [path for path, _, _ in server.requests] == [*["/v1/chat/completions"] * 2, "/api/generate"]
    assert json.loads(server.requests[2][2]) == {"model": "tiny", "keep_alive": 0}


@pytest.mark.parametrize("reply", [http(b"", "404 No"), b"junk", lambda connection: time.sleep(4)])
def test_servers_that_cannot_be_told_to_free_memory_are_left_alone(loopback, reply, monkeypatch):
    monkeypatch.setattr(module, "UNLOAD_SECONDS", 0.1)
    ask = ChatServer(loopback(reply).url, "tiny", make_room=lambda: None)
    with pytest.raises(Cancelled), ask.session():
        raise Cancelled


def test_without_a_wish_no_memory_is_touched(loopback):
    server = loopback(chat("a cat"))
    with ChatServer(server.url, "tiny").session():
        pass
    assert server.requests == []
