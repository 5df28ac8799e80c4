"""The only place that speaks TensorFlow's CKPT format (``tensor_bundle``).

TensorFlow is imported inside the functions: the rest of the room must answer in a
process that never loads it. Nothing here is synced to disk; `store` does that.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from persist_callbacks.errors import CheckpointDamaged, SaveFailed, TensorNotFound
from persist_callbacks.records import TensorInfo
from persist_callbacks.storage import bundle_index

OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"

# Object-based restore reads a variable under no other key than one that ends so.
OBJECT_KEY_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"

_GO_BACK = "Resume from an earlier checkpoint, or restore this one from a copy."


def write(
    prefix: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    *,
    further_keys: Mapping[str, str] | None = None,
) -> None:
    """Write tensors as a CKPT with one data shard; runs on any thread.

    The GIL is released while it writes. On return the files are complete but not
    synced, and nothing here refers to the tensors any more.

    Args:
        prefix: path of the files without ``.index``; the folder exists.
        tensors: eager tensors or arrays by key, of any dtype, string and variant
            included; at least one.
        further_keys: keys under which tensors can be read too, to their first keys.

    Raises:
        SaveFailed: TensorFlow could not write; its error is the cause.
    """
    import tensorflow as tf

    try:
        # The kernel runs on the CPU only; elsewhere the runtime copies to it.
        with tf.device("/CPU:0"):
            tf.raw_ops.SaveV2(
                prefix=os.fspath(prefix),
                tensor_names=list(tensors),
                shape_and_slices=[""] * len(tensors),
                tensors=[tf.convert_to_tensor(value) for value in tensors.values()],
            )
        if further_keys:
            bundle_index.add_names(Path(f"{os.fspath(prefix)}.index"), further_keys)
    except (tf.errors.OpError, OSError) as error:
        reason = getattr(error, "message", None) or str(error)
        raise SaveFailed(
            os.fspath(prefix),
            expected="to write a checkpoint",
            found=f"{type(error).__name__}: {reason}",
            advice="Check that the disk has space and the folder can be written.",
        ) from error


def read(prefix: str | os.PathLike[str], keys: Sequence[str]) -> dict[str, Any]:
    """Read some tensors of a CKPT.

    Args:
        prefix: path of the files without ``.index``.
        keys: which to read.

    Returns:
        An eager CPU tensor for each key, with the dtype and shape that it was saved
        with.

    Raises:
        TensorNotFound: the CKPT has no tensor of that key.
        CheckpointDamaged: its files are missing, cut or changed.
    """
    import tensorflow as tf

    dtypes = _open(prefix).get_variable_to_dtype_map()
    for key in keys:
        if key not in dtypes:
            near = difflib.get_close_matches(key, dtypes, n=3, cutoff=0.4)
            raise TensorNotFound(
                f"{_short(prefix)}: {key!r}",
                expected="a tensor of that key",
                found=f"{len(dtypes)} others",
                advice=f"Nearest: {', '.join(near)}." if near else "None is near.",
            )
    if not keys:
        return {}
    try:
        with tf.device("/CPU:0"):
            values = tf.raw_ops.RestoreV2(
                prefix=os.fspath(prefix),
                tensor_names=list(keys),
                shape_and_slices=[""] * len(keys),
                dtypes=[dtypes[key] for key in keys],
            )
    except (tf.errors.OpError, IndexError, ValueError) as error:
        raise _damaged(f"{_short(prefix)}.data", error) from error
    return dict(zip(keys, values, strict=True))


def variables(prefix: str | os.PathLike[str]) -> tuple[TensorInfo, ...]:
    """List what a CKPT holds.

    TensorFlow's own object graph and the keys that it reads are left out.

    Returns:
        Name, shape and dtype of each tensor, sorted by name.

    Raises:
        CheckpointDamaged: the index is missing or cannot be read.
    """
    reader = _open(prefix)
    shapes = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
    return tuple(
        TensorInfo(name, tuple(shapes[name]), dtypes[name].name)
        for name in sorted(shapes)
        if name != OBJECT_GRAPH_KEY
        and name.removesuffix(OBJECT_KEY_SUFFIX) not in shapes.keys() - {name}
    )


def latest_prefix(folder: str | os.PathLike[str]) -> str | None:
    """Prefix of the newest CKPT of a folder according to TensorFlow's own file.

    That file often names absolute paths of the machine that wrote it; where such a
    path leads nowhere, the same name in this folder is taken.

    Returns:
        None where there is no ``checkpoint`` file, or what it names is not there.
    """
    import tensorflow as tf

    base = Path(folder)
    try:
        state = tf.train.get_checkpoint_state(os.fspath(base))
    except ValueError:
        # TensorFlow's answer to a file that names no path.
        return None
    if state is None:
        return None
    named = Path(state.model_checkpoint_path)
    candidates = (named, base / named.parent.name / named.name, base / named.name)
    for candidate in candidates:
        # The format of TensorFlow before 1.0 is one file of the prefix's own name.
        index = candidate.with_name(f"{candidate.name}.index")
        if index.is_file() or candidate.is_file():
            return os.fspath(candidate)
    return None


def _open(prefix: str | os.PathLike[str]) -> Any:
    import tensorflow as tf

    try:
        return tf.train.load_checkpoint(os.fspath(prefix))
    # Which of these it is depends on the kind of damage and on TensorFlow's version.
    except (tf.errors.OpError, IndexError, ValueError, RuntimeError) as error:
        raise _damaged(f"{_short(prefix)}.index", error) from error


def _damaged(where: str, error: Exception) -> CheckpointDamaged:
    reason = str(getattr(error, "message", error)).strip().splitlines() or [""]
    return CheckpointDamaged(
        where,
        expected="readable checkpoint data",
        found=f"{type(error).__name__}: {reason[0]}",
        advice=_GO_BACK,
    )


def _short(prefix: str | os.PathLike[str]) -> str:
    path = Path(prefix)
    return f"{path.parent.name}/{path.name}"
