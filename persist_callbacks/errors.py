"""Every failure that persist_callbacks reports, one class a failure.

Each message is built from the same four parts, so that no caller can leave one out:
where (a path or an argument), what was expected, what was found, and what to do.
"""

from __future__ import annotations


class PersistError(Exception):
    """Base of all errors raised by persist_callbacks.

    Args:
        where: the path, argument or name that the failure is about.
        expected: what should have been there.
        found: what was there instead.
        advice: what the user can do now.
    """

    def __init__(
        self, where: object, *, expected: str, found: str, advice: str
    ) -> None:
        self.where = str(where)
        self.expected = expected
        self.found = found
        self.advice = advice
        super().__init__(f"{self.where}: expected {expected}, found {found}. {advice}")

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process and thread boundaries; keyword-only arguments do not
        # survive the default way of copying an exception.
        return (
            _rebuild,
            (type(self), self.where, self.expected, self.found, self.advice),
        )


def _rebuild(
    kind: type[PersistError], where: str, expected: str, found: str, advice: str
) -> PersistError:
    return kind(where, expected=expected, found=found, advice=advice)


class BackendError(PersistError):
    """Keras runs on another backend than TensorFlow, or TensorFlow is missing."""


class ArgumentError(PersistError, ValueError):
    """An argument has a value that the function does not take."""


class DirectoryNotWritable(PersistError):
    """The run directory cannot be created or written."""


class UnreadableFile(PersistError):
    """A file beside the checkpoints is there and cannot be read."""


class NotARunDirectory(PersistError):
    """The directory is there, but it holds something else than a run."""


class RunLocked(PersistError):
    """Another live process writes to this run directory."""


class NothingToResume(PersistError):
    """A checkpoint was demanded and the run directory has none."""


class UnexpectedRun(PersistError):
    """A fresh start was demanded and the run directory already holds checkpoints."""


class CheckpointNotFound(PersistError):
    """No checkpoint is there under the given path, step or name."""


class CheckpointDamaged(PersistError):
    """A checkpoint's files are not what its manifest says."""


class CheckpointUnreadable(CheckpointDamaged):
    """The system does not let a checkpoint be read, which says nothing against it."""


class NoSoundCheckpoint(PersistError):
    """The run has checkpoints, and none of them is sound."""


class ForeignCheckpoint(PersistError):
    """A checkpoint belongs to another run and is not this one's to change."""


class FormatTooNew(PersistError):
    """A file was written by a newer persist_callbacks than this one."""


class SaveFailed(PersistError):
    """A checkpoint could not be written; the cause is chained."""


class ModelNotBuilt(PersistError):
    """A model or an optimizer has no variables yet, and nothing says of what size."""


class ModelNotCompiled(PersistError):
    """The model holds no optimizer, to be saved and restored into."""


class ArchitectureMismatch(PersistError):
    """The checkpoint belongs to a model or optimizer of another structure."""


class DataMismatch(PersistError):
    """The data given to fit is not the data that the checkpoint was made with."""


class NotAFrozenGraph(PersistError):
    """A file was to be read as a frozen PB and is not one."""


class TensorNotFound(PersistError):
    """An input or output name does not exist in the graph."""


class UnsupportedGraph(PersistError):
    """The inference graph holds something that cannot become a constant."""


class InputMismatch(PersistError):
    """An array handed to a frozen graph has the wrong name, shape or dtype."""


class VerificationFailed(PersistError):
    """The frozen graph's outputs differ from the live model's beyond tolerance."""


class PersistWarning(UserWarning):
    """Something went wrong that training can go on without."""


class PoisonedWeights(PersistError):
    """Weights are NaN or infinite: nothing that training should go on from."""


class RunNotActive(PersistError):
    """No process trains the run, or it does not answer."""
