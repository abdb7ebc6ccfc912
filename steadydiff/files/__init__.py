"""Files: safetensors with a JSON header, written whole or not at all; texts of users."""
