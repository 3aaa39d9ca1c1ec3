"""The one error of this package that a user can cause and mend."""


class ModelError(ValueError):
    """A network, its arguments, its input or its weights are not what was asked for. The message says what to do."""
