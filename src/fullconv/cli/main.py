"""The command line: a table of commands, and what becomes of an error."""

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, NoReturn, TextIO

import typer

from ..errors import FullconvError, in_one_line, out_of_memory, plain
from .check import check
from .demo import demo
from .evaluate import evaluate
from .inspect import inspect
from .predict import predict
from .train import train

COMMANDS = (demo, check, train, evaluate, predict, inspect)

app = typer.Typer(
    name="fullconv",
    help="Semantic segmentation with fully convolutional networks: any-size image in, a class for every pixel out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    app.command()(_command)


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")
    ] = False,
) -> None:
    """Semantic segmentation with fully convolutional networks: any-size image in, a class for every pixel out."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave with its exit code.

    0 ok, 1 internal, 2 usage or configuration, 3 data set, 4 model file, 5 finished with skipped inputs,
    130 and 143 interrupted or terminated, 129 as its terminal was closed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # As standard error: names of files need not be text.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        code = app(args=[word for word in words if word != "--debug"] or ["--help"], standalone_mode=False)
        if sys.stdout:
            sys.stdout.flush()  # Here its disk may still be found full.
        if code == 130:  # What typer makes of KeyboardInterrupt.
            _say("interrupted")
    except SystemExit as ended:  # SIGTERM's.
        code = ended.code
    except BrokenPipeError:  # Who reads has enough.
        _let_go_of(sys.stdout)
        code = 1
    except Exception as error:
        code = _exit_code(error)
        if _is_full(error):
            _let_go_of(sys.stdout)
        if debug:
            traceback.print_exc()
        else:
            _say(_one_line(error))
    try:
        if sys.stderr:
            sys.stderr.flush()
    except OSError:
        _let_go_of(sys.stderr)
    if code and (runtime := sys.modules.get("fullconv.training.runtime")):
        runtime.leave(code)
    sys.exit(code or 0)


def _say(message: str) -> None:
    with suppress(OSError):  # Its terminal may be closed: the exit code still tells.
        print(f"fullconv: {plain(message)}", file=sys.stderr)


def _exit_code(error: Any) -> int:
    if isinstance(error, FullconvError) or hasattr(error, "format_message"):
        return int(error.exit_code)
    return 2 if isinstance(error, OSError) and (error.filename or _is_full(error)) else 1


def _is_full(error: Any) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def _let_go_of(stream: TextIO) -> None:
    """Let what is left to print go nowhere: Python would try once more at its end, and leave with another code."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _one_line(error: Any) -> str:
    if isinstance(error, FullconvError):
        return in_one_line(error, most=None)
    if hasattr(error, "format_message"):  # typer's own errors: options and arguments
        return f"{' '.join(error.format_message().split())} Try --help."
    if _is_full(error):
        return f"{error.filename or 'an output'}: cannot be written: {error.strerror}; make room, and try again"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; look at the path and who may use it"
    what = in_one_line(error, most=None)
    if out_of_memory(error):
        return f"out of memory: use smaller crops or batches (data.crop, data.batch_size), or smaller images ({what})"
    return (
        f"internal error ({type(error).__name__}: {what}); this is a bug of ours: run again with --debug and report it"
    )
