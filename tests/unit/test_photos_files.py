"""The photos' files: CIFAR-10's pictures as they are found and kept, and the networks' names."""

import tarfile

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from steadydiff.errors import SettingsError
from steadydiff.tinyworld.photos import files, train
from steadydiff.tinyworld.photos.data import load_photos


def folder(path, shade):
    (path / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32), (shade,) * 3).save(path / "train" / "cat" / "one.png")
    return path


def test_they_are_decoded_once(tmp_path):
    source, work = folder(tmp_path / "some", 9), tmp_path / "work"
    first, labels = load_photos(source, "train", work)
    (source / "train" / "cat" / "one.png").unlink()
    assert torch.equal(load_photos(source, "train", work)[0], first)
    assert first.shape == (1, 3, 32, 32) and (first == 9).all() and labels.tolist() == [3]


def test_another_source_needs_another_folder(tmp_path):
    work = tmp_path / "work"
    load_photos(folder(tmp_path / "some", 9), "train", work)
    with pytest.raises(SettingsError, match="are those of some, not of others; use another folder"):
        load_photos(folder(tmp_path / "others", 8), "train", work)
    with pytest.raises(SettingsError, match="nowhere is not there"):
        load_photos(tmp_path / "nowhere", "train", work)


def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path):
    (tmp_path / "no.tar").write_text("no tar")
    with pytest.raises(SettingsError, match=r"no.tar is no tar of pictures, or it is damaged; get it again"):
        load_photos(tmp_path / "no.tar", "train", tmp_path / "work")
    with tarfile.open(tmp_path / "half.tar.xz", "w:xz") as tar:
        tar.add(folder(tmp_path / "whole", 9))
    (tmp_path / "half.tar.xz").write_bytes((tmp_path / "half.tar.xz").read_bytes()[:99])
    with pytest.raises(SettingsError, match=r"half.tar.xz is no tar"):
        load_photos(tmp_path / "half.tar.xz", "train", tmp_path / "work")
    load_photos(tmp_path / "whole", "train", tmp_path / "work")
    (tmp_path / "work" / "photos_train.safetensors").write_text("no tensors")
    with pytest.raises(SettingsError, match="is damaged .*; delete it"):
        load_photos(tmp_path / "whole", "train", tmp_path / "work")


def test_a_copy_is_not_taken_for_the_longest_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    for name in ("epsilon_900", "epsilon_20", "epsilon_900 (1)", "epsilon_best", "flow_7"):
        (tmp_path / f"{name}.safetensors").touch()
    assert files.names("epsilon") == ["epsilon_20", "epsilon_900"] and files.newest("flow") == "flow_7"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["epsilon", "exprot", "--data", "."], "no stage 'exprot'; there are epsilon, flow, export"),
        (["export", "flow"], "training needs --data"),
        (["--export-average", "epsilon-8.safetensors"], "a kept average such as epsilon-8000.safetensors"),
        (["--export-average", __file__], "a kept average such as epsilon-8000.safetensors"),
    ],
)
def test_a_command_is_refused_before_anything_is_trained(arguments, told, monkeypatch, capsys):
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("a stage"))
    with pytest.raises(SystemExit):
        train.main(arguments)
    assert told in capsys.readouterr().err


def test_a_kept_average_is_exported_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    monkeypatch.setattr(train, "write_manifest", lambda: None)
    average = tmp_path / "flow-6.safetensors"
    save_file(train.Trainee().state_dict(), average)
    train.main(["--export-average", str(average), "--work", str(tmp_path)])
    assert files.names("flow") == ["flow_6"] and files.header("flow_6")["pictures"] == 6 * train.BATCH


def test_nothing_that_was_not_trained_is_exported(tmp_path):
    with pytest.raises(SystemExit, match="holds nothing that was trained; train a stage"):
        train.main(["export", "--work", str(tmp_path)])
