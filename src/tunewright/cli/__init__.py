"""The command line. Only this package reads argv and prints."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from tunewright.errors import GateError, SettingsError, Stopped, TunewrightError, UserError

INTERRUPTED = 130  # 128 and the number of SIGINT, as shells count
STATUS_FILE = "TUNEWRIGHT_STATUS"  # names the file in which `launch` reads how its processes ended
FINAL = (2, 3)  # what another start would only meet again


def main() -> None:
    """Runs the command line and exits: 0 done, 1 failed, 2 the user's input, 3 a gate refused."""
    file = os.environ.get(STATUS_FILE)
    if file is None:
        sys.exit(run(sys.argv[1:]))
    if leads():
        Path(file).unlink(missing_ok=True)
    status = run(sys.argv[1:])
    if status and leads():
        Path(file).write_text(str(status))
    sys.exit(0 if status in FINAL else status)


def leads() -> bool:
    """Says whether this process speaks for all that were started together."""
    return os.environ.get("RANK", "0") == "0"


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit status. Every error is one message on stderr."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import typer

    from tunewright.cli.app import app

    try:
        status = app(arguments, prog_name="tunewright", standalone_mode=False)
    except TunewrightError as error:
        return _report(error, "--json" in arguments)
    except typer.TyperException as error:
        help_ = "`tunewright --help` shows the commands."
        return _report(SettingsError("command line", str(error), help_), "--json" in arguments)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:  # the reader has gone, as in `tunewright predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        print("This is a fault of Tunewright, not of your input.", file=sys.stderr)
        return 1
    if status == INTERRUPTED:
        print("tunewright: interrupted; the run is not finished.", file=sys.stderr)
    return status if isinstance(status, int) else 0


def _report(error: TunewrightError, as_json: bool) -> int:
    if leads() and as_json:
        print(json.dumps({"error": str(error), "error_type": type(error).__name__}))
    if leads():
        print(f"tunewright: {error}", file=sys.stderr)
    elif not isinstance(error, (UserError, GateError, Stopped)):  # those all processes meet
        print(f"tunewright, process {os.environ['RANK']}: {error}", file=sys.stderr)
    return error.exit_status
