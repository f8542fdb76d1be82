"""The one error of the kernel wrappers; `kernels` may not import `engine`."""


class KernelArgumentError(ValueError):
    """An argument of a kernel wrapper breaks its rule; the hint says what to do about it."""

    def __init__(self, argument: str, rule: str, value: object, hint: str = "") -> None:
        self.argument, self.rule, self.value, self.hint = argument, rule, value, hint
        received = value if isinstance(value, str) else repr(value)
        super().__init__(f"{argument} {rule}; received {received}" + (f" ({hint})" if hint else ""))
