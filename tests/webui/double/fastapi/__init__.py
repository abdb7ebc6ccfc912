"""The names our routes are declared with; the routes themselves are tested in the real hosts."""


class FastAPI:
    """Takes routes and forgets them."""


class HTTPException(Exception):
    """What a route answers instead."""


def Body(*args, **kwargs):
    pass


Depends = Body
