"""What every sampler of the host shares."""

import tiny


class InterruptedException(BaseException):
    """Ends a run at the user's wish."""


def images_tensor_to_samples(image, approximation=None, model=None):
    """Pictures [B, 3, H, W] of 0 to 1 as latents."""
    return tiny.encode(image * 2 - 1)
