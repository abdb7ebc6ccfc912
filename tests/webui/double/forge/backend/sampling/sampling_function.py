"""Where Forge keeps it."""

from modules.sd_samplers import sampling_function as sampling_function_inner  # noqa: F401
