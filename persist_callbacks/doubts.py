"""What a resume of a run may not bring back, and how the user is told of it.

A doubt is a sentence for the run's output, on what may be exact or not; a warning is
for what is lost. Each is given once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

from persist_callbacks.errors import PersistWarning
from persist_callbacks.saving import first_few
from persist_callbacks.training import callback_state
from persist_callbacks.training.fit_data import FitData
from persist_callbacks.training.fit_loop import FitLoop, UnsavedOps
from persist_callbacks.training.stray_variables import StrayVariables


class Doubts:
    """Looks at callbacks, data and traced functions for state that is not saved.

    Args:
        model: the Keras model.
        callbacks: gives those whose state is saved.
        loop: the loop that trains the model.
    """

    def __init__(
        self, model: Any, callbacks: Callable[[], list[Any]], loop: FitLoop
    ) -> None:
        self._model = model
        self._callbacks = callbacks
        self._loop = loop
        self._forgotten = callback_state.ForgottenState(())
        self._stray = StrayVariables()
        self._train_told = self._test_told = self._length_told = False

    def training_begins(self) -> None:
        """Note what the callbacks hold, after all of them have reset themselves."""
        self._forgotten = callback_state.ForgottenState(self._callbacks())

    def watch_steps(self) -> None:
        """Note what train steps use beside the model, once they are traced."""
        kept = callback_state.ids_of_kept(self._callbacks())
        self._stray = StrayVariables(
            self._loop.variables_of_steps(),
            callback_state.ids_of_saved(self._model) | kept,
        )

    def let_go(self) -> None:
        """Hold none of the run's objects any more."""
        self._forgotten = callback_state.ForgottenState(())
        self._stray = StrayVariables()

    def about(self, data: FitData) -> list[str]:
        """Say what of the data and the callbacks may not go on as without a stop."""
        doubts = list(data.doubts())
        held = callback_state.reshuffling(self._callbacks())
        if held:
            doubts.append(
                f"callbacks hold data that reshuffle ({', '.join(held)}), and whose "
                "orders begin again on resume: exact if the callbacks do not go "
                "through them, or make them anew each time"
            )
        drawn = callback_state.iterators(self._callbacks())
        if drawn:
            doubts.append(
                f"callbacks hold iterators ({', '.join(drawn)}), which begin again on "
                "resume: exact if the callbacks do not draw from them, or make them "
                "anew each epoch"
            )
        return doubts

    def about_train_steps(self) -> list[str]:
        """Say what no checkpoint can hold of a step, once the function is traced."""
        if self._train_told:
            return []
        unsaved = self._loop.unsaved_ops()
        self._train_told = unsaved != UnsavedOps()
        return _about("train", unsaved)

    def about_test_steps(self) -> list[str]:
        """Say it of a step of a validation, once one was traced."""
        if self._test_told or not (unsaved := self._loop.unsaved_test_ops()):
            return []
        self._test_told = True
        return _about("test", unsaved)

    def about_length(self, data: FitData, batches: int) -> list[str]:
        """Say that a resumed run leaves out what its data have more of.

        Args:
            data: what the model is trained on.
            batches: of it that the epoch which ends has gone through.
        """
        known = data.learnt_length
        if self._length_told or known is None or batches < known:
            return []
        self._length_told = True
        return [
            f"an epoch ends after {known} batches, as fit has learnt from an earlier "
            "one, and the data have more than that had: if they have grown, give them "
            "their length by tf.data.experimental.assert_cardinality, or fit "
            "steps_per_epoch"
        ]

    def warn_of_unsaved(self, data: Iterable[FitData]) -> None:
        """Warn of what has changed since training began and is not saved.

        Args:
            data: the training's and the validation's.
        """
        names = self._forgotten.found()
        if names:
            warnings.warn(
                f"The state of these callbacks is not saved: {', '.join(names)}. Give "
                "them get_state() and set_state(state), with values that JSON can "
                "hold.",
                PersistWarning,
                stacklevel=2,
            )
        stray = self._stray.found()
        if stray:
            warnings.warn(
                "A train step uses variables that change and are not saved, since "
                f"nothing of the model holds them: {first_few(stray)}. Make them, or "
                "what has them, attributes of the model; what a callback sets by the "
                "epoch's number alone may stay.",
                PersistWarning,
                stacklevel=2,
            )
        found = {name for each in data for name in each.forgotten()}
        if found:
            warnings.warn(
                "The state of these attributes of the data is not saved: "
                f"{', '.join(sorted(found))}. Give the data get_state() and "
                "set_state(state), with values that JSON can hold.",
                PersistWarning,
                stacklevel=2,
            )


def _about(kind: Literal["train", "test"], unsaved: UnsavedOps) -> list[str]:
    if unsaved.changing:
        warnings.warn(
            f"A {kind} step changes a lookup table or a queue "
            f"({', '.join(unsaved.changing)}), whose content is not saved: keep "
            "what training changes in variables.",
            PersistWarning,
            stacklevel=2,
        )
    if unsaved.iterates:
        warnings.warn(
            f"A {kind} step draws from an iterator of its own, whose place is not "
            "saved: zip its data with those that are given to fit.",
            PersistWarning,
            stacklevel=2,
        )
    if not unsaved.drawing:
        return []
    return [
        f"a {kind} step draws random numbers by ops whose place no checkpoint can "
        f"hold ({', '.join(unsaved.drawing)}), so that it draws others than "
        "without a stop: draw by keras.random with a keras.random.SeedGenerator, "
        "or by a tf.random.Generator"
    ]
