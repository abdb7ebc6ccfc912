"""ARPO: the search from a picture back to a prompt, its phrases, scorer, log and language models."""
