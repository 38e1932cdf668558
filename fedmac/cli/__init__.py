"""The command line: a module for each command, thin layers on the rest."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer
from click import ClickException
from click.exceptions import Abort, NoArgsIsHelpError

from fedmac.cli.compare import COMPARE_HELP, compare
from fedmac.cli.deploy import deploy
from fedmac.cli.doctor import DOCTOR_HELP, doctor
from fedmac.cli.exits import BAD_INPUT, FAILURE, say, say_warnings
from fedmac.cli.infer import INFER_HELP, infer
from fedmac.cli.names import list_names, new, schema
from fedmac.cli.optimum import OPTIMUM_HELP, optimum
from fedmac.cli.profile import PROFILE_HELP, profile
from fedmac.cli.report import REPORT_HELP, report
from fedmac.cli.repurpose import REPURPOSE_HELP, repurpose
from fedmac.cli.run import RUN_HELP, run
from fedmac.cli.sweep import SWEEP_HELP, sweep
from fedmac.cli.tune import TUNE_HELP, tune

app = typer.Typer(
    name="fedmac",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from fedmac import __version__

        typer.echo(f"fedmac {__version__}")
        raise typer.Exit


@app.callback()
def fedmac(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Federated learning over wireless multiple-access channels."""


app.command(help=RUN_HELP)(run)
app.command(help=SWEEP_HELP)(sweep)
app.command(help=COMPARE_HELP)(compare)
app.command(help=REPORT_HELP)(report)
app.command(help=TUNE_HELP)(tune)
app.command(help=OPTIMUM_HELP)(optimum)
app.command(help=REPURPOSE_HELP)(repurpose)
app.command(help=INFER_HELP)(infer)
app.add_typer(deploy, name="deploy")
app.command(help=DOCTOR_HELP)(doctor)
app.command(help=PROFILE_HELP)(profile)
app.command("list")(list_names)
app.command()(schema)
app.command()(new)


def main() -> None:
    """Entry point: errors of input end with exit code 2, failures with 1, each with its reason in a line."""
    from fedmac.scenario_errors import ScenarioError

    say_warnings()
    try:
        # Not standalone: of its own accord typer would draw a box of several lines around what click says.
        sys.exit(app(prog_name="fedmac", standalone_mode=False))
    except NoArgsIsHelpError as error:
        typer.echo(error.ctx.get_help())
        sys.exit(error.exit_code)
    except ClickException as error:
        say(" ".join(error.format_message().split()))
        sys.exit(error.exit_code)
    except Abort:
        say("aborted")
        sys.exit(FAILURE)
    except ScenarioError as error:
        say(str(error))
        sys.exit(BAD_INPUT)
    except Exception as error:
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    """Say what went wrong, and the exit code. Our own errors need no traceback."""
    from clients.sources import DataUnavailable
    from fedmac.air_refusals import AirError
    from fedmac.deployment.refusals import BadDeployment
    from fedmac.engines.flower import EngineError
    from fedmac.engines.workers import WorkerDied
    from fedmac.record import FolderInTheWay, NoRunHere, RecordError
    from strategies.iterations import NobodyAnswers
    from strategies.node_wait import NodesMissing

    if isinstance(error, FolderInTheWay | NoRunHere | DataUnavailable | BadDeployment):
        say(str(error))
        return BAD_INPUT
    if isinstance(error, RecordError | EngineError | WorkerDied | NobodyAnswers | NodesMissing | AirError):
        say(str(error))
        return FAILURE
    traceback.print_exception(error)
    return FAILURE
