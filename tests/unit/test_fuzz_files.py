"""Files as they should not be: every one is read as it says, or refused with a sentence, in little memory.

A few cases of each kind; 28,000 in all by

    python3 run.py test --fast tests/unit/test_fuzz_files.py --fuzz 4000
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steadydiff.arpo.clip_scorer import as_pil
from steadydiff.arpo.log import Log, Step, as_dict, load_log, save_log
from steadydiff.arpo.phrases import Phrases
from steadydiff.drift.measurement import CURVES, Measurement
from steadydiff.errors import CheckpointError, SettingsError
from steadydiff.files.antibias import AntiBiasCard as PromptCard
from steadydiff.files.antibias import load_prompt, save_prompt
from steadydiff.files.checkpoints import HEADER_KEY
from steadydiff.files.mdss import Head, convert, load_head, save_mdss
from steadydiff.files.mdss import MdssCard as HeadCard
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from steadydiff.schedules import MadeFor, Schedule, read_table

MORE_MEMORY = 1 << 29  # bytes that reading may take, beyond what the tests have already
FEW = 20  # cases of a kind; each may be several faults

VALUES = (
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**63, 2**64 + 1, 0.5, -0.0, 1e-320, 1e308, "", "nan", "1"),
    *(float("nan"), float("inf"), -float("inf"), "x" * 3000, "F8_E4M3", "F64", "BOOL", "I64", "C64", "F4"),
    *([], {}, [[]], [1], [1, 2], [0, 2**62], [2**31, 2**31], [-1, 1], [0, 8], [10**9] * 3, [1] * 3000),
    *({"content": [1], "style": [None]}, {"a": {"b": []}}, "residual", "lora", "ve", "flow", "ü💥", "/../x"),
)
"""What a reader may not expect where it stands."""

RAW = ("1e400", "-1e400", "9" * 400, "9" * 5000, "[" * 100_000, '{"a":' * 20_000, '"\\ud800"', '"\\u0000"')
"""The same in JSON only; put in for MARK."""

MARK = "<raw>"
SIZES = (0, 1, 7, 2**20, 10**8, 10**8 + 1, 2**31, 2**40, 2**63, 2**64 - 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A whole file of every kind, by name, and a place for spoilt ones."""
    folder = tmp_path_factory.mktemp("files")
    facts = {"space": "ve", "sigma_range": (0.1, 9.0), "family": "SD15", "training": {"steps": 3}}
    network = PromptNetwork(PromptConfig(2, 4, (1,), 1, ()))
    save_prompt(folder / "antibias", network, PromptCard(target="residual", **facts))
    weights = {
        **{"input_blocks.0.0.weight": torch.ones(2, 2, 3, 3), "out.2.weight": torch.ones(2, 2, 3, 3)},
        "out.2.bias": torch.ones(2),
    }
    head = Head(torch.ones(2, 2, 3, 3), torch.ones(2))
    save_mdss(folder / "checkpoint", weights, head, HeadCard(form="checkpoint", **facts))
    save_mdss(folder / "lora", {"lora_unet_x.alpha": torch.ones(())}, head, HeadCard(form="lora", **facts))
    step = Step(
        Phrases(("a",), ("b",)), torch.ones(2, 3, 3), 0.1, 0.2, Phrases(("c",)), (("c", 0.3),), (), {"s": 1.0}
    )
    save_log(Log("ab", 3, Phrases(("a",)), (step, step)), folder / "log")
    return folder


@pytest.fixture(scope="module", autouse=True)
def little_memory(files):
    """Let a file that asks for much memory fail here instead of slowing the machine down."""
    status = Path("/proc/self/statm")
    if not status.exists():  # only Linux tells and keeps to limits
        yield
        return
    import resource

    load_prompt(files / "antibias")  # what is loaded at first use comes before
    now = int(status.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MORE_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


# --- ways to spoil ----------------------------------------------------------------------------------------


def places(tree, path=()):
    """Every place in a parsed JSON text."""
    yield path
    for key, value in (
        tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    ):
        yield from places(value, (*path, key))


def put(tree, path, change):
    """The tree with one place changed; `change` gets its value."""
    if not path:
        return change(tree)
    copy = tree.copy()
    copy[path[0]] = put(copy[path[0]], path[1:], change)
    return copy


@st.composite
def spoilt_json(draw, tree):
    """A JSON text like that of `tree`."""
    raw = "null"
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(tree))[1:] or [()]))
        value = draw(st.sampled_from(VALUES) | st.just(MARK))
        if value == MARK:
            raw = draw(st.sampled_from(RAW))
        act = draw(st.sampled_from(("replace", "remove", "wrap", "add")))
        if act == "remove" and path:
            tree = put(tree, path[:-1], lambda parent, key=path[-1]: without(parent, key))
        elif act == "add":
            tree = put(tree, path, lambda old, value=value: added(old, value))
        else:
            tree = put(tree, path, lambda old, value=value, act=act: [old] if act == "wrap" else value)
    text = json.dumps(tree, ensure_ascii=draw(st.booleans())).replace(json.dumps(MARK), raw)
    if draw(st.integers(0, 3)) == 0:  # the same key twice
        text = text.replace("{", '{"version": 1, "card": 0, "shape": [1], ', 1)
    return text


def without(parent, key):
    return (
        {k: v for k, v in parent.items() if k != key}
        if isinstance(parent, dict)
        else parent[:key] + parent[key + 1 :]
    )


def added(old, value):
    if isinstance(old, dict):
        return {**old, "novelty": value}
    return [*old, value] if isinstance(old, list) else value


@st.composite
def spoilt_bytes(draw, data, other=b""):
    """Bytes like these: some flipped, cut off, doubled, or another file's."""
    for _ in range(draw(st.integers(1, 4))):
        at, act = (
            draw(st.integers(0, max(len(data) - 1, 0))),
            draw(st.sampled_from("flip cut insert splice drop".split())),
        )
        if act == "flip" and data:
            data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
        elif act == "cut":
            data = data[:at]
        elif act == "insert":
            data = data[:at] + draw(st.binary(max_size=9)) + data[at:]
        elif act == "splice":
            data = data[:at] + other[at:]
        else:
            data = data[:at] + data[at + draw(st.integers(1, 64)) :]
    return data


@st.composite
def spoilt_file(draw, data, other):
    """A safetensors file like this one: its bytes, its list of tensors, or our own header in it."""
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    kind = draw(st.sampled_from(("bytes", "size", "tensors", "ours", "ours")))
    if kind == "bytes":
        return draw(spoilt_bytes(data, other))
    if kind == "size":
        return draw(st.sampled_from(SIZES)).to_bytes(8, "little") + data[8:]
    if kind == "ours":
        ours = json.loads(header["__metadata__"][HEADER_KEY])
        header["__metadata__"][HEADER_KEY] = draw(spoilt_json(ours))
        text = json.dumps(header)
    else:
        text = draw(spoilt_json(header))
    text = text.encode(errors="surrogatepass")
    return len(text).to_bytes(8, "little") + text + rest


# --- what is read is right, or refused --------------------------------------------------------------------


@pytest.fixture
def cases(request):
    """How many cases, always the same few unless more are asked for."""
    more = request.config.getoption("--fuzz")
    return settings(max_examples=more or FEW, derandomize=not more, deadline=None)


def reads(read, use):
    """Read, and use what was read as a face would; a refusal must be a sentence."""
    try:
        found = read()
    except (CheckpointError, SettingsError) as error:
        said = str(error)
        assert len(said) > 10 and said.encode()
        return
    use(found)


def use_prompt(found):
    network, card = found
    model = card.model(network)
    state = torch.zeros(1, network.config.latent_channels, 2, 2)
    assert (
        model.network(state).isfinite().all()
        and model.sigma_data * 1.0 > 0
        and card.training.keys() is not None
    )
    assert all(
        name.encode() is not None for name in (card.base, card.family, card.latent_format, card.licence)
    )


def use_head(found):
    head, card = found
    assert card.form in ("checkpoint", "lora") and card.k >= -1 and card.sigma_data * 1.0 > 0
    assert head is None or head.weight.isfinite().all() and len(head.weight) == len(head.bias)


def use_log(log):
    json.dumps(as_dict(log)).encode()
    assert isinstance(log.seed, int) and log.following.prompt.encode() is not None
    for step in log.steps:
        as_pil(step.picture)
    if log.steps:
        log.best.phrases.prompt.encode()
        f"{log.best_by_text.text_similarity:.3f}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "read", "use"),
    [
        ("antibias", load_prompt, use_prompt),
        ("checkpoint", load_head, use_head),
        ("lora", load_head, use_head),
        ("log", load_log, use_log),
    ],
)
def test_files(files, cases, name, read, use):
    whole, other = (files / name).read_bytes(), (files / ("log" if name != "log" else "lora")).read_bytes()
    use(read(files / name))

    @cases
    @given(spoilt_file(whole, other))
    def check(data):
        (files / "spoilt.safetensors").write_bytes(data)
        reads(partial(read, files / "spoilt.safetensors"), use)
        if name == "checkpoint":
            reads(
                lambda: convert(
                    files / "spoilt.safetensors", files / "out", HeadCard(form="checkpoint", space="ve")
                ),
                len,
            )

    check()


SIGMAS = (10.0, 3.0, 1.0, 0.0)
MEASUREMENT = Measurement(
    space="ve",
    sigmas=SIGMAS,
    count=4,
    shape=(2, 4, 4),
    seed=1,
    reference="none",
    clean_spectrum=((1.0,) * 4,) * 2,
    training_norms=((1.0,) * 3,) * 4,
    **{name: (1.0,) * (4 if name.endswith("variance") else 3) for name in CURVES},
)
SCHEDULE = Schedule("table", (1.01, 1.0, 0.99), MadeFor("euler", "normal", 3, 4.0, "SD15", SIGMAS))


def use_measurement(found):
    assert Measurement.from_json(found.to_json()) == found
    assert found.summary() and len(found.variance_error) == len(found.sigmas) and found.run.steps
    assert (
        found.seed + 1
        and found.count + 1
        and found.label + found.reference == f"{found.label}{found.reference}"
    )


def use_schedule(found):
    assert Schedule.from_json(found.to_json()) == found
    found.differences(sampler="euler", scheduler="normal", steps=3, cfg=4.0, model="SD15", sigmas=SIGMAS)
    if len(found.values) == 3:
        found.resolve(SIGMAS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whole", "read", "use"),
    [
        (MEASUREMENT.to_json(), Measurement.from_json, use_measurement),
        (SCHEDULE.to_json(), Schedule.from_json, use_schedule),
        (SCHEDULE.to_json(), read_table, use_schedule),
    ],
    ids=["measurement", "schedule", "table"],
)
def test_texts(cases, whole, read, use):
    use(read(whole))
    numbers = st.lists(
        st.sampled_from(("1.0", "0.99", "nan", "1e400", "-1", "x", "1_0", "٣", "\ud800", "9" * 5000))
    )
    kinds = spoilt_json(json.loads(whole)) | spoilt_bytes(whole.encode()).map(
        partial(str, encoding="utf-8", errors="replace")
    )
    if read is read_table:
        kinds = kinds | numbers.map(", ".join) | st.text()

    @cases
    @given(kinds)
    def check(text):
        reads(lambda: read(text), use)

    check()
