"""A real WebUI as a subprocess: `main.py ROOT DATA` answers JSON lines; with `serve PORT` it serves browsers.

Each line read is {"do": name of a function in actions.py, ...its arguments}; each answer one line with either
`result` or `error`. All the host prints goes to stderr.
"""

import json
import os
import sys
import threading
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import boot  # noqa: E402


def answer_lines() -> None:
    """Serve requests until stdin ends; the host's prints must not mix with answers."""
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    boot.start(sys.argv[1], sys.argv[2])
    import actions

    actions.create_ui()
    if loop := boot.first_threads_loop():  # our first thread answers
        threading.Thread(target=loop, daemon=True).start()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"result": getattr(actions, request.pop("do"))(**request)}
        except BaseException:
            reply = {"error": traceback.format_exc()}
        replies.write(json.dumps(reply, default=str) + "\n")


def serve(port: str) -> None:
    """Leave the whole WebUI running for a browser."""
    boot.start(sys.argv[1], sys.argv[2], "--port", port, "--api", "--gradio-allowed-path", sys.argv[1])
    boot.run_webui()


if __name__ == "__main__":
    serve(sys.argv[4]) if sys.argv[3:4] == ["serve"] else answer_lines()
