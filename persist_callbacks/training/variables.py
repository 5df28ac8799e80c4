"""Everything that training changes, as named tensors; and back."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from persist_callbacks.errors import ArchitectureMismatch
from persist_callbacks.layer_names import renumber, stem
from persist_callbacks.training.randomness import HOLDERS

Role = Literal["model", "optimizer", "metric", "seed", "other", "replica"]

# A difference in these is refused; in the others it is reported.
_STRUCTURAL: tuple[Role, ...] = ("model", "optimizer")

# How far a user's optimizers and variables are looked for below a model's attributes.
_DEPTH, _LONGEST = 3, 1000
_PLAIN = (str, bytes, int, float, bool, type(None), type, FunctionType, ModuleType)
# What may be held by an object of the user's without being a part of the model.
_HELD = (keras.Layer, keras.Metric)
_LIBRARIES = ("keras", "tensorflow", "numpy", "builtins", "collections", "functools")


@dataclass(frozen=True)
class VariableInfo:
    """What a checkpoint says of one variable.

    Args:
        key: its name in the checkpoint, such as ``dense/kernel``.
        role: what it belongs to.
        shape: its sizes.
        dtype: TensorFlow's name of its dtype.
    """

    key: str
    role: Role
    shape: tuple[int, ...]
    dtype: str

    def same_structure(self, other: VariableInfo) -> bool:
        """Whether the values of one mean the same in the other, whatever their names.

        RMSprop's and Adagrad's variables have the same shapes and another meaning. An
        optimizer's class is what its keys begin with, and what it keeps of a weight is
        what they end with: a loss scale's wrapper hides the class alone.
        """
        return (self.role, self._kept, self.shape, self.dtype) == (
            other.role,
            other._kept,
            other.shape,
            other.dtype,
        )

    @property
    def _kept(self) -> tuple[str, str]:
        """By which optimizer it is kept, and as what."""
        if self.role != "optimizer":
            return "", ""
        first, *inner = self.key.split("/")
        # Between them stands the weight's own path.
        return first, inner[-1].rstrip("_0123456789") if len(inner) > 1 else ""

    def __str__(self) -> str:
        return f"{self.key} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class LiveVariable:
    """A variable of the running program and its description."""

    info: VariableInfo
    variable: Any

    def like(self, saved: VariableInfo) -> VariableInfo:
        """Describe it as with a saved value, where one may be of any such shape.

        Args:
            saved: what would be assigned to it.
        """
        declared = self.variable.shape
        if declared.is_fully_defined() or not declared.is_compatible_with(saved.shape):
            return self.info
        return dataclasses.replace(self.info, shape=saved.shape)


def optimizers_of(model: Any) -> list[Any]:
    """List a model's optimizers: the compiled one first, then its own attributes'.

    Those in lists, dicts and plain objects that are attributes are among them.
    """
    found = [value for _, value in _attributes(model)]
    unique: dict[int, Any] = {}
    for candidate in [getattr(model, "optimizer", None), *found]:
        if isinstance(candidate, keras.optimizers.Optimizer):
            unique.setdefault(id(candidate), candidate)
    return list(unique.values())


def collect(
    model: Any, seeds: Sequence[tuple[str, Any]] = (), *, held: bool = True
) -> list[LiveVariable]:
    """List every variable that training changes, in an order fixed by structure.

    Args:
        model: the Keras model.
        seeds: further variables by name, such as the state of a global generator.
        held: whether those are wanted of layers and metrics that are held by objects
            of the user's own and are no parts of the model.

    Returns:
        Model, optimizer, metric and seed variables, then ``tf.Variable`` objects that
        Keras itself does not track, what hangs on the model's parts in objects of
        the user's own, and what layers and metrics have that such objects hold, then
        the parts of variables that are distributed over replicas.
        Keys are unique and depend on the architecture only, not on what
        else was built in the process.
    """
    live = _collect(model, seeds, set() if held else None)
    replicas = {
        f"replicas/{number}/{item.info.key}": replica
        for item in live
        for number, replica in _replicas(item.variable)
    }
    return live + [
        LiveVariable(_describe(key, "replica", replica), replica)
        for key, replica in replicas.items()
    ]


def _collect(
    model: Any, seeds: Sequence[tuple[str, Any]], entered: set[int] | None
) -> list[LiveVariable]:
    """List the variables of a model, or of a layer, but for parts of replicas.

    Args:
        model: the model or layer.
        seeds: further variables by name.
        entered: ids of layers and metrics that are listed elsewhere, to which those
            that are listed here are added; None to leave out what is held.
    """
    names = _canonical_layer_names(model)
    owners = _seed_owners(model)
    live: list[LiveVariable] = []
    taken: set[str] = set()
    seen: set[int] = set()

    def add(role: Role, key: str, variable: Any) -> None:
        inner = getattr(variable, "value", variable)
        inner = variable if callable(inner) else inner
        if id(inner) in seen:
            return
        seen.add(id(inner))
        unique = next(k for k in _numbered(key) if k not in taken)
        taken.add(unique)
        live.append(LiveVariable(_describe(unique, role, inner), inner))

    for variable in model.variables:
        owner = owners.get(id(variable))
        path = variable.path if owner is None else f"{owner}/{variable.path}"
        add("model", _canonical_path(path, model.name, names), variable)
    slots = {
        variable.path.replace("/", "_"): _canonical_path(
            variable.path, model.name, names
        )
        for variable in model.variables
    }
    for optimizer in optimizers_of(model):
        for variable in optimizer.variables:
            add("optimizer", _optimizer_key(optimizer, variable.path, slots), variable)
    for metric in model.metrics:
        for variable in metric.variables:
            add("metric", f"metrics/{variable.path}", variable)
    for key, variable in seeds:
        add("seed", key, variable)
    reached = _attributes(model)
    for name, variable in _untracked(model, reached, seen):
        key = _canonical_path(name, model.name, names)
        add("other", f"other/{key or 'variable'}", variable)
    metrics = metrics_of(model)
    of_metrics = [
        pair for metric in metrics for pair in _hanging_on(metric, metric.name)
    ]
    for name, variable in of_metrics:
        if not isinstance(variable, _HELD):
            add("metric", f"metrics/{name}", variable)
    beside = _beside(model, reached)
    for name, variable in beside:
        if not isinstance(variable, _HELD):
            add("other", f"other/{_canonical_path(name, model.name, names)}", variable)
    if entered is None:
        return live
    entered.update(map(id, (model, *layers_of(model), *metrics)))
    # Last, and of this role alone: an older version did not see them, and fit does not
    # begin their metrics anew with each epoch.
    for name, part in [*reached, *of_metrics, *beside]:
        if not isinstance(part, _HELD) or id(part) in entered:
            continue
        path = "/".join(names.get(each, each) for each in name.split("/"))
        if isinstance(part, keras.Metric):
            entered.add(id(part))
            for variable in part.variables:
                add("other", f"other/{path}/{variable.name}", variable)
        elif not _is_a_view(part, seen):
            for item in _collect(part, (), entered):
                # Its own name may be an automatic one, and the path says what it is.
                inner = item.info.key.removeprefix("other/").split("/")
                key = "/".join([path, *(each for each in inner if each != part.name)])
                add("other", f"other/{key}", item.variable)
    return live


def layers_of(layer: Any) -> list[Any]:
    """List what a model or a layer is made of, at any depth, without itself.

    What lists them has no public name.
    """
    return list(layer._flatten_layers(include_self=False))


def glance(model: Any) -> tuple[int, ...] | None:
    """Look at a model without going into it, some hundred times as fast as `collect`.

    Returns:
        What stays the same as long as its variables are the same objects; None for a
        model with parts that are not Keras' own, which may hold variables anywhere.
    """
    parts = [model, *layers_of(model)]
    if any(not type(part).__module__.startswith("keras.") for part in parts):
        return None
    optimizer = getattr(model, "optimizer", None)
    owned = [] if optimizer is None else optimizer.variables
    counted = [*model.variables, *owned]
    counted += [each for metric in model.metrics for each in metric.variables]
    counted += metrics_of(model)
    for _, held in _hanging_on(model, ""):
        counted += held.variables if isinstance(held, _HELD) else [held]
    return (len(vars(model)), id(optimizer), *map(id, counted))


def infos(live: Iterable[LiveVariable]) -> tuple[VariableInfo, ...]:
    """List the descriptions of live variables."""
    return tuple(item.info for item in live)


def fingerprint(described: Sequence[VariableInfo], model: Any) -> str:
    """Condense what must agree between a checkpoint and a model to go on training.

    Args:
        described: the variables' descriptions.
        model: the Keras model, for the kinds of its optimizers.

    Returns:
        ``sha256:`` and a digest over order, shape and dtype of the model's and the
        optimizers' variables and the optimizers' classes. Names are not part of it.
    """
    content = [
        [[i.role, list(i.shape), i.dtype] for i in described if i.role in _STRUCTURAL],
        [type(optimizer).__name__ for optimizer in optimizers_of(model)],
    ]
    text = json.dumps(content, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def frozen(model: Any, live: Iterable[LiveVariable]) -> frozenset[str]:
    """List the keys of variables that training is not expected to change.

    Those of layers that are frozen, but for the seeds that a layer may draw by. It is a
    hint: whoever uses it looks at the values too.
    """
    held = {
        id(getattr(variable, "value", variable))
        for layer in (model, *layers_of(model))
        if not layer.trainable
        for variable in layer.variables
    }
    return frozenset(
        item.info.key
        for item in live
        if id(item.variable) in held and item.variable.dtype.is_floating
    )


def match(
    saved: Sequence[VariableInfo],
    live: Sequence[LiveVariable],
    *,
    where: object,
    roles: Sequence[Role] = get_args(Role),
) -> tuple[list[tuple[str, LiveVariable]], list[str]]:
    """Pair saved values with live variables by structure, not by name.

    Args:
        saved: what the checkpoint holds.
        live: what the program has.
        where: the checkpoint, for messages.
        roles: which of them to pair.

    Returns:
        Pairs of a key in the checkpoint and the variable it goes to, and a sentence for
        each group that could not be paired and may be left as it is.

    Raises:
        ArchitectureMismatch: the model's or optimizer's variables differ in number,
            order, shape or dtype.
    """
    pairs: list[tuple[str, LiveVariable]] = []
    left_out: list[str] = []
    for role in roles:
        ours = [info for info in saved if info.role == role]
        theirs = [item for item in live if item.info.role == role]
        described = [item.like(info) for info, item in zip(ours, theirs, strict=False)]
        described += [item.info for item in theirs[len(ours) :]]
        unlike = differences(ours, described)
        if not unlike:
            pairs += [(info.key, item) for info, item in zip(ours, theirs, strict=True)]
        elif role in _STRUCTURAL:
            raise ArchitectureMismatch(
                where,
                expected=f"the {role} variables of this program: {len(theirs)}",
                found=f"{len(ours)} with these differences: " + "; ".join(unlike),
                advice=(
                    "Build and compile the model as when the checkpoint was made, or "
                    "train into another directory. What a callback of that fit had "
                    "changed by then, such as layers that it unfroze, is to be done "
                    "before fit now."
                ),
            )
        else:
            same = _of_same_key(ours, theirs) if role == "other" else []
            fits = not differences(ours, described[: len(ours)])
            if fits and role in ("other", "metric") and len(same) < len(ours):
                # An older version did not see those that come last.
                pairs += [
                    (info.key, item) for info, item in zip(ours, theirs, strict=False)
                ]
            elif role == "other":
                # What is made later than the others may be missing among them.
                pairs += same
                paired = {key for key, _ in same}
                unlike = differences(
                    [info for info in ours if info.key not in paired],
                    [item.info for item in theirs if item.info.key not in paired],
                )
            left_out.append(f"{role} variables differ: " + "; ".join(unlike))
    return pairs, left_out


def _of_same_key(
    saved: Sequence[VariableInfo], live: Sequence[LiveVariable]
) -> list[tuple[str, LiveVariable]]:
    """Pair saved values with those variables of their keys that they fit."""
    by_key = {item.info.key: item for item in live}
    return [
        (info.key, by_key[info.key])
        for info in saved
        if info.key in by_key and by_key[info.key].like(info).same_structure(info)
    ]


def differences(
    saved: Sequence[VariableInfo], live: Sequence[VariableInfo], *, most: int = 5
) -> list[str]:
    """Say in what two lists of variables differ; empty when one fits the other."""
    unlike = [
        f"checkpoint has {ours or 'nothing'}, model has {theirs or 'nothing'}"
        for ours, theirs in itertools.zip_longest(saved, live)
        if ours is None or theirs is None or not ours.same_structure(theirs)
    ]
    if len(unlike) > most:
        unlike = [*unlike[:most], f"and {len(unlike) - most} more"]
    return unlike


def restore(
    pairs: Iterable[tuple[str, LiveVariable]], tensors: Mapping[str, Any]
) -> None:
    """Assign saved values to live variables.

    Args:
        pairs: from `match`.
        tensors: values by the checkpoint's keys.
    """
    for key, item in pairs:
        # What has been assigned is not read back.
        item.variable.assign(tensors[key], read_value=False)


def renew_constants(model: Any) -> bool:
    """Let layers compute with the variables that they were given.

    A ``Normalization`` computes with constants that it makes of its variables: once as
    it is adapted, and as Keras loads weights.

    Args:
        model: the Keras model.

    Returns:
        Whether any has other constants now, which functions traced before do not see.
    """
    held = [part for _, part in _attributes(model) if isinstance(part, keras.Layer)]
    changed = False
    for owner in (model, *held):
        for layer in (owner, *layers_of(owner)):
            if isinstance(layer, keras.layers.Normalization) and layer.built:
                before = _constants(layer)
                layer.finalize_state()
                changed |= _constants(layer) != before
    return changed


def _constants(layer: Any) -> list[bytes]:
    return [np.asarray(each).tobytes() for each in (layer.mean, layer.variance)]


@dataclass(frozen=True)
class ObjectGraph:
    """What lets TensorFlow's object-based restore find the variables.

    Args:
        serialized: a ``TrackableObjectGraph``.
        save_counter: an int64 scalar that must be saved under that very key.
        keys: the keys that the restore reads, to the variables' own.
    """

    serialized: bytes = b""
    save_counter: int = 0
    keys: Mapping[str, str] = field(default_factory=dict)


def object_graph(model: Any, live: Iterable[LiveVariable]) -> ObjectGraph:
    """Describe the objects around the variables as TensorFlow's own checkpoints do.

    Saved under ``_CHECKPOINTABLE_OBJECT_GRAPH``, it lets
    ``tf.train.Checkpoint(model=model, optimizer=model.optimizer).restore`` find each
    variable, under its readable key and a fixed ending. The format is
    ``tensorflow/core/protobuf/trackable_object_graph.proto``.

    Args:
        model: the Keras model; its optimizer must be built.
        live: the variables and their keys.

    Returns:
        The serialised proto, and what must be saved with it.
    """
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    keys = {id(item.variable): item.info.key for item in live}
    parts = {"model": model}
    if getattr(model, "optimizer", None) is not None:
        parts["optimizer"] = model.optimizer
    root = tf.train.Checkpoint(**parts)
    counter = root.save_counter
    keys[id(counter)] = "save_counter"
    view = tf.train.TrackableView(root)
    nodes = view.descendants()
    number = {id(node): index for index, node in enumerate(nodes)}
    proto = trackable_object_graph_pb2.TrackableObjectGraph()
    further: dict[str, str] = {}
    for node in nodes:
        entry = proto.nodes.add()
        for name, child in view.children(node).items():
            entry.children.add(node_id=number[id(child)], local_name=name)
        inner = node.value if isinstance(node, keras.Variable) else node
        key = keys.get(id(inner))
        if key is not None:
            read_as = f"{key}/.ATTRIBUTES/VARIABLE_VALUE"
            further[read_as] = key
            entry.attributes.add(
                name="VARIABLE_VALUE",
                full_name=_bare(inner.name),
                checkpoint_key=read_as,
            )
            entry.has_checkpoint_values.value = True
    serialized = proto.SerializeToString(deterministic=True)
    return ObjectGraph(serialized, int(counter.numpy()), further)


def _replicas(variable: Any) -> Iterable[tuple[int, Any]]:
    """Give the parts of a distributed variable that its own value does not tell.

    Replicas are not copies of each other: each has moving averages of its own batches,
    and its own part of a metric's sums.
    """
    if not isinstance(variable, tf.distribute.DistributedValues):
        return ()
    # The value of one that is not a sum is its first part's.
    first = 0 if sums_replicas(variable) else 1
    return list(enumerate(variable.values))[first:]


def sums_replicas(variable: Any) -> bool:
    """Whether a variable's value is the sum of parts that replicas hold."""
    return (
        isinstance(variable, tf.distribute.DistributedValues)
        and variable.aggregation == tf.VariableAggregation.SUM
    )


def first_part(variable: Any) -> Any:
    """Return what holds a variable's value: of a distributed one its first replica's.

    Within a strategy's scope a distributed one has no memory of its own to be read.
    """
    if isinstance(variable, tf.distribute.DistributedValues):
        return variable.values[0]
    return variable


def _describe(key: str, role: Role, variable: Any) -> VariableInfo:
    # One that may have any shape has that of its present value.
    known = variable.shape.is_fully_defined()
    sizes = variable.shape if known else variable.read_value().shape
    shape = tuple(int(size) for size in sizes)
    return VariableInfo(key, role, shape, tf.as_dtype(variable.dtype).name)


def _is_a_view(layer: Any, seen: Collection[int]) -> bool:
    """Whether a layer of Keras' own has no variables but those that are known.

    Such as a model that ends in a layer within another: to look into it for what is
    left takes as long as to look into that one.

    Args:
        layer: the layer or model.
        seen: ids of known variables.
    """
    return (
        not is_foreign(type(layer))
        and getattr(layer, "optimizer", None) is None
        and all(id(variable.value) in seen for variable in layer.variables)
    )


def _numbered(key: str) -> Iterable[str]:
    yield key
    for number in itertools.count(1):
        yield f"{key}_{number}"


def _bare(name: str) -> str:
    return name.split(":")[0]


def _canonical_layer_names(model: Any) -> dict[str, str]:
    """Map automatic names to those that they would be in a fresh process."""
    pairs = {(layer.name, stem(type(layer))) for layer in layers_of(model)}
    pairs |= {
        (part, "seed_generator")
        for variable in model.variables
        for part in variable.path.split("/")[:-1]
        if part.startswith("seed_generator")
    }
    ordered = sorted(pairs)
    return {
        name: fresh for (name, _), fresh in zip(ordered, renumber(ordered), strict=True)
    }


def _canonical_path(path: str, root: str, names: Mapping[str, str]) -> str:
    parts = path.split("/")
    if len(parts) > 2 and parts[0] == root:
        parts = parts[1:]
    return "/".join([names.get(part, part) for part in parts[:-1]] + parts[-1:])


def _seed_owners(model: Any) -> dict[int, str]:
    """Name the layer of each seed generator, which its own path does not tell."""
    owners: dict[int, str] = {}
    for layer in layers_of(model):
        for value in vars(layer).values():
            if isinstance(value, keras.random.SeedGenerator):
                owners.setdefault(id(value.state), layer.name)
    return owners


def _optimizer_key(optimizer: Any, path: str, slots: Mapping[str, str]) -> str:
    """Turn ``adam/model_dense_kernel_velocity`` into ``adam/dense/kernel/velocity``."""
    prefix = stem(type(optimizer))
    # Between them stands the name of an optimizer that this one wraps.
    name = path.split("/")[-1]
    # The longest that is a variable's: one's name may be the beginning of another's.
    end = name.rfind("_")
    while end > 0 and name[:end] not in slots:
        end = name.rfind("_", 0, end)
    if end > 0:
        return f"{prefix}/{slots[name[:end]]}/{name[end + 1 :]}"
    return f"{prefix}/{name}"


def _untracked(
    model: Any, reached: Iterable[tuple[str, Any]], seen: set[int]
) -> list[tuple[str, Any]]:
    """List variables in the model that Keras does not count as the model's.

    Such as a ``tf.Variable`` or ``tf.random.Generator`` that is an attribute, and the
    states of a stateful recurrent layer.

    Args:
        model: the model.
        reached: its `_attributes`.
        seen: ids of variables that Keras counts.
    """
    found: dict[int, tuple[str, Any]] = {}
    # TensorFlow's own walk does not enter the lists and dicts that Keras tracks.
    attributes = [value for _, value in reached]
    for node in [*tf.train.TrackableView(model).descendants(), *attributes]:
        inner = node.state if isinstance(node, tf.random.Generator) else node
        variable = inner.value if isinstance(inner, keras.Variable) else inner
        if isinstance(variable, tf.Variable) and id(variable) not in seen:
            name = inner.path if inner is not variable else _bare(variable.name)
            found.setdefault(id(variable), (name, variable))
    return list(found.values())


def metrics_of(model: Any) -> list[Any]:
    """List a model's metrics, and those that the compiled one is made of."""
    return [
        each
        for metric in model.metrics
        for each in (metric, *getattr(metric, "metrics", ()))
    ]


def _beside(model: Any, reached: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """List what has variables, in objects of the user's that hang on a model's parts.

    Such as a regularizer of a layer, or a learning rate schedule: Keras does not look
    into them.

    Args:
        model: the model.
        reached: its `_attributes`.

    Returns:
        Variables, layers and metrics by paths.
    """
    owners = [(each.name, each) for each in layers_of(model)]
    for optimizer in optimizers_of(model):
        wrapped = getattr(optimizer, "inner_optimizer", optimizer)
        owners += [(stem(type(wrapped)), wrapped)]
    held = [
        (f"{model.name}/{name}/state", value.state)
        for name, value in reached
        if isinstance(value, keras.random.SeedGenerator)
    ]
    return held + [pair for name, each in owners for pair in _hanging_on(each, name)]


def _hanging_on(owner: Any, path: str) -> list[tuple[str, Any]]:
    """List what has variables in what the user made of a part, or hung on it.

    Args:
        owner: a layer, optimizer or metric; of Keras' own, only those of its attributes
            are entered that are the user's.
        path: what names begin with.

    Returns:
        Variables, layers and metrics by paths.
    """
    held: list[tuple[str, Any]] = []
    if is_foreign(type(owner)):
        held = _attributes(owner)
    else:
        for name, value in vars(owner).items():
            if isinstance(value, _PLAIN) or not is_foreign(type(value)):
                continue
            if not isinstance(value, keras.Operation):
                inner = _attributes(value) if hasattr(value, "__dict__") else []
                held += [(f"{name}/{further}", part) for further, part in inner]
    found = []
    for name, value in held:
        variable = value.state if isinstance(value, HOLDERS) else value
        if isinstance(variable, (keras.Variable, tf.Variable, *_HELD)):
            found.append((f"{path}/{name}", variable))
    return found


def held_by(owner: Any) -> list[Any]:
    """List the variables that an object of the user's own holds, as a callback."""
    found = []
    for _, value in _attributes(owner):
        if isinstance(value, HOLDERS):
            found.append(value.state)
        elif isinstance(value, (keras.Variable, tf.Variable)):
            found.append(value)
        elif isinstance(value, (*_HELD, keras.Optimizer)):
            found += value.variables
    return found


def is_foreign(kind: type) -> bool:
    """Whether a class is neither Keras' nor that of another known library."""
    return kind.__module__.split(".")[0] not in _LIBRARIES


def _attributes(model: Any) -> list[tuple[str, Any]]:
    """List what a model's attributes hold, in containers and plain objects too.

    Keras' own objects are given and not entered: they tell of what they hold.
    """
    found: list[tuple[str, Any]] = []
    seen: set[int] = {id(model)}
    waiting = collections.deque(
        (name, value, _DEPTH) for name, value in vars(model).items()
    )
    while waiting:
        path, value, depth = waiting.popleft()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        seen.add(id(value))
        found.append((path, value))
        if depth == 0 or isinstance(value, (keras.Operation, keras.Variable)):
            continue
        parts: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, Mapping):
            parts = value.items()
        elif isinstance(value, (list, tuple, set)) and len(value) <= _LONGEST:
            # A set of layers has another order in each process.
            in_order = sorted(value, key=_by_name) if isinstance(value, set) else value
            parts = enumerate(in_order)
        elif is_foreign(type(value)):
            parts = getattr(value, "__dict__", {}).items()
        # Vocabularies are long, and hold names, numbers or lists of them.
        is_long = isinstance(value, Mapping) and len(value) > _LONGEST
        left_out = (*_PLAIN, list, tuple, set, dict) if is_long else _PLAIN
        waiting += [
            (f"{path}/{name}", part, depth - 1)
            for name, part in parts
            if not isinstance(part, left_out)
        ]
    return found


def _by_name(value: Any) -> tuple[int, str]:
    """Order objects by their names, automatic ones as they were given."""
    name = str(getattr(value, "name", ""))
    return len(name), name
