"""The only place that speaks TensorFlow's CKPT format (``tensor_bundle``).

TensorFlow is imported inside the functions: the rest of the room must answer in a
process that never loads it. Nothing here is synced to disk; `store` does that.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import struct
import tempfile
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from persist_callbacks.errors import CheckpointDamaged, SaveFailed, TensorNotFound
from persist_callbacks.records import TensorInfo
from persist_callbacks.storage import (
    bundle_index,
    durable,
    odd_tensors,
    shards,
    sharing,
)
from persist_callbacks.storage.checkpoint_files import GO_BACK
from persist_callbacks.storage.layout import INDEX, LARGEST
from persist_callbacks.storage.reading import read_plain
from persist_callbacks.storage.shards import Extent, Look, Shard, ShardWriter
from persist_callbacks.storage.sharing import Part, Written

OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"

# Object-based restore reads a variable under no other key than one that ends so.
OBJECT_KEY_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"

# Tensors that are read in one go where all are to be read.
_AT_ONCE = 8

_MAX_CHECKPOINT_FILE = 2**24

# Bytes of an entry in the index, its key aside.
_ENTRY = 64

# A shard of the format before TensorFlow 1.0, or the name that stands for all of them.
_OLD_SHARD = re.compile(r"(.+)(?<!\.data)-(?:\d{5}|\?{5})-of-(\d{5})")

# What makes TensorFlow take a path for a pattern.
_PATTERN = re.compile(r"[*?\[\\]")

# What TensorFlow says of its own kernels around what went wrong.
_KERNEL = re.compile(r"\{\{function_node [^}]*\}\} ?| \[Op:\w+\]")


def write(
    prefix: str | os.PathLike[str],
    tensors: MutableMapping[str, Any],
    *,
    further_keys: Mapping[str, str] | None = None,
    before: Written | None = None,
    frozen: Collection[str] = (),
    look: Look | None = None,
) -> Written:
    """Write tensors as a CKPT; runs on any thread.

    The GIL is free while it writes. Each tensor is let go of as soon as its bytes are
    with the system: an update of its variable then pays for no copy. On return the
    files are complete but not synced.

    Args:
        prefix: path of the files without ``.index``; the folder exists.
        tensors: eager tensors or arrays by key, of any dtype, string and variant
            included; at least one. Those that are written are taken out.
        further_keys: keys under which tensors can be read too, to their first keys.
        before: what was written last; files of it are shared where nothing in them has
            changed.
        frozen: keys of what is not expected to change.
        look: is shown each block of a plain tensor that is written; what it raises ends
            the writing.

    Returns:
        What was written, for the next time.

    Raises:
        SaveFailed: it could not be written.
    """
    import tensorflow as tf

    try:
        return _write(Path(prefix), tensors, further_keys or {}, before, frozen, look)
    except (tf.errors.OpError, OSError) as error:
        said = getattr(error, "message", None) or getattr(error, "strerror", None)
        reason = said or str(error)
        raise SaveFailed(
            os.fspath(prefix),
            expected="to write a checkpoint",
            found=f"{type(error).__name__}: {reason}",
            advice="Check that the disk has space and the folder can be written.",
        ) from error


def _write(
    prefix: Path,
    tensors: MutableMapping[str, Any],
    further_keys: Mapping[str, str],
    before: Written | None,
    frozen: Collection[str],
    look: Look | None,
) -> Written:
    plan = sharing.plan(tensors, before, frozen)
    # As few files as there can be, and no fewer than one.
    groups = [(plan.settled, True)] if plan.settled else []
    if plan.moving or plan.odd or not (plan.settled or plan.linked):
        groups.insert(0, (plan.moving, False))
    count = len(groups) + len(plan.linked)

    def name(number: int) -> str:
        return f"{prefix.name}.data-{number:05d}-of-{count:05d}"

    parts, linked = [], 0
    for number, part in enumerate(plan.linked, len(groups)):
        path = prefix.with_name(name(number))
        assert before is not None
        if sharing.link(before.folder / part.name, part.stamp, path):
            for key in part.shard.extents:
                tensors.pop(key)
            shard = part.shard
            linked += shard.size
        else:
            shard = _write_shard(path, tuple(part.shard.extents), tensors, look)
        parts.append(Part(path.name, shard, sharing.stamp_of(path), settled=True))
    last = {} if before is None else before.extents()
    written = []
    for number, (keys, settled) in enumerate(groups):
        path = prefix.with_name(name(number))
        odd = {} if settled else {key: last.get(key) for key in plan.odd}
        shard = _write_shard(path, keys, tensors, look, odd)
        written.append(Part(path.name, shard, sharing.stamp_of(path), settled))
    parts = written + parts
    bundle_index.write(
        prefix.with_name(f"{prefix.name}.index"), _entries(parts, further_keys)
    )
    now = {key: extent for part in parts for key, extent in part.shard.extents.items()}
    resting = sharing.resting(before, now)
    restless = sharing.calmed(plan.restless, resting)
    return Written(prefix.parent, tuple(parts), resting, restless, linked)


def _write_shard(
    path: Path,
    keys: Sequence[str],
    tensors: MutableMapping[str, Any],
    look: Look | None,
    odd: Mapping[str, Extent | None] | None = None,
) -> Shard:
    expected = sum(shards.size_of(tensors[key]) for key in keys)
    with ShardWriter(path, expected, look) as writer:
        for key in keys:
            writer.add(key, tensors.pop(key))
        other = {}
        for key, last in (odd or {}).items():
            value = tensors.pop(key)
            found = odd_tensors.encoded(value, last)
            if found is None:
                other[key] = value
            else:
                writer.add_encoded(key, value, *found)
        if other:
            _add_other(writer, path.with_suffix(".other"), other)
        return writer.shard()


def _add_other(writer: ShardWriter, prefix: Path, tensors: Mapping[str, Any]) -> None:
    """Take over what is left to TensorFlow: large, or numbers of less than a byte."""
    import tensorflow as tf

    # The kernel runs on the CPU only; elsewhere the runtime copies to it.
    with tf.device("/CPU:0"):
        tf.raw_ops.SaveV2(
            prefix=os.fspath(prefix),
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=[tf.convert_to_tensor(value) for value in tensors.values()],
        )
    index = prefix.with_name(f"{prefix.name}.index")
    data = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    extents = bundle_index.extents(index.read_bytes())
    writer.add_file(data, extents)
    durable.drop_file(index)
    durable.drop_file(data)


def _entries(
    parts: Sequence[Part], further_keys: Mapping[str, str]
) -> dict[bytes, bytes]:
    """Make the content of an index."""
    found = bundle_index.serialized([part.shard.extents for part in parts])
    for further, key in further_keys.items():
        if key.encode() not in found:
            raise ValueError(f"{further!r}: no tensor {key!r}")
        found[further.encode()] = found[key.encode()]
    return found


def expected_size(tensors: Mapping[str, Any]) -> int:
    """Estimate the bytes that `write` takes: exact for the numbers, near for the rest.

    Args:
        tensors: as for `write`; what has no fixed size counts as little.
    """
    import numpy as np

    size = 0
    for key, value in tensors.items():
        # Its entry in the index, which it may have under two names.
        size += 2 * (len(key) + _ENTRY)
        if value.dtype.name in ("string", "object"):
            size += sum(
                len(text) for text in np.ravel(value) if isinstance(text, bytes)
            )
        else:
            # NumPy's name for it, and TensorFlow's, which has 0 for a variant.
            each = getattr(value.dtype, "itemsize", None) or value.dtype.size
            size += int(each) * math.prod(value.shape)
    return size


def read(prefix: str | os.PathLike[str], keys: Sequence[str]) -> dict[str, Any]:
    """Read some tensors of a CKPT.

    Args:
        prefix: path of the files without ``.index``.
        keys: which to read.

    Returns:
        An eager CPU tensor for each key, with the dtype and shape that it was saved
        with; where TensorFlow does not execute eagerly, an array.

    Raises:
        TensorNotFound: the CKPT has no tensor of that key.
        CheckpointDamaged: its files are missing, cut or changed.
    """
    check_index(prefix)
    with _opened(prefix) as (reader, alias):
        dtypes = reader.get_variable_to_dtype_map()
        for key in keys:
            if key not in dtypes:
                near = difflib.get_close_matches(key, dtypes, n=3, cutoff=0.4)
                raise TensorNotFound(
                    f"{_short(prefix)}: {key!r}",
                    expected="a tensor of that key",
                    found=f"no such tensor among {len(dtypes)}",
                    advice=f"Nearest: {', '.join(near)}." if near else "None is near.",
                )
        return _values(prefix, reader, alias, {key: dtypes[key] for key in keys})


def _values(
    prefix: str | os.PathLike[str], reader: Any, alias: str, dtypes: Mapping[str, Any]
) -> dict[str, Any]:
    import tensorflow as tf

    if not dtypes:
        return {}
    try:
        if not tf.executing_eagerly():
            # In a script of TensorFlow 1's ways, an op would only promise the values.
            return {key: reader.get_tensor(key) for key in dtypes}
        with tf.device("/CPU:0"):
            values = tf.raw_ops.RestoreV2(
                prefix=alias,
                tensor_names=list(dtypes),
                shape_and_slices=[""] * len(dtypes),
                dtypes=list(dtypes.values()),
            )
    except (tf.errors.OpError, IndexError, ValueError, RuntimeError) as error:
        raise _damaged(f"{_short(prefix)}.data", error) from error
    return dict(zip(dtypes, values, strict=True))


def scan(prefix: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """Read every tensor of a CKPT, and so check its checksum, a few at a time.

    TensorFlow's own are among them; a second key of a tensor is left out.

    Yields:
        Key and eager CPU tensor.

    Raises:
        CheckpointDamaged: the files are missing, cut or changed.
    """
    check_index(prefix)
    try:
        index = read_plain(Path(f"{os.fspath(prefix)}.index"), limit=LARGEST[INDEX])
    except OSError as error:
        # Pruned since that look, maybe.
        raise _damaged(f"{_short(prefix)}.index", error) from error
    first: dict[bytes, str] = {}
    for key, entry in bundle_index.entries(index).items():
        name = key.decode(errors="replace")
        # Ours is the shorter one of the two.
        if key and len(first.get(entry, name)) >= len(name):
            first[entry] = name
    names = sorted(first.values())
    for begin in range(0, len(names), _AT_ONCE):
        yield from read(prefix, names[begin : begin + _AT_ONCE]).items()


def is_finite(value: Any) -> bool:
    """Whether no number of a tensor is NaN or infinite; what holds none passes."""
    import tensorflow as tf

    if not (value.dtype.is_floating or value.dtype.is_complex):
        return True
    if value.dtype.is_complex:
        return is_finite(tf.math.real(value)) and is_finite(tf.math.imag(value))
    if value.dtype.size < 2:
        # The kernel does not know the eight-bit ones.
        value = tf.cast(value, tf.float32)
    return bool(tf.reduce_all(tf.math.is_finite(value)))


def variables(prefix: str | os.PathLike[str]) -> tuple[TensorInfo, ...]:
    """List what a CKPT holds.

    TensorFlow's own object graph and the keys that it reads are left out.

    Returns:
        Name, shape and dtype of each tensor, sorted by name.

    Raises:
        CheckpointDamaged: the index is missing or cannot be read.
    """
    check_index(prefix)
    with _opened(prefix) as (reader, _):
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
    return tuple(
        TensorInfo(name, tuple(shapes[name]), dtypes[name].name)
        for name in sorted(shapes)
        if name != OBJECT_GRAPH_KEY
        and name.removesuffix(OBJECT_KEY_SUFFIX) not in shapes.keys() - {name}
    )


def is_object_based(prefix: str | os.PathLike[str]) -> bool:
    """Whether a CKPT was written by objects, as Keras' are, and not by names alone.

    Raises:
        CheckpointDamaged: the index is missing or cannot be read.
    """
    check_index(prefix)
    with _opened(prefix) as (reader, _):
        return bool(reader.has_tensor(OBJECT_GRAPH_KEY))


def latest_prefix(folder: str | os.PathLike[str]) -> str | None:
    """Prefix of the newest CKPT of a folder according to TensorFlow's own file.

    That file often names absolute paths of the machine that wrote it; where such a
    path leads nowhere or out of the folder, the same name in this folder is taken.

    Returns:
        None where there is no ``checkpoint`` file, or what it names is not there.
    """
    import tensorflow as tf

    base = Path(folder)
    try:
        read_plain(base / "checkpoint", limit=_MAX_CHECKPOINT_FILE)
        state = tf.train.get_checkpoint_state(os.fspath(base))
    except (OSError, ValueError, tf.errors.OpError):
        # A ValueError is TensorFlow's answer to a file that names no path.
        return None
    if state is None:
        return None
    named = Path(state.model_checkpoint_path)
    candidates = (named, base / named.parent.name / named.name, base / named.name)
    for candidate in candidates:
        # The format of TensorFlow before 1.0 is one file of the prefix's own name.
        for file in (candidate.parent / f"{candidate.name}.index", candidate):
            with contextlib.suppress(OSError, ValueError):
                is_inside = file.resolve().is_relative_to(base.resolve())
                if is_inside and (file.is_file() or old_shards(file) == file):
                    return os.fspath(candidate)
    return None


def old_shards(path: Path) -> Path | None:
    """Return what TensorFlow calls a checkpoint in shards of its format before 1.0.

    Args:
        path: that name, such as ``model-7-?????-of-00002``, or one of the shards, or
            ``model-7``, what their names begin with.

    Returns:
        The name, by which it is read; None where there are no such shards.
    """
    asked = _OLD_SHARD.fullmatch(path.name)
    stem = asked[1] if asked else path.name
    counts = {
        hit[2]
        for name in names_in(path.parent)
        if (hit := _OLD_SHARD.fullmatch(name)) and hit[1] == stem
    }
    if asked:
        counts &= {asked[2]}
    # Of two that were saved in shards of other numbers, none is guessed.
    if len(counts) != 1:
        return None
    return path.with_name(f"{stem}-?????-of-{counts.pop()}")


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, sorted; none of what cannot be listed."""
    with contextlib.suppress(OSError):
        return sorted(os.listdir(folder))
    return []


def stem_of(prefix: str | os.PathLike[str]) -> str:
    """Return what the ``.meta`` beside a checkpoint is called, without that ending.

    Args:
        prefix: the checkpoint's; of one in shards of the old format, without these.
    """
    path = Path(prefix)
    hit = _OLD_SHARD.fullmatch(path.name)
    return os.fspath(path.with_name(hit[1])) if hit else os.fspath(path)


def check_index(prefix: str | os.PathLike[str]) -> None:
    """Compare what the index says of each tensor with the shards there are.

    TensorFlow reserves the memory that the index asks for before it looks at the data.

    Raises:
        CheckpointDamaged: a tensor would lie outside its shard, or need more memory
            than it has data.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import tensor_bundle_pb2 as protos

    short = _short(prefix)
    where = index_name = f"{short}.index"
    path = Path(f"{os.fspath(prefix)}.index")
    if not path.exists() and Path(prefix).is_file():
        # The format of TensorFlow before 1.0 is one table, which needs no index.
        return
    if not path.exists() and old_shards(Path(prefix)) is not None:
        _check_old_shards(Path(prefix))
        return
    try:
        entries = bundle_index.entries(read_plain(path, limit=LARGEST[INDEX]))
        header = protos.BundleHeaderProto.FromString(entries.pop(b"", b""))
        sizes: dict[str, int] = {}
        for key, value in entries.items():
            where = index_name
            entry = protos.BundleEntryProto.FromString(value)
            if entry.slices:
                # A partitioned variable: its parts have entries of their own.
                continue
            if not 0 <= entry.shard_id < header.num_shards:
                raise ValueError(f"no shard {entry.shard_id}, where {key!r} is to be")
            dims = [dim.size for dim in entry.shape.dim]
            count = math.prod(dims) if min(dims, default=0) >= 0 else -1
            each = tf.as_dtype(entry.dtype).size
            fits = entry.size == count * each if each else count <= entry.size
            if count < 0 or not fits:
                raise ValueError(f"{entry.size} bytes for shape {dims} of {key!r}")
            shard = f".data-{entry.shard_id:05d}-of-{header.num_shards:05d}"
            where = f"{short}{shard}"
            end = entry.offset + entry.size
            if shard not in sizes:
                sizes[shard] = path.with_name(f"{path.stem}{shard}").stat().st_size
            if min(entry.offset, entry.size) < 0 or end > sizes[shard]:
                raise ValueError(f"{sizes[shard]} bytes, {key!r} ends at {end}")
    except (
        ValueError,
        TypeError,
        IndexError,
        DecodeError,
        OSError,
        struct.error,
    ) as error:
        raise _damaged(where, error) from error


def _check_old_shards(prefix: Path) -> None:
    """Refuse shards of which some are missing: TensorFlow reads what is there."""
    stem, count = prefix.name.split("-?????-of-")
    for number in range(int(count)):
        name = f"{stem}-{number:05d}-of-{count}"
        if not prefix.with_name(name).is_file():
            raise CheckpointDamaged(
                prefix,
                expected=f"all of its {int(count)} shards",
                found=f"no {name}",
                advice=GO_BACK,
            )


@contextlib.contextmanager
def _opened(prefix: str | os.PathLike[str]) -> Iterator[tuple[Any, str]]:
    """Open a CKPT; give the reader, and the prefix by which TensorFlow reads it."""
    import tensorflow as tf

    with contextlib.ExitStack() as stack:
        try:
            alias = os.fspath(stack.enter_context(_no_pattern(Path(prefix))))
            reader = tf.train.load_checkpoint(alias)
        # Which of these it is depends on the damage and on TensorFlow's version.
        except (
            tf.errors.OpError,
            OSError,
            IndexError,
            ValueError,
            RuntimeError,
            MemoryError,
        ) as error:
            raise _damaged(f"{_short(prefix)}.index", error) from error
        yield reader, alias


@contextlib.contextmanager
def _no_pattern(prefix: Path) -> Iterator[Path]:
    """Give a prefix another path if TensorFlow would not read it by its own.

    It takes the path of what it reads for a pattern of paths first, and then for the
    path itself: none with a bracket or an asterisk in it is both.
    """
    if not _PATTERN.search(os.fspath(prefix.parent)):
        yield prefix
    elif os.path.isdir("/proc/self/fd"):
        descriptor = os.open(prefix.parent, os.O_RDONLY)
        try:
            yield Path(f"/proc/self/fd/{descriptor}", prefix.name)
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryDirectory(prefix="persist_callbacks-") as holder:
            folder = Path(holder, "checkpoint")
            folder.symlink_to(prefix.parent.absolute(), target_is_directory=True)
            yield folder / prefix.name


def _damaged(where: str, error: Exception) -> CheckpointDamaged:
    said = _KERNEL.sub("", str(getattr(error, "message", error)))
    reason = said.strip().splitlines() or [""]
    return CheckpointDamaged(
        where,
        expected="readable checkpoint data",
        found=f"{type(error).__name__}: {reason[0]}",
        advice=GO_BACK,
    )


def _short(prefix: str | os.PathLike[str]) -> str:
    path = Path(prefix)
    return f"{path.parent.name}/{path.name}"
