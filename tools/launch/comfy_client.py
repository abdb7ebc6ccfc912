"""Talks to a running ComfyUI over its own HTTP and WebSocket interface. Standard library only.

`ComfyClient(8188).run(graph)` queues a graph in API format and returns each output node's outputs.
"""

import http.client
import json
import uuid
from collections.abc import Callable
from urllib.parse import urlencode

from tools.launch.websocket import WebSocket

Graph = dict[str, dict]
Progress = Callable[[str, dict], None]  # message type, its data


class ComfyError(Exception):
    """The host refused a graph or failed while running it; the text names node, input and reason."""


class ComfyRefusal(ComfyError):
    """The host refused a graph, and would again."""


class ComfyClient:
    """A client of the ComfyUI at `host`:`port`; `patience` is the longest silence accepted, in seconds."""

    def __init__(self, port: int, host: str = "127.0.0.1", patience: float = 600):
        self.port, self.host, self.patience, self.id = port, host, patience, uuid.uuid4().hex

    def run(
        self, graph: Graph, on_progress: Progress = lambda kind, data: None, drawn: dict | None = None
    ) -> dict[str, dict]:
        """Queue a graph, report its progress, wait for its end and return each output node's outputs; Ctrl+C
        takes it out again.

        drawn: the same graph as a browser opens it, to be kept in the pictures
        """
        with WebSocket(self.host, self.port, f"/ws?clientId={self.id}", self.patience) as messages:
            prompt_id = self.queue(graph, drawn)
            try:
                self._follow(messages, prompt_id, on_progress)
            except KeyboardInterrupt:
                self.cancel(prompt_id)
                raise
            return self.outputs(prompt_id)

    def _follow(self, messages: WebSocket, prompt_id: str, on_progress: Progress) -> None:
        """Report what is told of a prompt until it has ended."""
        while True:
            message = messages.receive()
            if isinstance(message, bytes):  # a preview picture
                continue
            message = json.loads(message)
            data = message.get("data") or {}
            if data.get("prompt_id") == prompt_id:
                if message["type"] == "executing" and data.get("node") is None:
                    return  # sent after the history is written
                on_progress(message["type"], data)

    def queue(self, graph: Graph, drawn: dict | None = None) -> str:
        """Queue a graph and return its prompt id; one that is only partly valid is refused, not half run."""
        order: dict = {"prompt": graph, "client_id": self.id}
        if drawn:
            order["extra_data"] = {"extra_pnginfo": {"workflow": drawn}}
        status, answer = self.request("POST", "/prompt", order)
        if status != 200 or answer.get("node_errors"):
            if "prompt_id" in answer:
                self.cancel(answer["prompt_id"])
            raise ComfyRefusal(describe_refusal(answer, graph))
        return answer["prompt_id"]

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, or stop it if it already runs."""
        self.request("POST", "/queue", {"delete": [prompt_id]})
        self.request("POST", "/interrupt", {"prompt_id": prompt_id})

    def outputs(self, prompt_id: str) -> dict[str, dict]:
        """The outputs of a prompt that has ended, or ComfyError if it failed or was stopped."""
        entry = self.get(f"/history/{prompt_id}").get(prompt_id, {})
        status = entry.get("status") or {}
        if status.get("status_str") != "success":
            raise ComfyError(describe_failure(status.get("messages") or []))
        return entry["outputs"]

    def image(self, reference: dict) -> bytes:
        """The file behind one entry of an output's `images`."""
        return self._send("GET", "/view?" + urlencode(reference))[1]

    def upload(self, name: str, data: bytes) -> str:
        """Put a picture among the host's inputs and return what LoadImage calls it there."""
        mark = uuid.uuid4().hex
        kept = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
        head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{kept}"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{mark}--\r\n".encode()
        status, raw = self._send("POST", "/upload/image", body, f"multipart/form-data; boundary={mark}")
        if status != 200:
            raise ComfyError(f"ComfyUI answered {status} to the picture {name}")
        answer = json.loads(raw)
        return "/".join(filter(None, [answer.get("subfolder"), answer["name"]]))

    def get(self, path: str) -> dict:
        status, answer = self.request("GET", path)
        if status != 200:
            raise ComfyError(f"ComfyUI answered {status} to {path}")
        return answer

    def request(self, method: str, path: str, body: dict | None = None) -> tuple[int, dict]:
        """One JSON request: (status, answer). What is not JSON comes back as {"error": its text}."""
        data = None if body is None else json.dumps(body).encode()
        status, raw = self._send(method, path, data)
        try:
            return status, json.loads(raw) if raw else {}
        except ValueError:
            return status, {"error": raw.decode(errors="replace").strip()}

    def _send(
        self, method: str, path: str, data: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, bytes]:
        # http.client rather than urllib: a proxy named in the environment must not see 127.0.0.1.
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.patience)
        try:
            connection.request(method, path, data, {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def describe_refusal(answer: dict, graph: Graph) -> str:
    """The server's answer to an invalid graph as readable lines: one per node and reason."""
    error = answer.get("error") or {}
    lines = [(error if isinstance(error, str) else _reason(error)) or "ComfyUI refused the graph"]
    for node_id, found in (answer.get("node_errors") or {}).items():
        name = f"node {node_id} ({found.get('class_type') or graph.get(node_id, {}).get('class_type')})"
        lines += [f"  {name}: {_reason(error)}" for error in found.get("errors", [])]
    return "\n".join(lines)


def _reason(error: dict) -> str:
    return ": ".join(filter(None, [error.get("message"), error.get("details")]))


def describe_failure(messages: list) -> str:
    """The history's account of a failed run in one line: which node raised what, or that it was stopped."""
    for kind, data in messages:
        if kind == "execution_error":
            what = f"{data.get('exception_type')}: {data.get('exception_message')}".strip()
            return f"node {data.get('node_id')} ({data.get('node_type')}) failed: {what}"
        if kind == "execution_interrupted":
            return f"stopped at node {data.get('node_id')} ({data.get('node_type')})"
    return "ComfyUI reports a failure without saying why; its log may tell more"
