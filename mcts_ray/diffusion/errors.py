"""What can be wrong with a model or its scheduler, each a `ValueError` whose message is one sentence for the user."""


class ModelNotFound(ValueError):
    """The name leads to no model that can be read from here."""


class UnsupportedModel(ValueError):
    """The model was found, and is of a kind that this project does not run."""


class UnsupportedScheduler(ValueError):
    """No levels can be read from this scheduler."""


class ClippingRefused(UnsupportedScheduler):
    """`clip_sample` or `thresholding` is on: x0 would be changed after the network, and no jump would be exact."""

    def __init__(self, scheduler: str, option: str):
        super().__init__(
            f"the scheduler {scheduler} has {option}=true, which clips latents; "
            f"set {option} to false in scheduler/scheduler_config.json"
        )
        self._arguments = scheduler, option

    def __reduce__(self):
        return type(self), self._arguments
