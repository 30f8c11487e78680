"""kdtune: search the hyperparameters of knowledge distillation.

    python tune.py --method kd

Flags become Settings, Settings become a search. Nothing heavy is imported before `--help` and `--list` have answered.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from search_spaces import nearest
from tuner.settings import GROUPS, Settings, check_name, make

INTRO = """kdtune searches the hyperparameters of knowledge distillation and says how much that gained.

Try this; it needs no download and no GPU and takes about a minute:

    python tune.py --method kd

Then:

    python tune.py --method kd --plan               what would run, how long, how much disk
    python tune.py --method kd dkd at --trials 16   several methods, one table
    python tune.py --method kd --dataset cifar100 --teacher resnet56 --student resnet20
    python tune.py --report NAME [NAME ...]         a finished search's page anew; of several, one that compares them
    python tune.py --resume NAME                    after an interruption
    python tune.py --list                           methods, models, datasets, spaces, samplers, schedulers, objectives
    python tune.py --help                           the most used flags; --help all shows every one

docs/tutorial.md goes from here to your own data and a cluster."""
REPEATED: dict[str, dict[str, Any]] = {
    "set": {"action": "append"},
    "objective": {"action": "append"},
    "constraint": {"action": "append"},
    "method": {"nargs": "+"},
    "teacher": {"action": "append"},
    "warm_start": {"action": "append"},
}
METAVARS = {
    "set": "NAME=EXPR",
    "method": "NAME",
    "stages": "S-T,S-T",
    "objective": "NAME",
    "constraint": "NAME<NUMBER",
    "warm_start": "NAME",
}
LISTS = ("methods", "models", "datasets", "spaces", "samplers", "schedulers", "objectives")


def choices(field: FieldInfo) -> str:
    """`asha|none` for a field of fixed words, "" for any other."""
    words: list[str] = []
    for part in (field.annotation, *get_args(field.annotation)):
        if get_origin(part) is Literal:
            words = list(get_args(part))
    return "|".join(words)


MOST_USED = {
    "most used": (
        *("method", "dataset", "teacher", "student", "set", "trials", "epochs"),
        *("confirm_seeds", "evaluate", "gpus_per_trial", "out", "name"),
    )
}
INSTEAD = {  # of searching: flag -> who does it
    "status": "tuner.status:show",
    "stop": "tuner.control:stop",
    "report": "tuner.reporting:run",
    "replay": "tuner.replaying:run",
    "export": "tuner.exporting:run",
    "evaluate_run": "tuner.evaluating:run",
}


class Help(argparse.Action):
    """`--help` shows the most used flags, `--help all` every one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: Any,
        values: Any,
        option_string: Any = None,
    ) -> None:
        """Print it and leave."""
        shown = parser if values else make_parser(MOST_USED)
        shown.print_help()
        parser.exit()


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and name the nearest flag."""

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with status 2."""
        fail(message)

    def parse(self, arguments: list[str]) -> dict[str, Any]:
        """The flags that were given, by field name."""
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            fail(f"unknown flag {unknown[0]!r}{nearest(unknown[0], flags)}; see --help")
        return vars(known)


def fail(message: str) -> NoReturn:
    """One line on standard error, exit status 2."""
    print(f"kdtune: {' '.join(message.splitlines())}", file=sys.stderr)
    raise SystemExit(2)


def make_parser(groups: Mapping[str, tuple[str, ...]] = GROUPS) -> Parser:
    """The command's flags, from the fields of Settings."""
    parser = Parser(
        usage="python tune.py --method NAME [NAME ...] [flags]",
        description="Search the hyperparameters of knowledge distillation.",
        epilog='Example: python tune.py --method kd --set "temperature=loguniform(1,20)" --trials 64',
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    for title, names in groups.items():
        group = parser.add_argument_group(title)
        for name in names:
            field = Settings.model_fields[name]
            default = (
                ""
                if field.default in (None, ()) or field.default is False or field.is_required()
                else f" (default: {', '.join(field.default) if isinstance(field.default, tuple) else field.default})"
            )
            shown: dict[str, Any] = {
                "metavar": METAVARS.get(name) or choices(field) or name.upper()
            }
            shown |= REPEATED.get(name, {})
            if field.annotation is bool:
                shown = {"action": "store_true"}
            group.add_argument(
                "--" + name.replace("_", "-"),
                help=f"{field.description}{default}",
                **shown,
            )
    _add_what_else(parser)
    return parser


def _add_what_else(parser: Parser) -> None:
    """Flags that are no settings of a search."""
    other = parser.add_argument_group("instead of searching")
    other.add_argument(
        "-h",
        "--help",
        nargs="?",
        choices=("all",),
        action=Help,
        help="print this; --help all prints every flag",
    )
    other.add_argument("--plan", action="store_true", help="print what would run, and run nothing")
    other.add_argument(
        "--list", nargs="*", choices=LISTS, metavar="WHAT", help=f"print {', '.join(LISTS)} or all"
    )
    other.add_argument(
        "--resume",
        metavar="NAME",
        help="go on with an interrupted search; with --trials N, bring one to N trials in all",
    )
    other.add_argument("--status", metavar="NAME", help="print how far a search is")
    other.add_argument(
        "--stop", metavar="NAME", help="let a running search confirm what it has found so far"
    )
    other.add_argument(
        "--report",
        nargs="+",
        metavar="NAME",
        help="write a finished search's report anew; of several, a page that compares them",
    )
    other.add_argument(
        "--compare-published",
        action="store_true",
        help="with --report: published accuracies of the same networks and images beside it",
    )
    other.add_argument(
        "--replay",
        metavar="RUN_ID",
        help="train the student of an MLflow run again, and say whether it is the same",
    )
    other.add_argument(
        "--export",
        metavar="RUN_ID",
        help="write the student of an MLflow run, or a search's champion, as --format says, and check the file",
    )
    other.add_argument(
        "--format", nargs="+", metavar="FORM", help="safetensors (default), pt2, onnx, onnx-int8"
    )
    other.add_argument(
        "--evaluate-run",
        metavar="RUN_ID",
        help="measure the student of an MLflow run, or a search's champion, as --evaluate says, and tell its run",
    )
    other.add_argument(
        "--overwrite", action="store_true", help="delete the search of that --name first"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 fine, 1 nothing usable, 2 bad input, 130 or 143 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print(INTRO)
        return 0
    given = make_parser().parse(arguments)
    if "list" in given:
        from tuner.listing import print_lists

        print_lists(given["list"] or LISTS)
        return 0
    here = str(Path.cwd())  # where a user's own models and datasets lie
    sys.path += [] if here in sys.path else [here]
    try:
        return run(given)
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        from tuner import room

        if error.errno not in room.FULL:
            raise
        print(f"kdtune: {room.at_the_start(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before anything had started
        return 130


def run(given: dict[str, Any]) -> int:
    """As the flags say, in a folder or in an object store; the exit status. Raises ValueError for bad input."""
    from tuner import store

    address = store.address_of(given.get("out", Settings.model_fields["out"].default))
    if not address:
        return carry_out(given)
    place = store.Store(address)
    given["out"] = place.local
    if not given.get("plan"):
        place.probe()
        place.mark()
        named = (given.get("resume"), given.get("status"), *given.get("report", ()))
        for name in filter(None, (*named, *given.get("warm_start", ()))):
            place.fetch(name)
    if {"plan", "status", "stop", "replay", "export"} & given.keys():
        return carry_out(given)
    from tuner import addresses
    from tuner.progress import make_console

    tracked = "tracking_uri" in given or bool(addresses.default())
    say = partial(make_console().print, markup=False)
    with store.shipping(place, tracked=tracked, say=say):
        return carry_out(given)


def carry_out(given: dict[str, Any]) -> int:
    """Plan, search, go on, look or stop, as the flags say; the exit status. Raises ValueError for bad input."""
    for flag, place in INSTEAD.items():
        if flag in given:
            module, _, function = place.partition(":")
            status: int = getattr(import_module(module), function)(given.pop(flag), given)
            return status
    if "format" in given:
        raise ValueError("--format must go with --export, got it alone")
    if "compare_published" in given:
        raise ValueError("--compare-published must stand beside --report NAME, got it alone")
    from tuner import addresses, league, search

    resume = given.pop("resume", None)
    if resume:
        check_name(resume)
        known = league.is_one(resume, given)
        return league.resume(resume, given) if known else search.resume(resume, given)
    plan_only, overwrite = given.pop("plan", False), given.pop("overwrite", False)
    if "method" not in given:
        raise ValueError("--method must be given; --list methods shows them")
    if addresses.default() and "tracking_uri" not in given:
        given["tracking_uri"] = addresses.default()
    names = given.pop("method")
    if len(names) > 1 or names == ["all"]:
        return league.run(names, given, overwrite=overwrite, plan_only=plan_only)
    settings = make({**given, "method": names[0]})
    return search.show_plan(settings) if plan_only else search.run(settings, overwrite=overwrite)


if __name__ == "__main__":
    sys.exit(main())
