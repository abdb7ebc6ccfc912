"""The WebSocket client against hand-made frames and a scripted server; its errors in readable words."""

import base64
import hashlib
import io
import json
import socket
import struct
import threading

import pytest

from tools.launch.comfy_client import ComfyClient, ComfyError, describe_failure, describe_refusal
from tools.launch.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WebSocket,
    make_frame,
    read_frame,
)


@pytest.fixture
def no_network():
    """These tests talk to servers of their own on this machine, which the general guard would refuse."""


def frame(opcode: int, payload: bytes, final: bool = True) -> bytes:
    """A server's frame, written out by the table of RFC 6455, 5.2."""
    head = bytes([(0x80 if final else 0) | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return head + bytes([126]) + struct.pack("!H", len(payload)) + payload
    return head + bytes([127]) + struct.pack("!Q", len(payload)) + payload


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536])
def test_frames_of_every_length_form_are_read(length: int):
    payload = bytes(range(256)) * (length // 256 + 1)
    stream = io.BytesIO(frame(BINARY, payload[:length]) + b"next")
    assert read_frame(stream.read) == (True, BINARY, payload[:length])
    assert stream.read() == b"next"


def test_the_examples_of_the_standard_are_read():
    """RFC 6455, 5.7: a masked and an unmasked "Hello", and the first of two fragments."""
    masked = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")
    assert read_frame(io.BytesIO(masked).read) == (True, TEXT, b"Hello")
    assert make_frame(TEXT, b"Hello", bytes.fromhex("37fa213d")) == masked
    assert read_frame(io.BytesIO(bytes.fromhex("81 05 48 65 6c 6c 6f")).read) == (True, TEXT, b"Hello")
    assert read_frame(io.BytesIO(bytes.fromhex("01 03 48 65 6c")).read) == (False, TEXT, b"Hel")


def serve(*frames: bytes, accept: str | None = None) -> tuple[int, threading.Thread, list[bytes]]:
    """Accept one client, shake hands, send the frames, hang up; what the client sent after is in the list."""
    listener = socket.create_server(("127.0.0.1", 0))
    received: list[bytes] = []

    def answer() -> None:
        connection, _ = listener.accept()
        with listener, connection, connection.makefile("rb") as stream:
            lines = [line.decode() for line in iter(stream.readline, b"\r\n")]
            key = next(line.split(": ")[1].strip() for line in lines if line.startswith("Sec-WebSocket-Key"))
            digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
            proof = base64.b64encode(digest).decode() if accept is None else accept
            connection.sendall(
                f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {proof}\r\n\r\n".encode()
            )
            for data in frames:
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            received.append(stream.read())

    thread = threading.Thread(target=answer)
    thread.start()
    return listener.getsockname()[1], thread, received


def test_messages_come_whole_whatever_lies_between_their_fragments():
    port, thread, received = serve(
        frame(TEXT, "snö".encode()[:3], final=False),
        frame(PING, b"still there?"),
        frame(CONTINUATION, "snö".encode()[3:]),
        frame(BINARY, b"\x00preview"),
        frame(TEXT, b"x" * 70000),
        frame(CLOSE, b""),
    )
    with WebSocket("127.0.0.1", port, "/ws", timeout=5) as messages:
        assert messages.receive() == "snö"
        assert messages.receive() == b"\x00preview"
        assert messages.receive() == "x" * 70000
        with pytest.raises(ConnectionError, match="closed"):
            messages.receive()
    thread.join()
    assert read_frame(io.BytesIO(received[0]).read) == (True, PONG, b"still there?")


def test_a_connection_that_breaks_off_or_stays_silent_is_noticed():
    port, thread, _ = serve(frame(TEXT, b"hello")[:4])
    with WebSocket("127.0.0.1", port, "/ws", timeout=5) as messages:
        with pytest.raises(ConnectionError, match="broke off"):
            messages.receive()
    thread.join()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        WebSocket("127.0.0.1", silent.getsockname()[1], "/ws", timeout=0.1)


def test_a_server_that_does_not_speak_websocket_is_refused():
    port, thread, _ = serve(accept="nonsense")
    with pytest.raises(ConnectionError, match="no WebSocket at 127.0.0.1"):
        WebSocket("127.0.0.1", port, "/ws", timeout=5)
    thread.join()


GRAPH = {"3": {"class_type": "KSampler", "inputs": {}}}
REFUSAL = {
    "error": {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "",
    },
    "node_errors": {
        "3": {
            "errors": [
                {"message": "Value 0 smaller than min of 1", "details": "steps"},
                {"message": "No model"},
            ],
            "class_type": "KSampler",
        }
    },
}


def test_a_refused_graph_is_explained_node_by_node():
    assert describe_refusal(REFUSAL, GRAPH).splitlines() == [
        "Prompt outputs failed validation",
        "  node 3 (KSampler): Value 0 smaller than min of 1: steps",
        "  node 3 (KSampler): No model",
    ]
    assert describe_refusal({"error": "500 Internal Server Error"}, GRAPH) == "500 Internal Server Error"
    assert describe_refusal({}, GRAPH) == "ComfyUI refused the graph"


def test_a_failed_run_names_node_and_reason():
    error = {
        "node_id": "3",
        "node_type": "KSampler",
        "exception_type": "ValueError",
        "exception_message": "schedule has 19 values, the run 20 steps\n",
    }
    messages = [["execution_start", {}], ["execution_error", error]]
    expected = "node 3 (KSampler) failed: ValueError: schedule has 19 values, the run 20 steps"
    assert describe_failure(messages) == expected
    interrupted = [["execution_interrupted", {"node_id": "3", "node_type": "KSampler"}]]
    assert describe_failure(interrupted) == "stopped at node 3 (KSampler)"
    assert "without saying why" in describe_failure([])


@pytest.fixture
def client(monkeypatch):
    """A client whose requests are answered from `answers` and listed in `asked`."""
    client = ComfyClient(1)
    client.asked, client.answers = [], {}

    def send(method: str, path: str, body: dict | None = None) -> tuple[int, bytes]:
        client.asked.append((method, path))
        status, answer = client.answers.get(path, (200, {}))
        return status, answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    monkeypatch.setattr(client, "_send", send)
    return client


def test_a_partly_valid_graph_is_taken_back(client):
    client.answers["/prompt"] = 200, {"prompt_id": "p", "node_errors": REFUSAL["node_errors"]}
    with pytest.raises(ComfyError, match="smaller than min"):
        client.queue(GRAPH)
    assert client.asked == [("POST", "/prompt"), ("POST", "/queue"), ("POST", "/interrupt")]


def test_a_graph_that_runs_is_taken_out_at_ctrl_c(client):
    told = json.dumps({"type": "progress", "data": {"prompt_id": "p"}}).encode()
    client.port, thread, _ = serve(frame(TEXT, told))
    client.answers["/prompt"] = 200, {"prompt_id": "p"}

    def stop(kind, data):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.run(GRAPH, stop)
    thread.join()
    assert client.asked == [("POST", "/prompt"), ("POST", "/queue"), ("POST", "/interrupt")]


def test_an_answer_that_is_not_json_is_shown_as_it_is(client):
    client.answers["/prompt"] = 500, b"500 Internal Server Error"
    with pytest.raises(ComfyError, match="^500 Internal Server Error$"):
        client.queue(GRAPH)


def test_outputs_come_from_the_history_of_a_successful_run_only(client):
    outputs = {"9": {"images": []}}
    client.answers["/history/p"] = 200, {"p": {"status": {"status_str": "success"}, "outputs": outputs}}
    assert client.outputs("p") == outputs
    client.answers["/history/p"] = (
        200,
        {"p": {"status": {"status_str": "error", "messages": []}, "outputs": {}}},
    )
    with pytest.raises(ComfyError):
        client.outputs("p")


def test_a_picture_is_uploaded_as_browsers_do():
    listener, heard = socket.create_server(("127.0.0.1", 0)), []

    def answer() -> None:
        connection, _ = listener.accept()
        with listener, connection, connection.makefile("rb") as stream:
            lines = [line.decode() for line in iter(stream.readline, b"\r\n")]
            length = next(int(line.split(": ")[1]) for line in lines if line.startswith("Content-Length"))
            heard.append(("".join(lines), stream.read(length)))
            body = json.dumps({"name": "a (1).png", "subfolder": "in", "type": "input"}).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    thread = threading.Thread(target=answer)
    thread.start()
    assert ComfyClient(listener.getsockname()[1]).upload('a"\r\n.png', b"\x89PNG--\r\n") == "in/a (1).png"
    thread.join()
    [(head, body)] = heard
    mark = head.split("boundary=")[1].split("\r\n")[0]
    before, name, data, after = (
        f"--{mark}\r\n",
        'form-data; name="image"; filename="a___.png"\r\n\r\n',
        b"\x89PNG--\r\n",
        f"\r\n--{mark}--\r\n",
    )
    assert head.startswith("POST /upload/image ")
    assert body == f"{before}Content-Disposition: {name}".encode() + data + after.encode()
