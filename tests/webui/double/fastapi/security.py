"""Who asks."""


class HTTPBasicCredentials:
    """A name and a password."""


class HTTPBasic:
    """Asks for them."""
