"""Weight files: read back as written, and nothing else is."""

import pytest
import torch
from safetensors.torch import save_file

from steadydiff.errors import CheckpointError
from steadydiff.files.checkpoints import load_checkpoint, save_checkpoint


def test_tensors_and_header_come_back(tmp_path):
    path, tensors = tmp_path / "deep" / "a.safetensors", {"w": torch.arange(6).view(2, 3).T}
    save_checkpoint(path, tensors, kind="toy", version=1, steps=7)
    back, header = load_checkpoint(path, kind="toy", version=1)
    assert torch.equal(back["w"], tensors["w"]) and header == {"kind": "toy", "version": 1, "steps": 7}
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def damaged(path):
    path.write_bytes(b"PK\x03\x04 a pickle in disguise")


def foreign(path):
    save_file({"w": torch.zeros(1)}, path)


def another(path):
    save_checkpoint(path, {"w": torch.zeros(1)}, kind="other", version=1)


def newer(path):
    save_checkpoint(path, {"w": torch.zeros(1)}, kind="toy", version=2)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "not there"),
        (damaged, "cannot be read"),
        (foreign, "no SteadyDiff header"),
        (another, "'other' version 1"),
        (newer, "version 2; this needs 'toy' version 1"),
    ],
)
def test_anything_else_is_refused_with_its_name(tmp_path, make, says):
    path = tmp_path / "b.safetensors"
    make(path)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_checkpoint(path, kind="toy", version=1)
    assert "b.safetensors" in str(caught.value) and str(tmp_path.parent) not in str(caught.value)
