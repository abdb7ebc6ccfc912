class InterruptedException(BaseException):
    """Ends a run at the user's wish."""
