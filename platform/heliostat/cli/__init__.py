"""The command line: one small module a verb, each importing its room when it is called."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

import typer

from heliostat.errors import HeliostatError, told

_VERBS = (
    "train",
    "tune",
    "evaluate",
    "compare",
    "predict",
    "serve",
    "demo",
    "submit",
    "jobs",
    "models",
    "data",
    "plugins",
    "plan",
    "cluster",
    "show",
    "config-schema",
    "new-plugin",
    "check-plugin",
    "doctor",
    "quickstart",
)
"""In the order of a user's day. A module with `app` is a group of verbs, one with `command` is a verb."""


def _build() -> typer.Typer:
    """The command line with all its verbs."""
    app = typer.Typer(
        name="heliostat",
        help="Train, evaluate, serve and demonstrate transformers on Ray; a domain plugs in as one small package.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for verb in _VERBS:
        if importlib.util.find_spec(f"heliostat.cli.{verb.replace('-', '_')}") is None:
            continue
        module = importlib.import_module(f"heliostat.cli.{verb.replace('-', '_')}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=verb)
        else:
            app.command(verb, context_settings=getattr(module, "context_settings", None))(module.command)
    return app


def main() -> None:
    """Run the command line; a mistake that a user can mend prints without a traceback, and so does a file's trouble."""
    try:
        _build()()
    except HeliostatError as error:
        _say(str(error))
        _leave(error.exit_code)
    except OSError as error:
        if error.filename is None or error.errno is None:  # it tells of no file
            raise
        _say(told(error))
        _leave(HeliostatError.exit_code)
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        _leave(130)
    except SystemExit as ended:
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            raise
        # Under torchrun a thread of gloo that aborts at exit would turn a finished training into a failed one.
        _leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))


def _say(error: str) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print("[bold red]error[/] ", end="")
    print(error, file=sys.stderr)


def _leave(exit_code: int) -> None:
    """End with this code, whatever threads of libraries are still about."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
