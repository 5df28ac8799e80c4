"""Making variables that are not there yet, from the data's shapes alone."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import tensorflow as tf

from persist_callbacks.training.variables import layers_of


def is_built(model: Any) -> bool:
    """Whether a model has its variables, as far as it can tell.

    Keras never marks one as built that has no ``call``, as a GAN may be: there its
    layers tell.

    Args:
        model: the Keras model.
    """
    if model.built or type(model).call is not keras.Model.call:
        return bool(model.built and model.variables)
    return bool(model.variables) and all(layer.built for layer in layers_of(model))


def build_model(model: Any, element_spec: Any) -> None:
    """Make a model's layers create their variables, for batches of any size.

    Args:
        model: the Keras model; nothing happens if it is built.
        element_spec: structure of ``tf.TypeSpec`` of one batch: inputs, or a tuple that
            begins with them.
    """
    if model.built and model.variables:
        return
    spec = element_spec[0] if isinstance(element_spec, tuple) else element_spec
    model(keras.tree.map_structure(_symbolic, spec))


def build_rest(model: Any, element_spec: Any) -> None:
    """Build the layers that a model has not built, though it says that it is.

    After ``build`` of a subclassed one with a shape, say: Keras does not know what its
    layers are given, and leaves them to the first step. Those that cannot be built now
    are left to that too.

    Args:
        model: the Keras model.
        element_spec: structure of ``tf.TypeSpec`` of one batch; None for an unknown.
    """
    if not model.built or element_spec is None:
        return
    if all(layer.built for layer in layers_of(model)):
        return
    spec = element_spec[0] if isinstance(element_spec, tuple) else element_spec
    # Code of the user's, which may not be made for this; the step shows what is wrong.
    with contextlib.suppress(Exception):
        model(keras.tree.map_structure(_symbolic, spec))


def build_all(model: Any, element_spec: Any) -> None:
    """Make a model, its optimizers and its metrics create their variables.

    Keras does the same before the first step under a distribution strategy; its method
    for that has no public name. A train step of the user's may drive optimizers that
    Keras does not know of, each with a part of the weights: it is traced, which makes
    all that it would make, and not run.

    Args:
        model: the compiled Keras model.
        element_spec: structure of ``tf.TypeSpec`` of one batch of ``fit``'s data.
    """
    # One that is to run eagerly need not be fit to be traced.
    if type(model).train_step is not keras.Model.train_step and not model.run_eagerly:
        _trace_train_step(model, element_spec)
        return
    build_model(model, element_spec)
    model._symbolic_build(data_batch=element_spec)


def _trace_train_step(model: Any, element_spec: Any) -> None:
    """Trace a train step as fit's train function would, which itself stays untraced.

    That is done after the begin hooks of the first epoch, which may change the model.
    """

    def step(batch: Any) -> None:
        # What a batch lacks comes as one of these, and Keras makes it None too.
        batch = keras.tree.map_structure(
            lambda part: None if isinstance(part, tf.experimental.Optional) else part,
            batch,
        )
        model.distribute_strategy.run(model.train_step, args=(batch,))

    tf.function(step, autograph=False).get_concrete_function(element_spec)


def unknown_inputs(model: Any, element_spec: Any) -> Any:
    """Describe what a model takes by what it is fed, where it does not know itself.

    Args:
        model: the Keras model; a subclassed one does not know its inputs.
        element_spec: structure of ``tf.TypeSpec`` of one batch: inputs, or a tuple that
            begins with them.

    Returns:
        A structure of ``tf.TensorSpec`` with open batch sizes; None for a model that
        knows its inputs.
    """
    if getattr(model, "inputs", None):
        return None
    spec = element_spec[0] if isinstance(element_spec, tuple) else element_spec
    return keras.tree.map_structure(
        lambda leaf: tf.TensorSpec(_for_any_batch(leaf.shape), leaf.dtype), spec
    )


def _for_any_batch(shape: tf.TensorShape) -> list[int | None] | None:
    return None if shape.rank is None else [None, *shape[1:]]


def _symbolic(spec: Any) -> Any:
    return keras.KerasTensor((None, *spec.shape[1:]), dtype=spec.dtype.name)
