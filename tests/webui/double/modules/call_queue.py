"""One generation at a time; here there is never another."""


def wrap_gradio_gpu_call(func, extra_outputs=None):
    return func
