"""The errors a user can meet. Each is one clear line; the command line maps them to exit codes."""

INTERRUPTED = 130  # exit code of what Ctrl-C ended, with what was produced


class ForetokenError(Exception):
    """Base of every error that foretoken raises on purpose. `exit_code` is the CLI's answer."""

    exit_code = 1


class ConfigError(ForetokenError):
    """A field has a value that is not accepted: names the field, the value and what is accepted."""

    exit_code = 2

    def __init__(self, field: str, value: object, accepted: str) -> None:
        self.field, self.value, self.accepted = field, value, accepted
        super().__init__(f"{field}: {value!r} is not accepted; {accepted}")


class CapabilityError(ForetokenError):
    """Two parts that cannot work together, refused before any work; both are named."""

    exit_code = 2


class PeerError(ForetokenError):
    """Another engine could not be installed or opened, or failed."""


class NoTokenLeftError(ForetokenError):
    """A row of which the processors ban every token: nothing can be drawn from it."""


class ArtifactError(ForetokenError):
    """A file that is corrupt, truncated, of another version, or made for another tokenizer."""

    exit_code = 2


def first_line(error: BaseException) -> str:
    """What a library's error says first, for a message of one line; its name if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
