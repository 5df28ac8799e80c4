"""Making variables that are not there yet, from the data's shapes alone."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import tensorflow as tf

from persist_callbacks.training.variables import layers_of


def build_sequential(model: Any, element_spec: Any) -> None:
    """Build a Sequential without Input for batches of any size.

    Keras would build it for batches of the first one's size, which its graph would then
    be bound to.

    Args:
        model: the Keras model; nothing happens if it is another, or built.
        element_spec: structure of ``tf.TypeSpec`` of one batch.
    """
    if isinstance(model, keras.Sequential) and not model.built:
        build_model(model, element_spec)


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
    """Make a model, its optimizer and its compiled metrics create their variables.

    Keras does the same before the first step under a distribution strategy; its method
    for that has no public name.

    Args:
        model: the compiled Keras model.
        element_spec: structure of ``tf.TypeSpec`` of one batch of ``fit``'s data.
    """
    build_model(model, element_spec)
    model._symbolic_build(data_batch=element_spec)


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
        lambda leaf: tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype), spec
    )


def _symbolic(spec: Any) -> Any:
    return keras.KerasTensor((None, *spec.shape[1:]), dtype=spec.dtype.name)
