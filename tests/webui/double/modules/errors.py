"""Exceptions of extensions are reported and swallowed; the double keeps them."""

import sys
import traceback

exceptions = []


def report(message, *, exc_info=False):
    exceptions.append((message, traceback.format_exc() if exc_info and sys.exc_info()[0] else ""))
