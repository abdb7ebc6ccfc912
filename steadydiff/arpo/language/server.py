"""Asks any OpenAI-compatible chat server: Ollama, LM Studio, llama.cpp, vLLM, hosted ones.

Pictures and texts go to the one address that is set, and nowhere else. What comes back is bounded, and the
key is cut out of it, should the server repeat it.
"""

from __future__ import annotations

import email.utils
import json
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...errors import ProposerError, SettingsError
from .exchange import POLL_SECONDS, Address, ExchangeError, Reply, post, reach
from .keys import check_name, find_key
from .pictures import data_url

log = logging.getLogger("steadydiff")

MAX_REPLY = 1_000_000  # bytes; an answer of a thousand words has 10,000
MAX_WORDS = 240  # characters of a server's own words in a message
SHORTEST_KEY = 8  # a shorter one is a placeholder ("none", "ollama") and may stand in any answer
UNLOAD_SECONDS = 5.0
_LIMIT = re.compile(r"rate.?limit|too many requests|overloaded|try again", re.IGNORECASE)
OURS = ("messages", "model", "stream")  # what `options` cannot change


def nothing() -> None:
    """For callbacks that are not wanted."""


@dataclass(frozen=True)
class ChatServer:
    """Ask a model on a chat server: call it with a text and the pictures it is about.

    url:         http(s)://host:port, or with the path under which /chat/completions lies
    model:       the server's name of the model
    key_name:    name of a key, see `keys.py`; "" for servers that want none
    seed:        passed on; servers that honour it answer the same again
    max_tokens:  length of an answer, thoughts included
    timeout:     seconds for one answer, all attempts and a model's loading included
    retries:     further attempts when the server is busy (429), fails (5xx) or hangs up, even if only an
                 error in a good reply says so
    backoff:     seconds before the first of them; doubled each time, unless the server says when
    side:        longest side of pictures in pixels
    options:     JSON object, further fields of the request; null takes one out
    on_wait:     called about ten times a second while waiting; what it raises ends the waiting
    make_room:   called before a round of questions, e.g. to free graphics memory; Ollama is then told
                 afterwards to free its own

    Raises:  SettingsError when built, or asked with a key that is missing or meant for another server;
             ProposerError if no answer comes, with a sentence that says why.
    """

    url: str
    model: str
    key_name: str = ""
    temperature: float = 0.2
    seed: int = 0
    max_tokens: int = 1024
    timeout: float = 300.0
    retries: int = 3
    backoff: float = 1.0
    side: int = 768
    options: str = ""
    on_wait: Callable[[], None] = field(default=nothing, repr=False, compare=False)
    make_room: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _ = self.address, self._options
        check_name(self.key_name)
        if not self.model.strip():
            raise SettingsError("model is empty; write the server's name of a model, e.g. qwen3-vl:8b")

    @property
    def address(self) -> Address:
        return Address.of(self.url)

    @property
    def _options(self) -> dict:
        try:
            options = json.loads(self.options) if self.options.strip() else {}
        except (ValueError, RecursionError):
            options = None
        if not isinstance(options, dict) or not options.keys().isdisjoint(OURS):
            raise SettingsError(
                'options must be a JSON object, e.g. {"top_p": 0.9}, and leave out ' + ", ".join(OURS)
            )
        return options

    def __call__(self, text: str, pictures: Sequence[Tensor] = ()) -> str:
        """Return the model's answer to a text about pictures [H, W, 3] in 0..1."""
        key = find_key(self.key_name, self.address.origin)
        completion = self._completion(self._body(text, pictures), key)
        return _hidden(_answer(completion, self._failed), key)

    def reach(self) -> None:
        """See that the server runs, before anything is drawn for it; ProposerError if it does not."""
        try:
            reach(self.address)
        except ExchangeError as error:
            raise self._failed(str(error)) from None

    @contextmanager
    def session(self) -> Iterator[None]:
        """Around a round of questions: makes room for the server's model before, and after it for others."""
        if self.make_room is None:
            yield
            return
        self.make_room()
        try:
            yield
        finally:
            self._unload()

    def _body(self, text: str, pictures: Sequence[Tensor]) -> bytes:
        parts = [{"type": "image_url", "image_url": {"url": data_url(p, self.side)}} for p in pictures]
        content = [*parts, {"type": "text", "text": text}] if parts else text
        fields = {"temperature": self.temperature, "seed": self.seed, "max_tokens": self.max_tokens}
        fields |= self._options
        fields |= {"model": self.model, "messages": [{"role": "user", "content": content}], "stream": False}
        return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()

    def _completion(self, body: bytes, key: str) -> Any:
        """The server's answer as JSON, after as many attempts as it takes and there are."""
        address, end = self.address, time.monotonic() + self.timeout
        failure = f"gave no answer within {self.timeout:g} seconds; raise timeout, or choose a smaller model"
        for attempt in range(self.retries + 1):
            pause = self.backoff * 2**attempt * random.uniform(0.75, 1.25)
            try:
                reply = post(
                    address,
                    f"{address.base}/chat/completions",
                    body,
                    _headers(key),
                    seconds=end - time.monotonic(),
                    most=MAX_REPLY,
                    on_wait=self.on_wait,
                )
            except ExchangeError as error:
                if time.monotonic() >= end:
                    break
                failure, again = str(error), error.again
            else:
                completion = _read(reply.body) if reply.status == 200 else None
                reply = _as_failed(reply, completion)
                if reply is None:
                    return completion
                failure, again = _refusal(reply, key, self.key_name)
                pause = max(pause, _retry_after(reply))
            if not again or attempt == self.retries or time.monotonic() + pause > end:
                break
            log.info("%s %s; asking again in %.0f s", self.address.origin, failure, pause)
            self._pause(pause)
        raise self._failed(failure)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.on_wait()
            time.sleep(min(left, POLL_SECONDS))

    def _failed(self, why: str) -> ProposerError:
        return ProposerError(f"the chat server {self.address.origin} (model {self.model}) {why}")

    def _unload(self) -> None:
        """Have Ollama free its memory, by its own interface; other servers know no such path."""
        address = self.address
        body = json.dumps({"model": self.model, "keep_alive": 0}).encode()
        try:
            path = address.base.removesuffix("/v1") + "/api/generate"
            headers = _headers(find_key(self.key_name, address.origin))
            post(address, path, body, headers, seconds=UNLOAD_SECONDS, most=MAX_REPLY, on_wait=nothing)
        except (ExchangeError, SettingsError):
            log.info("%s was not told to free its memory", address.origin)


def _headers(key: str) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "SteadyDiff"}
    return headers | ({"Authorization": f"Bearer {key}"} if key else {})


def _read(body: bytes) -> Any:
    """A body as JSON, None if it is none; one that streams, though nobody asked it to, is put together."""
    lines = [line.strip() for line in body.splitlines()]
    chunks = [line[len(b"data:") :] for line in lines if line.startswith(b"data:")]
    try:
        if not chunks:
            return _bare(json.loads(body))
        found = [json.loads(chunk) for chunk in chunks if chunk.strip() != b"[DONE]"]
    except (ValueError, RecursionError):
        return {"error": {"message": "its stream broke off", "code": 502}} if chunks else None
    whole: dict[str, Any] = {"message": {}}
    for chunk in (chunk for chunk in found if isinstance(chunk, dict)):
        if chunk.get("error"):
            return {"error": chunk["error"]}
        choice = _first_choice(chunk)
        for name, text in (choice.pop("delta", None) or {}).items():
            text = _joined(text)
            if isinstance(text, str):
                whole["message"][name] = whole["message"].get(name, "") + text
        whole |= {name: value for name, value in choice.items() if value is not None}
    return {"choices": [whole]} if whole["message"] else None


def _bare(found: Any) -> Any:
    """An error out of the list of one that Gemini puts it into."""
    return found[0] if isinstance(found, list) and len(found) == 1 else found


def _joined(content: Any) -> Any:
    """A content that comes in parts as one text, without the thoughts among them."""
    if not isinstance(content, list):
        return content
    texts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return "".join(text for text in texts if isinstance(text, str))


def _first_choice(completion: Any) -> dict:
    """A copy of the first choice, empty if there is none."""
    try:
        return dict(completion["choices"][0])
    except (LookupError, TypeError, ValueError):
        return {}


def _as_failed(reply: Reply, completion: Any) -> Reply | None:
    """A reply that failed, by its status or by an error within it; None for one that did not."""
    if reply.status != 200:
        return reply
    choice = _first_choice(completion)
    message, error = choice.get("message"), choice.get("error")
    if isinstance(completion, dict) and not (isinstance(message, dict) and message.get("content")):
        told = not choice and any(isinstance(completion.get(name), str) for name in ("message", "detail"))
        error = error or completion.get("error") or (completion if told else None)
    if error:
        code = str(error.get("code")) if isinstance(error, dict) else ""
        status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 200
        status = 429 if status == 200 and _LIMIT.search(json.dumps(error)) else status
        return Reply(status, reply.headers, json.dumps({"error": error}).encode())
    return None


def _answer(completion: Any, failed: Callable[[str], ProposerError]) -> str:
    """The text in a chat completion; what a model thought beside it is not its answer."""
    choice = _first_choice(completion)
    try:
        message = choice["message"]
        content = _joined(message.get("content")) or message.get("refusal")
        if content is not None and not isinstance(content, str):
            raise TypeError
    except (LookupError, TypeError, AttributeError):
        raise failed("answered with something that is no chat completion; correct the address") from None
    if not content or not content.strip():
        if choice.get("finish_reason") == "content_filter":
            raise failed("did not answer: its filter stopped the answer; take another model or reference")
        if choice.get("finish_reason") == "length":
            raise failed("spent all its max_tokens on thinking; raise max_tokens, or have it not think")
        thought = message.get("reasoning_content") or message.get("reasoning")
        why = "thought, but did not answer; raise max_tokens, or have it not think"
        raise failed(why if thought else "answered with no text")
    return content


def _refusal(reply: Reply, key: str, key_name: str) -> tuple[str, bool]:
    """Why there is no answer, in a sentence, and whether there may be one later."""
    status, words = reply.status, _words(reply.body, key)
    said = words.removeprefix(": ") if status == 200 else f"{status}{words}"
    if 300 <= status < 400:
        other = _printable(_hidden(reply.headers.get("Location", ""), key))[:100]
        return (
            f"sends callers elsewhere ({other}); nothing was sent there. Set that address if you trust it",
            False,
        )
    if status in (401, 403):
        return f"does not accept the key {key_name or '(none was sent)'} ({said})", False
    if status == 404:
        return f"has no such model or path ({said})", False
    if status == 429 or status >= 500:
        return f"is busy or failing ({said})", True
    pictures = "; some models see no pictures, or only one" if status in (200, 400, 413, 415, 422) else ""
    return f"refused ({said}){pictures}", False


def _words(body: bytes, key: str) -> str:
    """What a server says of its refusal, made harmless and short."""
    text = body.decode(errors="replace")
    try:
        found = _bare(json.loads(body))
        for name in ("error", "message", "detail"):
            if isinstance(found, dict) and name in found:
                found = found[name]
        text = found if isinstance(found, str) else text
    except (ValueError, RecursionError):
        pass  # then it is text, or a page
    text = _hidden(text, key)[: 10 * MAX_WORDS]
    text = _printable(re.sub(r"<[^<>]*>|data:image/[^\s\"']*", " ", text))
    return f": {text[:MAX_WORDS]}" if text else ""


def _printable(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _hidden(text: str, key: str) -> str:
    return re.sub(re.escape(key), "(key)", text, flags=re.IGNORECASE) if len(key) >= SHORTEST_KEY else text


def _retry_after(reply: Reply) -> float:
    """Seconds that a server asks to wait, 0 if it does not say."""
    said = reply.headers.get("Retry-After", "").strip()
    try:
        if re.fullmatch(r"\d+(\.\d+)?", said, re.ASCII):
            return float(said)
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
