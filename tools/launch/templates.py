"""The workflows of the template browser, as graphs; `draw_workflow.py` makes workflows/NAME.json of them.

The browser shows a file's name as its title, so names are words, numbered for their order; the last one
needs weights that not everybody has. All stand on one grid that opens at a zoom at which ComfyUI draws texts:
the note, then the model and its prompt, then our nodes, then what they show. A graph is in the API's form; a
node's `_meta` is as `draw_workflow.py` reads it.
"""

# Over 400 lines: ten graphs as data.

from __future__ import annotations

import re
from typing import Any

from tools.launch.comfy_client import Graph

Node = dict[str, Any]

COLUMNS = {"A": (310, 300), "B": (640, 300), "C": (970, 510), "BC": (640, 840)}
"""Left edge and width of each column, in the page's pixels; the note is left of them."""
NOTE_SIZE, HEIGHT, GAP = [280, 420], 870, 50
"""The gap is between two nodes of a column: room for the lower one's title."""
GROUPS = {"A": ("Model and prompt", "#3f789e"), "B": ("SteadyDiff", "#8888aa"), "C": ("Result", "#b58b2a")}
GROUPS["BC"] = GROUPS["C"]
OURS, NOTE = {"color": "#233", "bgcolor": "#355"}, {"color": "#432", "bgcolor": "#653"}
BYPASSED = 4

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
REPOSITORY = "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main"
URL = f"{REPOSITORY}/{CHECKPOINT}?download=true"
DOWNLOAD = {"name": CHECKPOINT, "url": URL, "directory": "checkpoints"}
"""What core's own first template offers to download."""

FOLDER = "good_pictures"
"""In the host's input folder: pictures that template 4 takes as references."""


def node(
    column: str, height: int, kind: str, title: str, /, *, bypassed=False, collapsed=False, **inputs
) -> Node:
    """Return a node that stands in a column, below those that were named before it."""
    ours = kind.startswith("SteadyDiff") and kind != "SteadyDiffTinyWorld"
    look = {"title": title, "column": column, "height": height, "mode": BYPASSED if bypassed else 0}
    look |= {"flags": {"collapsed": True} if collapsed else {}, **(OURS if ours else {})}
    return {"class_type": kind, "inputs": inputs, "_meta": look}


def checkpoint() -> Node:
    made = node("A", 120, "CheckpointLoaderSimple", "Your checkpoint", ckpt_name=CHECKPOINT)
    made["_meta"]["models"] = [DOWNLOAD]
    return made


def tiny_world() -> Node:
    return node("A", 120, "SteadyDiffTinyWorld", "Demo model (the tiny world)", variant="epsilon")


def text(title: str, words: str, height: int) -> Node:
    return node("A", height, "CLIPTextEncode", title, clip=["model", 1], text=words)


def start(
    model: Node,
    prompt: str = "a photo of a deer in a misty meadow, morning light, fine detail in fur and grass",
    without: str = "blurry, flat",
) -> Graph:
    """The first column: model, prompt, negative prompt and size."""
    side = 64 if model["class_type"] == "SteadyDiffTinyWorld" else 512
    return {
        "model": model,
        "positive": text("Prompt", prompt, 220),
        "negative": text("Negative prompt", without, 150),
        "latent": node("A", 120, "EmptyLatentImage", "Size", width=side, height=side, batch_size=1),
    }


def scaling(height: int = 230, title: str = "Epsilon Scaling", **inputs) -> Node:
    widgets = {"scale": 1.005, "slope": 0.0, "start_percent": 0.0, "end_percent": 1.0, "space": "auto"}
    return node(
        "B", height, "SteadyDiffEpsilonScaling", title, **{"model": ["model", 0], **widgets, **inputs}
    )


def compare(
    model: str = "correct", column: str = "C", title: str = "Without and with", height: int = HEIGHT, **inputs
) -> Node:
    """The last column: both pictures on the node itself."""
    wires = {"model": [model, 0], "positive": ["positive", 0], "negative": ["negative", 0]}
    wires |= {"latent_image": ["latent", 0], "vae": ["model", 2]}
    widgets = {"seed": 1, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"}
    widgets |= {"scales": "", "show_difference": False, "denoise": 1.0}
    return node(column, height, "SteadyDiffCompare", title, **{**wires, **widgets, **inputs})


def antibias_prompt(model: str = "model", collapsed: bool = False) -> Node:
    return node(
        "B",
        190,
        "SteadyDiffAntiBiasPrompt",
        "Anti-Bias Prompt",
        collapsed=collapsed,
        model=[model, 0],
        antibias=["antibias", 0],
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
        calls="every",
    )


SHAPES = "a shaded drawing of a large purple heart at the center on a mint background"

RING = "a flat drawing of a large orange ring at the bottom left on a lavender background"

TEMPLATES: dict[str, tuple[str, Graph]] = {
    "1 Start here - correct your checkpoint": (
        "Choose your checkpoint, press Run and compare the two pictures (click to enlarge). Small "
        "differences are normal: look at texture and edges.\n\n"
        "**More or less:** *scale*. 1 is off, 1.01 twice as much; flow models (Flux, SD3) start at 1.001.\n\n"
        "**In your own workflow:** double-click, type *steady epsilon*, and put "
        "*Epsilon Scaling with Schedule* between the model (after LoRAs) and the sampler.",
        {**start(checkpoint()), "correct": scaling(), "compare": compare()},
    ),
    "2 Drift made and undone - runs without downloads": (
        "The demo model drifts too little to see, so we add some: the grey node makes it predict too little "
        "noise, by 1 / 1.15. *Epsilon Scaling* at 0.87, which is 1 / 1.15, takes it out again.\n\n"
        "Left: with drift. Right: corrected.\n\n"
        "A model of yours does not tell its number: choose by eye (template 3), or measure (template 9). "
        "*Auto Correct* takes out a part only: it tries no scale below 1.",
        {
            **start(tiny_world(), "a flat drawing of a large red star at the center on a sky background", ""),
            "drift": node(
                "B", 80, "Epsilon Scaling", "Drift, made on purpose", model=["model", 0], scaling_factor=1.15
            ),
            "correct": scaling(model=["drift", 0], scale=0.87, title="The drift taken out"),
            "compare": compare(title="With drift, and corrected", steps=10, cfg=4.0),
        },
    ),
    "3 Choose a scale - one picture per value": (
        "One picture per number in *scales*, all of the same seed. Look for the highest value without grain, "
        "then try another seed before you trust it.\n\n"
        "Put the number into *Epsilon Scaling*, as in template 1.",
        {
            **start(checkpoint()),
            "compare": compare("model", "BC", "One picture per scale", scales="1, 1.003, 1.005, 1.01, 1.02"),
            "save": node(
                "A",
                58,
                "SaveImage",
                "Saves the sheet",
                collapsed=True,
                images=["compare", 3],
                filename_prefix="SteadyDiff_scales",
            ),
        },
    ),
    "4 Fit to your checkpoint - with your pictures": (
        "Put 16 or more pictures of what you want to draw, which the checkpoint was not trained on, into "
        "*input/good_pictures*, then press R.\n\n"
        "The first run measures: at most 64 pictures' time, what is left is shown on Compare, Cancel is "
        "safe. What it finds is kept; other prompts and seeds do not measure again.\n\n"
        "**Nothing to correct** is the usual answer at a high CFG: both pictures are then the same.\n\n"
        "**In your own workflow:** *Auto Correct* between model and sampler. Pictures are optional.",
        {
            **start(checkpoint()),
            "folder": node(
                "B", 80, "LoadImageDataSetFromFolder", "Your pictures, in the input folder", folder=FOLDER
            ),
            "correct": node(
                "B",
                740,
                "SteadyDiffAuto",
                "Auto Correct",
                model=["model", 0],
                images=["folder", 0],
                vae=["model", 2],
                steps=20,
                cfg=7.0,
                sampler_name="euler",
                scheduler="normal",
                quality="quick",
                measure="when needed",
                seed=0,
                batch_size=4,
            ),
            "compare": compare(height=620),
            "told": node("C", 200, "PreviewAny", "What Auto Correct found", source=["compare", 4]),
        },
    ),
    "5 Prompt of a picture (ARPO)": (
        "The demo model draws a picture from a hidden prompt. *ARPO* starts with a wrong prompt, draws it, "
        "sees what is missing, and ends with words for what is there.\n\n"
        "**Your own picture:** Load Checkpoint for the demo model, *Load Image* for the picture, *Size* 512 "
        "(SDXL 1024), ViT-L-14 in CLIP Scorer (tick *download* once, 1.7 GB), bank *general*, an empty "
        "*prompt*.",
        {
            "model": tiny_world(),
            "positive": text("Hidden prompt", RING, 110),
            "negative": text("Negative prompt", "", 80),
            "latent": node("A", 120, "EmptyLatentImage", "Size", width=64, height=64, batch_size=1),
            "sampler": node(
                "A",
                60,
                "KSampler",
                "Draws it",
                collapsed=True,
                model=["model", 0],
                positive=["positive", 0],
                negative=["negative", 0],
                latent_image=["latent", 0],
                seed=5,
                steps=20,
                cfg=4.0,
                sampler_name="euler",
                scheduler="normal",
                denoise=1.0,
            ),
            "picture": node(
                "A",
                50,
                "VAEDecode",
                "The picture",
                collapsed=True,
                samples=["sampler", 0],
                vae=["model", 2],
            ),
            "scorer": node(
                "B",
                150,
                "SteadyDiffCLIPScorer",
                "Says how near a drawing is",
                model="tiny world",
                weights="openai",
                architecture="",
                download=False,
            ),
            "bank": node(
                "B",
                260,
                "SteadyDiffPhraseBank",
                "Says what a drawing lacks",
                scorer=["scorer", 0],
                bank="tinyworld",
                most=16,
                against=0.5,
                content="",
                style="",
                more="",
            ),
            "found": node("B", 200, "PreviewAny", "The prompt it found", source=["arpo", 0]),
            "arpo": node(
                "C",
                HEIGHT,
                "SteadyDiffARPO",
                "Picture, and what the found prompt draws",
                image=["picture", 0],
                model=["model", 0],
                clip=["model", 1],
                vae=["model", 2],
                negative=["negative", 0],
                latent_image=["latent", 0],
                proposer=["bank", 0],
                scorer=["scorer", 0],
                seed=11,
                steps=20,
                cfg=4.0,
                sampler_name="euler",
                scheduler="normal",
                iterations=3,
                prompt="a small blue star",
                exclude="",
                best_by="image",
                drop=True,
                min_gain=0.0,
                target=1.0,
                keep_as="",
                seeds=1,
                max_tokens=75,
                combine="first",
            ),
        },
    ),
    "6 DiffIER - a second look at each step": (
        "*DiffIER* calls the model once more at each step of the later half: half as much time again.\n\n"
        "Grey in *difference x8* is equal. Compare it also with a run of half as many steps again.\n\n"
        "**More or less:** *strength*. 0 is off; too much gives hard edges.",
        {
            **start(checkpoint()),
            "correct": node(
                "B",
                300,
                "SteadyDiffDiffIER",
                "DiffIER",
                model=["model", 0],
                mode="renoise",
                strength=0.5,
                divide_by_cfg=True,
                iterations=1,
                threshold=0.0,
                antithetic=False,
                start_percent=0.5,
                end_percent=1.0,
                values="as set",
            ),
            "compare": compare(show_difference=True),
        },
    ),
    "7 Trained corrections (Anti-Bias, MDSS)": (
        "These files are for the demo model. Yours must be trained for your checkpoint: template 8.\n\n"
        "Grey in *difference x8* is equal.\n\n"
        "**MDSS instead:** bypass *Anti-Bias Prompt* and end the bypass of both MDSS nodes (Ctrl+B). Its "
        "file is a LoRA, which acts in both pictures: what is compared is its second output.",
        {
            **start(tiny_world(), SHAPES, ""),
            "antibias": node(
                "B",
                80,
                "SteadyDiffLoadAntiBias",
                "Anti-bias file",
                file="tinyworld/antibias_epsilon.safetensors",
            ),
            "correct": antibias_prompt(),
            "mdss": node(
                "B",
                100,
                "SteadyDiffLoadMDSS",
                "MDSS file",
                bypassed=True,
                file="tinyworld/mdss_epsilon_k4.safetensors",
                model=["correct", 0],
            ),
            "second": node(
                "B",
                190,
                "SteadyDiffMDSS",
                "MDSS",
                bypassed=True,
                model=["mdss", 0],
                head=["mdss", 1],
                strength=1.0,
                start_percent=0.0,
                end_percent=1.0,
                branches="positive",
            ),
            "compare": compare("second", steps=10, cfg=4.0, show_difference=True),
        },
    ),
    "8 Train a correction": (
        "Draws 16 pictures and trains a small network on them for 40 steps, which shows the way and not what "
        "a training can do: that takes thousands of steps and pictures.\n\n"
        "**Your checkpoint:** *Load Image-Text (from Folder)* and *Make Training Dataset* instead of the "
        "drawn pictures, steps 10000, channels 32, batch_size 64, most_steps 50. Cancel keeps what was "
        "learnt; Run goes on.\n\n"
        "*Train MDSS* is bypassed (Ctrl+B): it fine-tunes the model itself.",
        {
            "model": tiny_world(),
            "positive": text("Prompt", SHAPES, 220),
            "latent": node("A", 120, "EmptyLatentImage", "Size", width=64, height=64, batch_size=1),
            "many": node("A", 80, "RepeatLatentBatch", "How many", samples=["latent", 0], amount=16),
            "pictures": node(
                "A",
                60,
                "KSampler",
                "Pictures to train on",
                collapsed=True,
                model=["model", 0],
                positive=["positive", 0],
                negative=["positive", 0],
                latent_image=["many", 0],
                seed=7,
                steps=20,
                cfg=1.0,
                sampler_name="euler",
                scheduler="normal",
                denoise=1.0,
            ),
            "antibias": node(
                "B",
                740,
                "SteadyDiffTrainAntiBias",
                "Train Anti-Bias",
                model=["model", 0],
                positive=["positive", 0],
                samples=["pictures", 0],
                name="template_antibias",
                steps=40,
                batch_size=16,
                channels=8,
                learning_rate=0.001,
                target="residual",
                loss="l2",
                snr_cap=5.0,
                fewest_steps=8,
                most_steps=20,
                seed=0,
                flip=False,
                weight="ve",
                accumulate=1,
                warmup=10,
                decay=0.5,
                ema=0.9999,
            ),
            "mdss": node(
                "B",
                60,
                "SteadyDiffTrainMDSS",
                "Train MDSS",
                bypassed=True,
                collapsed=True,
                base="tinyworld:epsilon",
                variant="as base",
                k=4,
                lora_rank=16,
                second_head=True,
                name="template_mdss",
                steps=20,
                batch_size=4,
                learning_rate=0.001,
                checkpointing=False,
                seed=0,
                model=["model", 0],
                positive=["positive", 0],
                samples=["pictures", 0],
                flip=False,
                accumulate=1,
                warmup=100,
                decay=0.0,
                ema=0.9999,
            ),
            "correct": antibias_prompt("mdss", collapsed=True),
            "loss": node(
                "C", 270, "LossGraphNode", "Loss", loss=["antibias", 1], filename_prefix="SteadyDiff_loss"
            ),
            "compare": compare(height=550, negative=["positive", 0], steps=10, cfg=1.0, show_difference=True),
        },
    ),
    "9 Measure drift": (
        "How much more noise the model predicts while sampling than on noised clean pictures, by step.\n\n"
        "If both lines lie together your model does not drift: leave everything off.\n\n"
        "Give *reference* real pictures (VAE Encode): the model's own samples show few-step error only. "
        "Takes about 48 pictures' time.",
        {
            **start(checkpoint()),
            "sampler": node("B", 60, "KSamplerSelect", "Your sampler", sampler_name="euler"),
            "sigmas": node(
                "B",
                110,
                "BasicScheduler",
                "Your steps",
                model=["model", 0],
                scheduler="normal",
                steps=20,
                denoise=1.0,
            ),
            "measure": node(
                "B",
                380,
                "SteadyDiffMeasure",
                "Measure Drift",
                model=["model", 0],
                positive=["positive", 0],
                negative=["negative", 0],
                sampler=["sampler", 0],
                sigmas=["sigmas", 0],
                latent_image=["latent", 0],
                cfg=7.0,
                seed=1,
                count=8,
                batch_size=4,
                refine=4,
                paper_curves=False,
            ),
            "plot": node("C", 660, "PreviewImage", "Drift", images=["measure", 0]),
        },
    ),
    "Real photos - drift that shows, and its cure": (
        "A small model of real photos (CIFAR-10, 32x32), four at once. Drawn in a few noisy steps they come "
        "out grey and soft; *Time Shift* tells it how little noise is really left.\n\n"
        "Left: without. Right: with, of the same seeds.\n\n"
        "**Try:** *factor* 0.9 with 10 steps, 0.98 with 50; 1 is off. Other words: airplane, automobile, "
        "bird, cat, deer, dog, frog, ship, truck.\n\n"
        "The model is in SteadyDiff's repository, not in the archive that ComfyUI's Manager installs.",
        {
            "model": node("A", 120, "SteadyDiffTinyWorld", "Demo model (photos)", variant="photos"),
            "positive": text("Prompt", "a photo of a horse", 220),
            "negative": text("Negative prompt", "", 150),
            "latent": node("A", 120, "EmptyLatentImage", "Size", width=32, height=32, batch_size=4),
            "correct": node(
                "B",
                230,
                "SteadyDiffTimeShift",
                "Time Shift",
                model=["model", 0],
                factor=0.95,
                start_percent=0.0,
                end_percent=1.0,
                levels=0.0,
            ),
            "compare": compare(sampler_name="ddpm", cfg=2.0),
        },
    ),
}


def placed(name: str) -> Graph:
    """Return a template's graph with places for all of its nodes, its note at the first of them."""
    note, graph = TEMPLATES[name]
    below, drawn = dict.fromkeys(COLUMNS, 0), {}
    for key, one in graph.items():
        meta = dict(one["_meta"])
        column, height = meta.pop("column"), meta.pop("height")
        left, width = COLUMNS[column]
        meta |= {"pos": [left, below[column]], "size": [width, height]}
        below[column] += GAP + (0 if meta["flags"].get("collapsed") else height)
        drawn[key] = {**one, "inputs": dict(one["inputs"]), "_meta": meta}
    title = re.split(r" - | \(", re.sub(r"^\d ", "", name))[0]  # a long one would widen the note
    look = {"title": title, "pos": [0, 0], "size": NOTE_SIZE, **NOTE}
    next(iter(drawn.values()))["_meta"].update(note=note, note_look=look)
    return drawn


def groups(name: str) -> list[dict]:
    """Return the frames around a template's columns, numbered."""
    standing = {one["_meta"]["column"] for one in TEMPLATES[name][1].values()}
    used = [column for column in COLUMNS if column in standing]
    return [
        {
            "title": f"{i} {GROUPS[column][0]}",
            "bounding": [COLUMNS[column][0] - 10, -80, COLUMNS[column][1] + 20, HEIGHT + 95],
            "color": GROUPS[column][1],
        }
        for i, column in enumerate(used, 1)
    ]


def offline(graph: Graph) -> Graph:
    """Return a template's graph with a model that ships in the place of a checkpoint, and without the prompt,
    of whose words it knows none."""
    if graph["model"]["class_type"] != "CheckpointLoaderSimple":
        return graph
    model = {**graph["model"], "class_type": "SteadyDiffTinyWorld", "inputs": {"variant": "epsilon"}}
    size = {**graph["latent"], "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    words = {**graph["positive"], "inputs": {**graph["positive"]["inputs"], "text": ""}}
    return {**graph, "model": model, "latent": size, "positive": words}
