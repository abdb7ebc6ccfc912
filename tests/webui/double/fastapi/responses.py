"""What our routes answer with."""


class PlainTextResponse:
    """A text."""
