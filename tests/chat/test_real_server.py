"""The client and the proposer against a real server program, `transformers serve`, with a tiny random model.

`python3 run.py test --chat` starts it and names it in STEADYDIFF_CHAT (address and model).
"""

import os
import threading
import time

import pytest
import torch

from steadydiff.arpo.language.proposer import VisionProposer
from steadydiff.arpo.language.server import ChatServer
from steadydiff.arpo.phrases import Phrases
from steadydiff.errors import ProposerError

pytestmark = [
    pytest.mark.chat,
    pytest.mark.skipif("STEADYDIFF_CHAT" not in os.environ, reason="STEADYDIFF_CHAT names no server"),
]
REFERENCE, GENERATED = torch.rand(48, 64, 3), torch.rand(64, 64, 3)


@pytest.fixture
def server():
    """The real server, asked for short answers."""
    url, model = os.environ["STEADYDIFF_CHAT"].split(" ", 1)
    return lambda **settings: ChatServer(url, model, **({"max_tokens": 24, "timeout": 120} | settings))


def test_it_answers_texts_and_pictures(server):
    ask = server(seed=3)
    answers = [
        ask(text, pictures)
        for text in ("What is it?", "What is this?")
        for pictures in ((), (REFERENCE,), (GENERATED,), (REFERENCE, GENERATED), (GENERATED, REFERENCE))
    ]
    assert all(answers)
    assert len(set(answers)) == len(answers)  # every text and picture reached the model, in its order


def test_its_seed_is_kept(server):
    assert server(seed=3)("What is it?", (REFERENCE,)) == server(seed=3)("What is it?", (REFERENCE,))
    assert server(seed=3)("What is it?") != server(seed=4, temperature=2.0)("What is it?")


def test_it_is_refused_in_its_own_words(server):
    ask = server()
    with pytest.raises(ProposerError, match="refused.*400.*pinned"):
        ChatServer(ask.url, "another")("What is it?")
    with pytest.raises(ProposerError, match="no such model or path.*404"):
        ChatServer(ask.url.replace("/v1", "/v9"), ask.model)("What is it?")
    with pytest.raises(ProposerError, match="busy or failing.*500"):
        server(options='{"temperature": "hot"}', retries=0)("What is it?")


def test_a_field_can_be_taken_out(server):
    assert server(options='{"seed": null, "temperature": null, "top_p": 0.9}')("What is it?")


@pytest.mark.parametrize("framework", ["enhanced", "vanilla"])
def test_a_proposal_is_made(server, framework):
    proposer = VisionProposer(server(max_tokens=60), framework)
    found = proposer.propose(REFERENCE, GENERATED, Phrases(("a cat",)))
    assert isinstance(found, Phrases) and not set(found.prompt) & set("{}[]()<>\\\n")
    assert proposer.propose(REFERENCE, GENERATED, Phrases(("a cat",))) == found


def test_cancel_ends_a_long_answer(server):
    cancelled, began = threading.Event(), time.monotonic()
    threading.Timer(1.0, cancelled.set).start()

    def check():
        if cancelled.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server(max_tokens=5000, on_wait=check)("What is it?")
    assert time.monotonic() - began < 10


def test_memory_is_yielded_although_it_knows_no_such_wish(server):
    freed = []
    ask = server(make_room=lambda: freed.append(True))
    with ask.session():
        assert ask("What is it?")
    assert freed == [True]
