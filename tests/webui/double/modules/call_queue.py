"""One generation at a time; here there is never another."""

import threading

queue_lock = threading.Lock()


def wrap_gradio_gpu_call(func, extra_outputs=None):
    return func
