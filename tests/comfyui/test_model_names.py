"""Refusals and warnings call models by the names people know, whatever the host calls their classes."""

import sys

import pytest

from steadydiff.errors import HostError
from steadydiff.files.antibias import AntiBiasCard
from steadydiff.hosts.patch import check_card
from steadydiff.model_names import PRODUCTS, name_of
from steadydiff.schedules import MadeFor, Schedule
from tools.launch.inprocess import PACK, load


def model_of(config, base="BaseModel", **unet):
    config = type(config, (), {"unet_config": unet})()
    return type(base, (), {"model_config": config})()


def test_every_model_of_the_host_has_a_name_in_words(host):
    names = {
        config.__name__: name_of(model_of(config.__name__))
        for config in load("comfy.supported_models").models
    }
    assert len(names) > 20
    assert {config: name for config, name in names.items() if "_" in name} == {}
    assert names["SD15"] == "SD15" and names["Flux"] == "Flux"


def test_every_product_is_of_a_class_that_the_host_has(host):
    known = set(vars(load("comfy.supported_models"))) | set(vars(load("comfy.model_base")))
    assert set(PRODUCTS) - known == set()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (model_of("ZImage", "Lumina2"), "Z-Image"),
        (model_of("Lumina2", "Lumina2", dim=3840), "Z-Image"),  # hosts before they had a class for it
        (model_of("Lumina2", "Lumina2", dim=2304), "Lumina Image 2.0"),
        (model_of("Lumina2", "Lumina2"), "Lumina Image 2.0 or Z-Image"),
        (model_of("WAN22_NewOne", "WAN21"), "WAN22 NewOne"),
        (model_of("BASE", "AuraFlow"), "AuraFlow"),
        (type("Own_Model", (), {})(), "Own Model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_distinguishes_products_of_one_class_is_looked_at(model, name):
    assert name_of(model) == name


def test_refusals_name_the_product(host, pack, models, conds, monkeypatch):
    model = models["flow"].clone()
    monkeypatch.setattr(model.model, "model_config", model_of("ZImage").model_config)
    network = model.get_model_object("diffusion_model")
    hosts = {name: sys.modules[f"{PACK}.steadydiff.hosts.comfy.{name}"] for name in ("train", "finetune")}
    monkeypatch.setattr(network, "in_channels", 9, raising=False)
    with pytest.raises(Exception, match="this Z-Image reads more than the noisy latent"):
        hosts["train"].check_input(model)
    monkeypatch.setattr(hosts["finetune"], "known_layer", lambda network, name: pytest.fail(name))
    with pytest.raises(pytest.fail.Exception, match="Z-Image"):
        hosts["finetune"].schedule_of(model)


def test_cards_and_schedules_name_the_product():
    found = {"space": "flow", "latent_format": None, "channels": 16, "family": "SD15", "sigma_data": 1.0}
    with pytest.raises(HostError, match="models of the family Z-Image, and this model has SD15;"):
        check_card("the head", AntiBiasCard(target="phi", space="flow", family="ZImage"), 16, found)
    made = Schedule("uniform", (1.01,), MadeFor(model="Lumina2"))
    assert made.differences(model="Flux", names={"model": "Flux Schnell"}) == [
        "model Flux Schnell, made for Lumina Image 2.0 or Z-Image"
    ]
    assert made.differences(model="Lumina2", names={"model": "Z-Image"}) == []
