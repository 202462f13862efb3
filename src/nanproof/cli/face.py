"""The face: where a verb's answer, its progress and its errors go, in words or as JSON."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanproof.errors import NanproofError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["INTERRUPTED", "Answer", "Face"]

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
_NOBODY_LISTENS = 141
"""128 + SIGPIPE."""
_UNEXPECTED = 3
"""Nothing was checked, whatever it was."""
_HEAVY = ("torch", "coremltools", "numpy")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb has to say.

    Attributes:
        kind: Kind of the JSON document.
        data: Its content.
        show: Prints the same for people.
        exit_code: Exit code of the command.
    """

    kind: str
    data: Mapping[str, Any]
    show: Callable[[Console], None]
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Face:
    """How the user wants to be spoken to."""

    json: bool = False
    quiet: bool = False
    debug: bool = False

    @classmethod
    def of(cls, args: Sequence[str]) -> Face:
        """The face that arguments ask for, if they could not be parsed."""
        return cls("--json" in args, "--quiet" in args or "-q" in args, "--debug" in args)

    def run(self, verb: Callable[[], Answer]) -> int:
        """Run a verb, print its answer or its error, and return the exit code."""
        try:
            with self._stdout_kept_clean():
                answer = verb()
        except KeyboardInterrupt:
            return self.refuse("KeyboardInterrupt", "Interrupted. No output was left half-written.", INTERRUPTED)
        except NanproofError as error:
            self._trace()
            return self.refuse(type(error).__name__, str(error), error.exit_code)
        except Exception as error:  # the last resort of a command line: whatever it is, the user gets a sentence
            self._trace()
            return self.refuse(type(error).__name__, self._unexpected(error), _UNEXPECTED)
        try:
            self._answer(answer)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (`| head`) has left. What is still in the buffer must not fail once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _NOBODY_LISTENS
        return answer.exit_code

    def refuse(self, kind: str, message: str, exit_code: int) -> int:
        """Print an error and return its exit code."""
        if self.json:
            from nanproof.report.encoding import document

            error = {"type": kind, "message": message}
            sys.stdout.write(document("error", {"error": error, "exit_code": exit_code}) + "\n")
            return exit_code
        from rich.text import Text

        console = self.console(stderr=True)
        width = console.width if console.is_terminal else None
        console.print(Text.assemble(("error: ", "bold red"), wrapped(message, width)), soft_wrap=True)
        return exit_code

    @contextlib.contextmanager
    def progress(self, title: str) -> Generator[Callable[[str], None]]:
        """Show the present stage on stderr while something long runs; nothing if nobody looks at it."""
        console = self.console(stderr=True)
        if self.quiet or not console.is_terminal:
            yield lambda stage: None
            return
        with console.status(title) as status:
            yield lambda stage: status.update(f"{title}: {stage}")

    def console(self, *, stderr: bool = False) -> Console:
        """A console that prints text as it is: names of ops and files are no markup."""
        from rich.console import Console

        return Console(file=sys.stderr if stderr else sys.stdout, markup=False, highlight=False, emoji=False)

    def _answer(self, answer: Answer) -> None:
        if self.json:
            from nanproof.report.encoding import document

            sys.stdout.write(document(answer.kind, answer.data) + "\n")
        elif not self.quiet:
            console = self.console()
            if console.is_terminal:
                answer.show(console)
                return
            with console.capture() as printed:  # tables are padded with spaces, which a file or a pipe need not carry
                answer.show(console)
            sys.stdout.write("".join(f"{line.rstrip()}\n" for line in printed.get().splitlines()))

    @contextlib.contextmanager
    def _stdout_kept_clean(self) -> Generator[None]:
        """With ``--json``, whatever the user's model prints goes to stderr."""
        with contextlib.redirect_stdout(sys.stderr) if self.json else contextlib.nullcontext():
            yield

    def _trace(self) -> None:
        if self.debug:
            traceback.print_exc(file=sys.stderr)

    def _unexpected(self, error: Exception) -> str:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _HEAVY:
            return (
                f"The package '{error.name}' is missing, so nothing was checked. `nanproof doctor` says how to mend it."
            )
        hint = "" if self.debug else " `--debug` shows where it happened."
        return (
            f"Something unexpected happened, so nothing was checked: {type(error).__name__}: {error}\n"
            f"  This is a fault of nanproof: please report it, with the command and the model.{hint}"
        )


def wrapped(message: str, width: int | None) -> str:
    r"""A message with each of its lines wrapped at words, or as it is where no width is given.

    >>> print(wrapped("One two three four.\n  Five six seven eight.", 20))
    One two three
    four.
      Five six seven
      eight.
    """
    if width is None:
        return message
    lines: list[str] = []
    for line in message.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        # Seven columns are taken by "error: " before the first line.
        first = indent if lines else " " * 7
        parts = textwrap.wrap(
            line.strip(),
            max(width, 20),
            initial_indent=first,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        if not lines and parts:
            parts[0] = parts[0][7:]
        lines += parts or [""]
    return "\n".join(lines)
