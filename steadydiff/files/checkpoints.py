"""Weight files: safetensors with one JSON header under the key "steadydiff". Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError, SettingsError
from .atomic import atomic_write

HEADER_KEY = "steadydiff"
MOST_BYTES = 235  # of a name: a system takes 255, with its ending and that of a draft
NO_FILES = set('/\\:*?"<>|')


def check_file_name(name: str, plain: str, what: str = "name") -> None:
    """Raise SettingsError unless a name, `plain` without its ending, can be a file's on every system."""
    is_long = len(plain.encode(errors="replace")) > MOST_BYTES
    if not plain or is_long or plain.startswith(".") or not plain.isprintable() or set(plain) & NO_FILES:
        short = f"{name[:40]!r} ... ({len(name)} letters)" if is_long else repr(name)
        raise SettingsError(
            f"{what} is that of a file, without folders and signs such as : or ?, of at most {MOST_BYTES} "
            f"letters; got {short}"
        )


def save_checkpoint(
    path: Path,
    tensors: dict[str, Tensor],
    *,
    kind: str,
    version: int,
    metadata: dict[str, str] | None = None,
    by: str = "",
    **facts,
) -> None:
    """Write tensors and a header {kind, version, **facts} beside other metadata, whole or not at all.

    by: as in `atomic_write`
    """
    header = json.dumps({"kind": kind, "version": version, **facts})
    own = {k: v.contiguous() for k, v in tensors.items()}
    with atomic_write(path, by) as draft:
        save_file(own, draft, {**(metadata or {}), HEADER_KEY: header})


def load_checkpoint(
    path: Path, *, kind: str, version: int, prefix: str = ""
) -> tuple[dict[str, Tensor], dict]:
    """Tensors and header of a file written by `save_checkpoint`; only those whose names begin with `prefix`.

    Raises:  CheckpointError if the file is missing, damaged, not ours, or of another kind or version.
    """
    tensors, metadata = read_tensors(path, prefix)
    try:
        header = json.loads(metadata.get(HEADER_KEY, "null"))
        json.dumps(header, ensure_ascii=False).encode()  # JSON can hold half a character, nobody can print it
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name}: its header cannot be read ({error}); get the file again."
        ) from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path.name} carries no SteadyDiff header; it was made for something else.")
    if (header.get("kind"), header.get("version")) != (kind, version):
        raise CheckpointError(
            f"{path.name} holds {header.get('kind')!r} version {header.get('version')!r}; "
            f"this needs {kind!r} version {version}."
        )
    return tensors, header


def read_tensors(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of any safetensors file, those whose names begin with `prefix`, and its metadata.

    Raises:  CheckpointError if the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (it is no dict)
            # Copies: else they would keep the file mapped, and Windows replaces no file that is.
            return {name: file.get_tensor(name).clone() for name in names}, file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is not there; expected it in {path.parent.name}/.") from None
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as safetensors ({error}); get the file again."
        ) from None


def all_finite(values: Iterable[Tensor]) -> bool:
    """Whether these are floating-point numbers, of 16 bits or more, and none of them overflows float32."""
    wide = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return all(value.dtype in wide and bool(value.float().isfinite().all()) for value in values)
