"""One HTTP request to one address, bounded in time and memory, whatever the other side does.

Standard library only. The request runs in a thread of its own, so that the caller can stop waiting at any
moment: at its deadline, when the user cancels. No redirect is followed, no proxy asked, nothing unpacked.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

from ...errors import SettingsError

CONNECT_SECONDS = 10.0
POLL_SECONDS = 0.1
CHUNK = 65_536

_ENDPOINT = "/chat/completions"


@dataclass(frozen=True)
class Address:
    """Where a server is, and the path under which its own paths lie, e.g. /v1."""

    secure: bool
    host: str
    port: int
    base: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Read http://host:port or https://host/path; without a path it is /v1, as servers have it.

        Raises:  SettingsError for anything else, and for what may hold a secret: a user, a query, a fragment.
        """
        url = url.strip()
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise SettingsError(
                "the address has a port or host that cannot be; write http://host:port"
            ) from None
        plain = url.isascii() and url.isprintable() and not re.search(r"\s|\\", url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
            raise SettingsError(
                "the address must begin with http:// or https://, e.g. http://localhost:11434"
            )
        if "@" in parts.netloc or parts.query or parts.fragment or "?" in url or "#" in url:
            raise SettingsError(
                "the address must hold no user name, password, '?' or '#': workflows and pictures keep it; "
                "for keys see key_name"
            )
        secure = parts.scheme == "https"
        base = parts.path.rstrip("/").removesuffix(_ENDPOINT) or "/v1"
        return cls(secure, parts.hostname, port or (443 if secure else 80), base)

    @property
    def origin(self) -> str:
        """Scheme, host and port, always written the same way."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.secure else 80)
        return f"http{'s' * self.secure}://{host}" + ("" if usual else f":{self.port}")


@dataclass(frozen=True)
class Reply:
    """What a server sent: `headers` by name in any case, None where it sent none."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class ExchangeError(Exception):
    """No whole reply came. The text continues a sentence about the server; `again`: it may come next time."""

    def __init__(self, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def post(
    address: Address,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    seconds: float,
    most: int,
    on_wait: Callable[[], None],
) -> Reply:
    """Send a body and return the whole reply.

    path:    on the server, from its root
    seconds: until the last byte must be there
    most:    bytes that are accepted
    on_wait: called about ten times a second meanwhile; what it raises ends the waiting and is raised here

    Raises:  ExchangeError.
    """
    exchange = _Exchange(address, path, body, headers, seconds, most)
    end = time.monotonic() + seconds
    exchange.start()
    try:
        while not exchange.done.wait(min(POLL_SECONDS, max(0.0, end - time.monotonic()))):
            on_wait()
            if time.monotonic() >= end:
                raise ExchangeError("did not finish its answer in time")
    finally:
        exchange.stop()
    if isinstance(exchange.outcome, Reply):
        return exchange.outcome
    raise _explained(exchange.outcome) from None


def reach(address: Address) -> None:
    """See that something listens at an address, without asking it anything.

    Raises:  ExchangeError.
    """
    try:
        socket.create_connection((address.host, address.port), CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise _explained(error) from None


trusted = cache(ssl.create_default_context)  # reading all the certificates takes longer than a request


class _TooLong(Exception):
    pass


class _Exchange(threading.Thread):
    """The request itself; `outcome` is its reply, or what went wrong, once `done`."""

    def __init__(
        self,
        address: Address,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        seconds: float,
        most: int,
    ) -> None:
        super().__init__(name="steadydiff-exchange", daemon=True)  # a host that quits does not wait for it
        self.done = threading.Event()
        self.outcome: Reply | Exception = ConnectionAbortedError()
        self._request = path, body, dict(headers)
        self._most, self._seconds, self._stopped = most, seconds, False
        self._socket: socket.socket | None = None
        self._address = address

    def run(self) -> None:
        at, path, body, headers = self._address, *self._request
        context = trusted() if at.secure else None
        kind = http.client.HTTPSConnection if at.secure else http.client.HTTPConnection
        connection = kind(at.host, at.port)
        try:
            connection.sock = self._connected(context)
            connection.request("POST", path, body, headers)
            with connection.getresponse() as response:
                self.outcome = Reply(response.status, response.headers, _read(response, self._most))
        except Exception as error:  # whatever it is, the waiting thread is to have it
            self.outcome = error
        finally:
            if self._socket:
                self._socket.close()
            self.done.set()

    def _connected(self, context: ssl.SSLContext | None) -> socket.socket:
        """Connect step by step, so that `stop` finds a socket to shut down during each of them."""
        at = self._address
        self._socket = socket.create_connection((at.host, at.port), min(CONNECT_SECONDS, self._seconds))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(self._seconds)
        if context:
            self._socket = context.wrap_socket(
                self._socket, server_hostname=at.host, do_handshake_on_connect=False
            )
        if self._stopped:  # while there was nothing to shut down
            raise ConnectionAbortedError
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.do_handshake()
        return self._socket

    def stop(self) -> None:
        """End what still runs: a socket that is shut down wakes whoever waits for it."""
        self._stopped = True
        if self._socket and not self.done.is_set():
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it ended meanwhile


def _read(response: http.client.HTTPResponse, most: int) -> bytes:
    """The whole body, read piece by piece, so that a server cannot send more than is accepted."""
    if (response.length or 0) > most:
        raise _TooLong
    pieces: list[bytes] = []
    size = 0
    while piece := response.read1(CHUNK):
        size += len(piece)
        if size > most:
            raise _TooLong
        pieces.append(piece)
    if response.length:
        raise http.client.IncompleteRead(b"")
    return b"".join(pieces)


def _explained(error: Exception) -> ExchangeError:
    """A failure in words that a user can act on; its own text may be the server's, and stays out."""
    if isinstance(error, _TooLong):
        return ExchangeError("sent far more than an answer; it was cut off")
    if isinstance(error, socket.gaierror | UnicodeError):
        return ExchangeError("cannot be reached: there is no host of that name")
    if isinstance(error, ConnectionRefusedError):
        return ExchangeError("does not run: nothing listens there; start it, or correct the address")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ExchangeError(f"shows a certificate that is not trusted ({error.verify_message})")
    if isinstance(error, ssl.SSLError):
        return ExchangeError("does not speak https; if it is on your own network, try http://")
    if isinstance(error, ConnectionError | http.client.IncompleteRead):  # RemoteDisconnected is one
        return ExchangeError("broke the connection off", again=True)
    if isinstance(error, TimeoutError):
        return ExchangeError("cannot be reached in time")
    if isinstance(error, http.client.HTTPException):
        return ExchangeError("does not speak HTTP; correct the port")
    if isinstance(error, OSError):
        return ExchangeError(f"cannot be reached ({error.strerror or type(error).__name__})")
    return ExchangeError(f"could not be asked ({type(error).__name__})")
