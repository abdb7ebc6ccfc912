"""Keys of hosted servers, by name: workflows, pictures and logs hold the name, never the key.

A key goes to one server only, the one its owner named beside it. Otherwise a workflow from a stranger could
name any key, or any other secret of the environment, and a server of the stranger's to send it to.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from ...errors import SettingsError
from ...files.text import read_text
from .exchange import Address

NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")  # capitals, so that a key itself, pasted there, is refused
KEY = re.compile(r"[!-~]{1,4096}")


def check_name(name: str) -> str:
    """Return a key's name as it is, or refuse it, without repeating it: it may be a key."""
    if name and not NAME.fullmatch(name):
        raise SettingsError(
            "key_name wants a key's name in capitals, e.g. OPENAI_API_KEY. If you pasted the key itself, "
            "remove it, and have it replaced if a workflow or a picture was saved with it"
        )
    return name


def keys_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where a user may keep keys: outside any folder that a host serves or saves."""
    if sys.platform == "win32":
        folder = Path(environment.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    else:
        folder = Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return folder / "steadydiff" / "keys.json"


def find_key(name: str, origin: str, environment: Mapping[str, str] = os.environ) -> str:
    """The key of that name, if it is for the server at this origin; "" for no name.

    In the environment NAME holds the key and NAME_FOR the server's address; in the file
    {"NAME": {"key": "...", "for": "https://..."}}, of which the environment may hold the key.

    Raises:  SettingsError if there is none, or it is for another server.
    """
    if not check_name(name):
        return ""
    kept = _from_file(name, keys_file(environment))
    key = environment.get(name) or kept.get("key") or ""
    meant = environment.get(f"{name}_FOR") or kept.get("for") or ""
    if not key:
        raise SettingsError(
            f"there is no key {name}: set it in the environment ({name} and {name}_FOR={origin}) or in the "
            'file steadydiff/keys.json of your configuration folder ({"' + name + '": {"key": ..., '
            f'"for": "{origin}"}}}})'
        )
    if not KEY.fullmatch(key):
        raise SettingsError(f"the key {name} has letters no key has, e.g. a space or a line end; correct it")
    if not meant or Address.of(meant).origin != origin:
        raise SettingsError(
            f"the key {name} is not meant for {origin}, and was not sent. If you want that, set "
            f'{name}_FOR={origin} in the environment, or "for" in keys.json'
        )
    return key


def _from_file(name: str, file: Path) -> dict[str, str]:
    try:
        entry = json.loads(read_text(file))[name] if file.is_file() else {}
        if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
            raise TypeError
        return entry
    except KeyError:
        return {}
    except (ValueError, TypeError, OSError, RecursionError):
        raise SettingsError(
            f'{file.name} cannot be read: it wants {{"{name}": {{"key": ..., "for": ...}}}}'
        ) from None
