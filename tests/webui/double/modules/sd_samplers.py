"""Three samplers, and what lies between them and the network, in A1111's order of events or in Forge's."""

import copy
from types import SimpleNamespace

import tiny
import torch
from modules import script_callbacks, sd_samplers_common, shared

ALPHAS = tiny.alphas_cumprod().float()
SIGMAS = ((1 - ALPHAS) / ALPHAS).sqrt()


def spread(values, x):
    return values.view(-1, *[1] * (x.ndim - 1))


class Wrapped(torch.nn.Module):
    """A1111's wrapper of a model: k-diffusion's answers clean estimates, the timestep samplers' epsilon."""

    def __init__(self, sd_model, timesteps):
        super().__init__()
        self.__dict__["inner_model"] = sd_model
        self.timesteps, self.sigmas = timesteps, SIGMAS

    def forward(self, x, level, cond=None):
        if self.timesteps:
            return self.inner_model.apply_model(x, level, cond)
        at = torch.bucketize(level, SIGMAS).clamp(max=999).to(x)
        sigma = spread(level, x)
        return x - sigma * self.inner_model.apply_model(x / (sigma**2 + 1).sqrt(), at, cond)


class CFGDenoiser(torch.nn.Module):
    """What a sampler function calls as its model."""

    def __init__(self, sampler, timesteps):
        super().__init__()
        self.__dict__["sampler"] = sampler
        self.timesteps, self.mask_before_denoising = timesteps, timesteps
        self.mask = self.nmask = self.init_latent = self.p = self.model_wrap = None
        self.step, self.steps, self.total_steps, self.image_cfg_scale = 0, None, None, None

    @property
    def inner_model(self):
        if self.model_wrap is None:
            self.model_wrap = Wrapped(shared.sd_model, self.timesteps)
        return self.model_wrap

    def update_inner_model(self):
        self.model_wrap = None

    def blend(self, x):
        return x * self.nmask + self.init_latent * self.mask

    def begin(self):
        if shared.state.interrupted or shared.state.skipped:
            raise sd_samplers_common.InterruptedException
        refiner = getattr(self.p, "refiner", None)
        if refiner is not None and self.step >= self.p.refiner_switch_at and shared.sd_model is not refiner:
            shared.sd_model = refiner
            self.update_inner_model()


class A1111(CFGDenoiser):
    def __init__(self, sampler, timesteps):
        super().__init__(sampler, timesteps)
        self.cond_scale_miltiplier, self.need_last_noise_uncond, self.last_noise_uncond = 1.0, False, None

    def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
        negative = x_out[-uncond.shape[0] :]
        denoised = negative.clone()
        for i, conds in enumerate(conds_list):
            for row, weight in conds:
                denoised[i] += (x_out[row] - negative[i]) * (weight * cond_scale)
        return denoised

    def combine_denoised_for_edit_model(self, x_out, cond_scale):
        raise NotImplementedError

    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        self.begin()
        if self.mask_before_denoising and self.mask is not None:
            x = self.blend(x)
        many, batch = len(cond), len(x)
        conds_list = [[(i * many + j, weight) for j, (weight, _) in enumerate(cond)] for i in range(batch)]
        rows = [i for i in range(batch) for _ in range(many)]
        x_in, sigma_in = torch.cat([x[rows], x]), torch.cat([sigma[rows], sigma])
        text = torch.cat([text[[i]] for i in range(batch) for _, text in cond])
        params = script_callbacks.CFGDenoiserParams(
            x_in, image_cond, sigma_in, shared.state.sampling_step, self.total_steps, text, uncond, self
        )
        script_callbacks.call("cfg_denoiser", params)
        x_in, text = params.x, torch.cat([params.text_cond, params.text_uncond])
        skipped = shared.opts.skip_early_cond and self.step / self.total_steps <= shared.opts.skip_early_cond
        if skipped:
            x_in, sigma_in, text = x_in[:-batch], params.sigma[:-batch], text[:-batch]
        x_out = self.inner_model(x_in, sigma_in, cond={"c_crossattn": [text], "c_concat": [image_cond]})
        if skipped:
            x_out = torch.cat([x_out, x_out[[conds[0][0] for conds in conds_list]]])
        script_callbacks.call(
            "cfg_denoised",
            script_callbacks.CFGDenoisedParams(x_out, self.step, self.total_steps, self.inner_model),
        )
        denoised = self.combine_denoised(x_out, conds_list, uncond, 1.0 if skipped else cond_scale)
        if not self.mask_before_denoising and self.mask is not None:
            denoised = self.blend(denoised)
        return self.finish(denoised)

    def finish(self, denoised):
        params = script_callbacks.AfterCFGCallbackParams(denoised, self.step, self.total_steps)
        script_callbacks.call("cfg_after_cfg", params)
        self.step += 1
        return params.x


class Forge(CFGDenoiser):
    """No rows are stacked; DDIM's states become VE on the way in and answers epsilon on the way out."""

    combine_denoised = A1111.combine_denoised  # there, and never called
    combine_denoised_for_edit_model = A1111.combine_denoised_for_edit_model
    finish = A1111.finish

    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        self.begin()
        if self.timesteps:
            sigma = SIGMAS[sigma.round().long()]
            x = x * (spread(sigma, x) ** 2 + 1).sqrt()
        if self.mask is not None:
            noisy = self.init_latent + torch.randn_like(self.init_latent) * spread(sigma, x)
            x = x * self.nmask + noisy * self.mask
        params = script_callbacks.CFGDenoiserParams(
            x, image_cond, sigma, shared.state.sampling_step, self.total_steps, cond, uncond, self
        )
        script_callbacks.call("cfg_denoiser", params)
        unet = self.inner_model.inner_model.forge_objects.unet
        texts = [{"strength": weight, "text": text} for weight, text in params.text_cond]
        model, x_in, level = unet.model, params.x, params.sigma
        negative, scale, options, seed = [{"text": params.text_uncond}], cond_scale, unet.model_options, 0
        for modifier in options.get("conditioning_modifiers", ()):
            model, x_in, level, negative, texts, scale, options, seed = modifier(
                model, x_in, level, negative, texts, scale, options, seed
            )
        denoised = sampling_function(model, x_in, level, negative, texts, scale, options, seed)
        if self.mask is not None:
            denoised = self.blend(denoised)
        denoised = self.finish(denoised)
        return (x - denoised) / spread(sigma, x) if self.timesteps else denoised


def sampling_function(model, x, timestep, uncond, cond, cond_scale, model_options=None, seed=None):
    """Guidance on a patcher host, and then the post-CFG functions, which are told nine things."""
    options = model_options or {}
    negative = None if cond_scale == 1 and not options.get("disable_cfg1_optimization") else uncond
    asked = [*(negative or ()), *cond]
    kinds = [1] * len(negative or ()) + [0] * len(cond)
    more = {"transformer_options": {**options.get("transformer_options", {}), "cond_or_uncond": kinds}}
    text = torch.cat([one["text"] for one in asked])
    x_in, level = x.repeat(len(asked), 1, 1, 1), timestep.repeat(len(asked))
    if around := options.get("model_function_wrapper"):
        c = {"c_crossattn": text, **more}
        told = {"input": x_in, "timestep": level, "c": c, "cond_or_uncond": kinds}
        answers = around(model.apply_model, told)
    else:
        answers = model.apply_model(x_in, level, text, **more)
    answers = list(answers.chunk(len(asked)))
    uncond_denoised = answers.pop(0) if negative else torch.zeros_like(x)
    weights = [one.get("strength", 1.0) for one in cond]
    cond_denoised = sum(w * one for w, one in zip(weights, answers, strict=True)) / sum(weights)
    denoised = uncond_denoised + (cond_denoised - uncond_denoised) * cond_scale if negative else cond_denoised
    for function in options.get("sampler_post_cfg_function", ()):
        denoised = function(
            {
                "denoised": denoised,
                "cond": cond,
                "uncond": negative,
                "model": model,
                "sigma": timestep,
                "uncond_denoised": uncond_denoised,
                "cond_denoised": cond_denoised,
                "input": x,
                "model_options": options,
            }
        )
    return denoised


class UnetPatcher:
    """Its clones copy what they hold deeply; functions stay the same, objects do not."""

    def __init__(self, model):
        self.model, self.model_options = model, {"transformer_options": {}}

    def clone(self):
        clone = UnetPatcher(self.model)
        clone.model_options = copy.deepcopy(self.model_options)
        return clone

    def set_model_sampler_post_cfg_function(self, function, disable_cfg1_optimization=False):
        self.model_options.setdefault("sampler_post_cfg_function", []).append(function)

    def set_model_unet_function_wrapper(self, function):
        self.model_options["model_function_wrapper"] = function

    def add_conditioning_modifier(self, modifier, ensure_uniqueness=False):
        self.model_options.setdefault("conditioning_modifiers", []).append(modifier)


class Sampler:
    def __init__(self, name, function, timesteps):
        denoiser = Forge if hasattr(shared.sd_model, "forge_objects") else A1111
        self.func, self.timesteps, self.config = function, timesteps, SimpleNamespace(name=name, options={})
        self.model_wrap_cfg, self.last_latent, self.sampler_extra_args = denoiser(self, timesteps), None, None

    def sample(self, p, x, conditioning, unconditional_conditioning, begin=0):
        """From noise, or from a latent with noise on it at the step `begin` of p's steps."""
        model = self.model_wrap_cfg
        model.p, model.step, model.steps = p, 0, p.steps
        model.mask, model.nmask = getattr(p, "mask", None), getattr(p, "nmask", None)
        model.total_steps = p.steps * (2 if self.func is sample_heun else 1)
        levels = {}
        if self.timesteps:
            at = (torch.arange(0, 1000, 1000 // p.steps) + 1).clamp(max=999)
            levels["timesteps"] = at[: len(at) - begin]
            abar = ALPHAS[levels["timesteps"][-1]] if begin else torch.zeros(())
            noise, latent = (1 - abar).sqrt(), abar.sqrt()
        else:
            at = torch.linspace(999, 0, p.steps).round().long()[begin:]
            levels["sigmas"] = torch.cat([SIGMAS[at], torch.zeros(1)])
            noise, latent = levels["sigmas"][0], torch.ones(())
        init = getattr(p, "init_latent", None)
        x = x * noise + (0 if init is None else init * latent)
        model.init_latent, self.last_latent = init, x
        self.sampler_extra_args = {
            "cond": conditioning,
            "image_cond": None,
            "uncond": unconditional_conditioning,
            "cond_scale": p.cfg_scale,
            "s_min_uncond": 0.0,
        }
        try:
            return self.func(
                model, x, extra_args=self.sampler_extra_args, disable=False, callback=self.stepped, **levels
            )
        except sd_samplers_common.InterruptedException:
            return self.last_latent

    def stepped(self, told):
        shared.state.sampling_step, self.last_latent = told["i"], told["denoised"]


def sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **extra_args)
        callback({"i": i, "denoised": denoised, "x": x, "sigma": sigmas[i]})
        x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


def sample_heun(model, x, sigmas, extra_args=None, callback=None, disable=None):
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **extra_args)
        callback({"i": i, "denoised": denoised, "x": x, "sigma": sigmas[i]})
        slope, step = (x - denoised) / sigmas[i], sigmas[i + 1] - sigmas[i]
        if sigmas[i + 1] > 0:
            there = x + slope * step
            second = model(there, sigmas[i + 1] * x.new_ones(len(x)), **extra_args)
            slope = (slope + (there - second) / sigmas[i + 1]) / 2
        x = x + slope * step
    return x


def ddim(model, x, timesteps, extra_args=None, callback=None, disable=None):
    for i, at in enumerate(reversed(range(1, len(timesteps)))):
        eps = model(x, timesteps[at] * x.new_ones(len(x)), **extra_args)
        here, there = ALPHAS[timesteps[at]], ALPHAS[timesteps[at - 1]]
        denoised = (x - (1 - here).sqrt() * eps) / here.sqrt()
        callback({"i": i, "denoised": denoised, "x": x, "sigma": 0})
        x = there.sqrt() * denoised + (1 - there).sqrt() * eps
    return x


SAMPLERS = {"Euler": (sample_euler, False), "Heun": (sample_heun, False), "DDIM": (ddim, True)}


def create_sampler(name, model):
    return Sampler(name, *SAMPLERS[name])


def visible_sampler_names():
    return [*SAMPLERS]
