"""What a user can get wrong. Scripts print these as plain lines and exit with status 2."""


class UserError(Exception):
    """A mistake that the user can mend; the message says what was given and what is allowed."""


class NonfiniteError(UserError):
    """A training whose loss or gradient is no number; every process sees it at the same step."""


class SettingsError(UserError):
    """One or more settings that cannot be; one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["SettingsError"], tuple[list[str]]]:
        return type(self), (self.problems,)  # worker processes send their errors home
