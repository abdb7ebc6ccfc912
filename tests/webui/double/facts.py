"""Questions whose answers a WebUI's extension depends on; asked of the double and of every real host alike.

Runs inside either, so it imports only `modules` and the standard library; `FACTS` is what is asked.
"""

import inspect

from modules import processing, script_callbacks, scripts, shared

PARAMS = ("CFGDenoiserParams", "CFGDenoisedParams", "AfterCFGCallbackParams")
REGISTRARS = (
    *("on_before_ui", "on_ui_settings", "on_ui_tabs", "on_app_started", "on_model_loaded"),
    *("on_script_unloaded", "on_infotext_pasted", "on_cfg_denoiser", "on_cfg_denoised", "on_cfg_after_cfg"),
)
ATTRIBUTES = (
    *("name", "section", "filename", "args_from", "args_to", "is_txt2img", "is_img2img", "tabname", "group"),
    *("create_group", "infotext_fields", "paste_field_names", "controls", "alwayson"),
)
METHODS = ("process", "process_batch", "process_before_every_sampling", "postprocess")
FIELDS = {
    **{"prompt": "a cat", "negative_prompt": "a dog", "seed": 5, "steps": 3, "cfg_scale": 3.0, "width": 64},
    **{"height": 64, "sampler_name": "Euler", "scheduler": "Automatic", "do_not_save_samples": True},
    "do_not_save_grid": True,
}


def names():
    """Constructors, registrars and the attributes a script is born with."""
    return {
        "params": {name: [*inspect.signature(getattr(script_callbacks, name)).parameters] for name in PARAMS},
        "registrars": [name for name in REGISTRARS if "name" in _parameters(script_callbacks, name)],
        "script": {name: getattr(scripts.Script, name, "missing") for name in ATTRIBUTES},
        "methods": {name: [*_parameters(scripts.Script, name)] for name in METHODS},
    }


def _parameters(owner, name):
    return inspect.signature(getattr(owner, name)).parameters


class Probe(scripts.Script):
    """Writes down what the host calls, and lets a test act in between."""

    def __init__(self, before_sampling=None, failing=False):
        self.ledger, self.before_sampling, self.failing = [], before_sampling, failing
        self.args_from, self.args_to, self.filename, self.alwayson = 0, 0, __name__, True

    def title(self):
        return "probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):
        self.ledger.append("process")
        if self.failing:
            raise ValueError("a script that fails")

    def process_before_every_sampling(self, p, *args, **kwargs):
        hires = " hires" if getattr(p, "is_hr_pass", False) else ""
        self.ledger.append(f"before sampling{hires}: {', '.join(sorted(kwargs))}")
        self.samplers = [*getattr(self, "samplers", ()), p.sampler]
        if self.before_sampling:
            self.before_sampling(p)

    def postprocess(self, p, processed, *args):
        self.ledger.append("postprocess")


def run(probe, kind="txt2img", **fields):
    """Make a picture with a probe among the host's scripts."""
    txt2img = kind == "txt2img"
    made_of = getattr(processing, f"StableDiffusionProcessing{'Txt2Img' if txt2img else 'Img2Img'}")
    if not txt2img:
        from PIL import Image

        fields = {"init_images": [Image.new("RGB", (64, 64))], "denoising_strength": 0.7, **fields}
    elif "enable_hr" in fields and "hr_additional_modules" in getattr(made_of, "__dataclass_fields__", ()):
        fields |= {"hr_additional_modules": ["Use same choices"], "hr_cfg": 3.0}
    known = {name: value for name, value in FIELDS.items() if name in made_of.__dataclass_fields__}
    p = made_of(sd_model=shared.sd_model, **{**known, **fields})
    runner = scripts.ScriptRunner()
    runner.scripts, runner.alwayson_scripts = [probe], [probe]
    p.is_api = True
    p.scripts, p.script_args = runner, [0]
    return processing.process_images(p)


def events():
    """Which methods a script is called at, how often, and on how many samplers."""
    found = {}
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.5}
    hires["hr_upscaler"] = next(iter(shared.latent_upscale_modes), "None")  # Neo has none of these
    for name, fields in {"txt2img": {}, "two batches": {"n_iter": 2}, "hires": hires}.items():
        probe = Probe()
        run(probe, **fields)
        found[name] = [*probe.ledger, f"{len(set(map(id, probe.samplers)))} samplers"]
    probe = Probe()
    run(probe, "img2img", n_iter=2)
    found["img2img, two batches"] = [*probe.ledger, f"{len(set(map(id, probe.samplers)))} samplers"]
    probe = Probe(failing=True)
    found["a failing script"] = f"{len(run(probe).images)} picture, {probe.ledger[-1]}"
    return found


def calls():
    """What CFGDenoiser is asked and asks, in each of its two flavours."""
    found = {}
    for sampler in ("Euler", "DDIM"):
        seen = {}

        def look(p, seen=seen):
            model = p.sampler.model_wrap_cfg
            forward, combine = model.forward, model.combine_denoised

            def asked(x, sigma, *args, **kwargs):
                seen.setdefault("level", "whole" if float(sigma[0]).is_integer() else "real")
                answer = forward(x, sigma, *args, **kwargs)
                seen["answer"] = list(answer.shape)
                seen["calls"] = seen.get("calls", 0) + 1
                return answer

            def combined(x_out, conds_list, uncond, cond_scale):
                seen["combined"] = [list(x_out.shape), str(conds_list), cond_scale]
                return combine(x_out, conds_list, uncond, cond_scale)

            model.forward, model.combine_denoised = asked, combined

        def batch(params, seen=seen):
            seen["network input"] = list(params.x.shape)

        def branches(params, seen=seen):
            seen["branches"] = list(params.x.shape)

        script_callbacks.on_cfg_denoiser(batch)
        script_callbacks.on_cfg_denoised(branches)
        try:
            run(Probe(look), sampler_name=sampler)
        finally:
            for callback in (batch, branches):
                script_callbacks.remove_callbacks_for_function(callback)
        found[sampler] = seen
    return found


def state():
    """Whether writing to x inside a wrapped forward moves the sampler's own state, and rebinding does not."""
    found = {}
    for sampler in ("Euler", "Heun", "DDIM"):
        for way in ("in place", "by another tensor"):
            states = []

            def look(p, way=way, states=states):
                model = p.sampler.model_wrap_cfg
                forward = model.forward

                def moved(x, sigma, *args, **kwargs):
                    states.append(x.clone())
                    if len(states) > 1:
                        return forward(x, sigma, *args, **kwargs)
                    answer = forward(x, sigma, *args, **kwargs)
                    if way == "in place":
                        x.add_(1e4)
                    else:
                        x = x + 1e4
                    return answer

                model.forward = moved

            run(Probe(look), sampler_name=sampler)
            later = states[1].float().mean().item() - states[0].float().mean().item()
            found[f"{sampler} {way}"] = "moved" if later > 500 else "not moved"
    return found


def patcher():
    """On patcher hosts: what a post-CFG function is told, and what a clone and a new run keep."""
    if not hasattr(shared.sd_model, "forge_objects"):
        return None
    found, holder = {}, Holder()
    for cfg in (3.0, 1.0):

        def look(p, cfg=cfg):
            unet = p.sd_model.forge_objects.unet.clone()

            def after(args):
                negative = "no uncond" if args["uncond"] is None else "uncond"
                found["told"] = sorted(args)
                found[f"cfg {cfg}"] = [negative, bool((args["uncond_denoised"] == 0).all())]
                return args["denoised"]

            unet.set_model_sampler_post_cfg_function(after)
            unet.model_options["holder"] = holder
            found["clones copy"] = unet.clone().model_options["holder"] is not holder
            p.sd_model.forge_objects.unet = unet

        run(Probe(look), cfg_scale=cfg)
    kept = []
    run(Probe(lambda p: kept.append("holder" in p.sd_model.forge_objects.unet.model_options)))
    found["kept by the next run"] = kept[0]
    return found


class Holder:
    """Something that is copied deeply, unlike a function."""


FACTS = {"names": names, "events": events, "calls": calls, "state": state, "patcher": patcher}
