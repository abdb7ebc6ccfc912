"""The progress bar of nodes that draw several pictures."""

import comfy.model_management
import comfy.utils
import latent_preview
import torch

from ...steadydiff.arpo.clip_scorer import as_pil


class Bar:
    """One progress bar over all steps of all drawings; it shows each drawing and obeys Cancel.

    previews: off for a node that shows a picture of its own at the end, over which the page would leave them
    """

    def __init__(self, model, steps: int, drawings: int, previews: bool = True):
        self._bar, self._total = comfy.utils.ProgressBar(steps * drawings), steps * drawings
        self._before, self._done, self._steps = 0, 0, steps
        self._previews = previews
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def part(self, at: int, of: int) -> None:
        """Count from a part on, of parts of equal length; the one before may have ended sooner."""
        self._before = self._done = self._total * at // of

    def on_step(self, step, denoised, x, total_steps):
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._done = self._before + min(step + 1, self._steps)
        preview = self._previewer
        self._show(preview.decode_latent_to_preview_image("JPEG", denoised) if preview else None)

    def drawn(self, picture: torch.Tensor) -> torch.Tensor:
        """Show a finished drawing; the next ones count from here."""
        self._before += self._steps
        self._done = self._before
        self._show(("JPEG", as_pil(picture), latent_preview.MAX_PREVIEW_RESOLUTION))
        return picture

    def leave(self, picture: torch.Tensor) -> None:
        """Show a picture that stays: the page keeps the last one over what the node shows by itself."""
        self._show(("JPEG", as_pil(picture), latent_preview.MAX_PREVIEW_RESOLUTION))

    def _show(self, preview) -> None:
        shown = preview if self._previews else None
        self._bar.update_absolute(min(self._done, self._total), self._total, shown)
