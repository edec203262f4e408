"""The entry point. It imports next to nothing, so that Ctrl-C is heard from the first moment on.

Exit status: 0 done; 1 a run that failed; 2 bad arguments or a bad file; 130 Ctrl-C; 141 the reader
of stdout has gone.
"""

import os
import sys
from collections.abc import Sequence

__all__ = ["execute", "main"]

_INTERRUPTED, _BROKEN_PIPE = 130, 141


def main() -> None:
    """Run the command line; the process ends with its exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    status = execute(sys.argv[1:])
    supervision = sys.modules.get("executor.supervision")
    if supervision is not None and supervision.left_behind():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # a thread that hangs would abort the process on its way out
    sys.exit(status)


def execute(arguments: Sequence[str]) -> int:
    """Run a command line, given without the program's name. Returns the exit status."""
    try:
        status = _run(list(arguments) or ["--help"])
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # typer turns a broken pipe into an exit
        # Nothing is left to say, not even when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except Exception as error:
        from analysis.cli.complaints import complain

        return complain(error, arguments)
    if status == _INTERRUPTED:
        print("gradlag: interrupted", file=sys.stderr)
    return status


def _run(arguments: list[str]) -> int:
    from analysis.cli.app import root

    result = root().main(arguments, prog_name="gradlag", standalone_mode=False)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
