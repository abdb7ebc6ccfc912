"""A WebSocket client (RFC 6455) small enough to read: what ComfyUI's progress messages need, nothing else.

Text and binary messages, fragments and pings are handled; compression is never offered, so the server may not
use it. Standard library only; called by tools/launch/comfy_client.py.
"""

import base64
import hashlib
import os
import socket
import struct
from collections.abc import Callable

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


class WebSocket:
    """One open connection. Every read waits at most `timeout` seconds and then raises TimeoutError."""

    def __init__(self, host: str, port: int, path: str, timeout: float):
        self._socket = socket.create_connection((host, port), timeout=timeout)
        self._stream = self._socket.makefile("rb")
        try:
            self._handshake(host, port, path)
        except BaseException:
            self.close()
            raise

    def _handshake(self, host: str, port: int, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        lines = iter(self._stream.readline, b"\r\n")
        status = next(lines, b"").decode("latin-1").strip()
        headers = dict(line.decode("latin-1").lower().split(":", 1) for line in lines if b":" in line)
        accept = base64.b64encode(hashlib.sha1((key + _MAGIC).encode()).digest()).decode()
        if headers.get("sec-websocket-accept", "").strip() != accept.lower():
            raise ConnectionError(f"no WebSocket at {host}:{port} (answer: {status or 'none'})")

    def receive(self) -> str | bytes:
        """The next whole message: text as str, binary as bytes; ConnectionError when the server closes."""
        kind, message = None, b""
        while True:
            final, opcode, payload = read_frame(self._read)
            if opcode == PING:
                self._socket.sendall(make_frame(PONG, payload))
            elif opcode == CLOSE:
                raise ConnectionError("the server closed the connection")
            elif opcode in (CONTINUATION, TEXT, BINARY):
                kind, message = kind or opcode, message + payload
                if final:
                    return message.decode() if kind == TEXT else message

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise ConnectionError("the connection broke off")
        return data

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def __enter__(self) -> "WebSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_frame(read: Callable[[int], bytes]) -> tuple[bool, int, bytes]:
    """Read one frame through `read(count)`: (is it the message's last, opcode, payload)."""
    first, second = read(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", read(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", read(8))
    mask = read(4) if second & 0x80 else b""
    payload = read(length) if length else b""
    return bool(first & 0x80), first & 0x0F, _masked(payload, mask) if mask else payload


def make_frame(opcode: int, payload: bytes, mask: bytes | None = None) -> bytes:
    """A final client frame. Clients must mask; control frames, all we send, hold at most 125 bytes."""
    mask = os.urandom(4) if mask is None else mask
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + _masked(payload, mask)


def _masked(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
