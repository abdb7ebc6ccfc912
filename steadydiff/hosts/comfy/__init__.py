"""ComfyUI's adapter, duck-typed: its names and classes come in a `ComfyHost`."""
