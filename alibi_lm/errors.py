"""Mistakes of users. Scripts print them as plain lines and exit with status 2."""


class UserError(Exception):
    """A mistake that the user can correct; the message says what was given and what is allowed."""


class NonfiniteError(UserError):
    """The loss or gradient is NaN or infinite; all processes see it at the same step."""


class SettingsError(UserError):
    """One or more impossible settings; one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["SettingsError"], tuple[list[str]]]:
        return type(self), (self.problems,)  # worker processes send their errors home
