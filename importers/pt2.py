"""Programs of `torch.export` (`.pt2`), read without PyTorch and without running anything in them.

The file is a zip archive: the program as JSON, and weights as raw bytes with sizes and strides beside them
(`data/weights`), or, as PyTorch wrote before 2.9, as files of `torch.save` within the archive. The program is a list of
calls of ATen's operators, which `aten` says in the graph's vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from ..engine.graph import Dim, Graph
from .archive import Archive, Source
from .aten import Aliases, Aten, Ref, SymInt, Tensor
from .aten.ports import declare_outputs, flat_names, result_tree
from .kinds import LEGACY_PT2
from .torch import read_tensors
from .torch_tensors import StorageRef, TensorReader, TensorRef

__all__ = ["read_pt2"]

#: The numbers that the program gives element types.
_DTYPES = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"},
    **{12: "bool", 13: "bfloat16", 28: "uint16", 34: "uint32", 35: "uint64"},
}
#: The newest major version of the program's form.
_MAJOR = 8
_SYMBOL = re.compile(r"(?:Symbol\('(\w+)'.*\)|(\w+))", re.DOTALL)


def read_pt2(source: Source, *, name: str | None = None) -> Graph:
    """Translate an exported program into a graph.

    Parameters
    ----------
    source : path or bytes
    name : str, optional
        What messages call it; the path by default.

    Returns
    -------
    Graph
        Inputs are called as in the program, outputs after the keys under which the model returns them, or ``output``,
        ``output_0``, ... Sizes that were exported as dynamic are free dimensions.

    Raises
    ------
    ModelFormatError
        Damaged or truncated, or sizes that contradict each other.
    UnsupportedModelError
        It uses something that has no translation; names it.
    OSError
        The file cannot be opened.
    """
    with Archive(source) as archive:
        archive.name = archive.name if name is None else name
        program, tensors = (_legacy if LEGACY_PT2 in archive.entries else _current)(archive)
        try:
            return _Program(archive.name, program, tensors).graph
        except GatestepError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, StopIteration, RecursionError) as error:
            raise ModelFormatError(
                f"{archive.name}: the program is damaged ({type(error).__name__}: {error})"
            ) from error


# ---------------------------------------------------------------------- the archive


def _json(archive: Archive, name: str) -> dict[str, Any]:
    try:
        value = json.loads(archive.read(name, compressed=True))
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{archive.name}: {name!r} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelFormatError(f"{archive.name}: {name!r} holds no object")
    return value


_Tensors = Callable[[str, str], np.ndarray]


def _legacy(archive: Archive) -> tuple[dict[str, Any], _Tensors]:
    """The layout before 2.9: one JSON file, and two files of `torch.save`."""
    held: dict[str, dict[str, np.ndarray]] = {}

    def tensor(kind: str, name: str) -> np.ndarray:
        if kind not in held:
            file = "serialized_state_dict" if kind == "weights" else "serialized_constants"
            known = next((f for f in (f"{file}.pt", f"{file}.json") if f in archive.entries), f"{file}.pt")
            held[kind] = read_tensors(archive.read(known, compressed=True), f"{archive.name}: {known}")
        return held[kind][name]

    return _json(archive, LEGACY_PT2), tensor


def _current(archive: Archive) -> tuple[dict[str, Any], _Tensors]:
    """The layout since: weights as raw bytes, described by a table."""
    programs = [name for name in archive.entries if re.fullmatch(r"(?:[^/]+/)?models/[^/]+\.json", name)]
    if len(programs) != 1:
        raise UnsupportedModelError(
            f"it holds {len(programs)} models, {', '.join(map(repr, programs[:8]))}",
            source=archive.name,
            hint="Save one of them: torch.export.save",
        )
    folder, _, file = programs[0].rpartition("models/")
    model = file.removesuffix(".json")
    total = sum(entry.file_size for entry in archive.entries.values())
    held: dict[str, Any] = {}

    def described(kind: str) -> Callable[[str], np.ndarray]:
        place = f"{folder}data/{kind}/"
        if f"{place}{model}.pt" in archive.entries:
            data = archive.read(f"{place}{model}.pt", compressed=True)
            return read_tensors(data, f"{archive.name}: {place}{model}.pt").__getitem__
        table = _json(archive, f"{place}{model}_{kind}_config.json")["config"]
        reader = TensorReader(archive.name, total, lambda storage: archive.read(storage.key, compressed=True))
        made: dict[tuple[object, ...], np.ndarray] = {}

        def read(name: str) -> np.ndarray:
            ref = _described(archive, place, name, table[name])
            same = (ref.storage.key, ref.dtype, ref.offset, ref.shape, ref.strides)
            if same not in made:
                made[same] = reader.array(name, ref)
            return made[same]

        return read

    def tensor(kind: str, name: str) -> np.ndarray:
        if kind not in held:
            held[kind] = described(kind)
        array: np.ndarray = held[kind](name)
        return array

    return _json(archive, programs[0]), tensor


def _described(archive: Archive, place: str, name: str, entry: dict[str, Any]) -> TensorRef:
    """One line of the table of weights."""
    meta = entry["tensor_meta"]
    if entry["use_pickle"] or meta is None:
        raise UnsupportedModelError(
            f"{name!r} is no plain tensor but a pickled object; nothing was run", source=archive.name
        )
    key = f"{place}{entry['path_name']}"
    if key not in archive.entries:
        raise ModelFormatError(f"{archive.name}: the archive has no entry {key!r}")
    shape, strides = (tuple(_whole(n) for n in meta[part]) for part in ("sizes", "strides"))
    dtype = _DTYPES.get(meta["dtype"])
    if meta["layout"] != 7 or dtype is None:
        raise UnsupportedModelError(
            "is an element type or layout that is not supported", source=archive.name, node=name, value=meta["dtype"]
        )
    if len(shape) != len(strides) or len(shape) > 32:
        raise ModelFormatError(f"{archive.name}: {name!r} has {len(shape)} axes and {len(strides)} strides")
    storage = StorageRef(key, None, archive.entries[key].file_size)
    return TensorRef(storage, dtype, _whole(meta["storage_offset"]), shape, strides)


def _whole(size: dict[str, Any]) -> int:
    value = size["as_int"]
    if type(value) is not int or value < 0:
        raise ValueError(f"a size of {value!r}")
    return value


def _only(union: dict[str, Any]) -> tuple[str, Any]:
    """The kind and the value of an argument, of which there is one."""
    ((kind, value),) = ((kind, value) for kind, value in union.items() if value is not None)
    return kind, value


# ---------------------------------------------------------------------- the program


class _Program:
    """One program on its way into a graph."""

    def __init__(self, source: str, program: dict[str, Any], tensors: _Tensors) -> None:
        major = program["schema_version"]["major"]
        if type(major) is not int or major > _MAJOR:
            raise UnsupportedModelError(
                f"version {major} of torch.export's form; {_MAJOR} is the newest known", source=source
            )
        module = program["graph_module"]
        self.source, self.tensors = source, tensors
        self.graph = Graph(source)
        self.aten = Aten(self.graph, source)
        self.aliases = Aliases(self.aten)
        #: Values of the program by name.
        self.values: dict[str, Any] = {}
        self._inputs(module["signature"]["input_specs"], module["graph"])
        self._nodes(module["graph"])
        self._outputs(module)
        self.aten.prune()

    def unsupported(self, reason: str, **given: Any) -> UnsupportedModelError:
        return UnsupportedModelError(reason, source=self.source, **given)

    # ------------------------------------------------------------------ inputs
    def _inputs(self, specs: list[dict[str, Any]], graph: dict[str, Any]) -> None:
        for entry in specs:
            kind, spec = _only(entry)
            if kind == "user_input":
                self._user_input(spec["arg"], graph)
            elif kind in ("parameter", "buffer", "tensor_constant"):
                name = spec["arg"]["name"]
                path = spec[{"parameter": "parameter_name", "buffer": "buffer_name"}.get(kind, "tensor_constant_name")]
                lasting = kind == "parameter" or (kind == "buffer" and spec.get("persistent", True))
                array = self.tensors("weights" if lasting else "constants", path)
                known = self.aten.constant(array, name=f"\0{path}")
                self.values[name] = self.aliases.new(known, f"{kind} {path!r}")
            elif kind == "constant_input":
                self.values[spec["name"]] = _only(spec["value"])[1]
            else:
                raise self.unsupported(f"an input of kind {kind}, which is not supported", node=str(spec)[:80])

    def _user_input(self, arg: dict[str, Any], graph: dict[str, Any]) -> None:
        kind, spec = _only(arg)
        if kind == "as_tensor":
            name = spec["name"]
            shape, dtype = self._meta(graph["tensor_values"][name], name)
            self.values[name] = self.aliases.new(self.aten.input(name, shape, dtype), f"input {name!r}")
        elif kind == "as_sym_int" and "as_name" in spec:
            name = spec["as_name"]
            self.graph.input(name, (), np.int64)
            self.values[name] = SymInt(name)
        elif kind not in ("as_int", "as_float", "as_bool", "as_string", "as_none"):
            raise self.unsupported(f"an input of kind {kind}, which is not supported")

    def _meta(self, meta: dict[str, Any], name: str) -> tuple[tuple[Dim, ...], np.dtype[Any]]:
        dtype = _DTYPES.get(meta["dtype"])
        if dtype is None:
            raise self.unsupported("is an element type that is not supported", node=name, value=meta["dtype"])
        return tuple(_dim(size) for size in meta["sizes"]), np.dtype("float32" if dtype == "bfloat16" else dtype)

    # ------------------------------------------------------------------ nodes
    def _nodes(self, graph: dict[str, Any]) -> None:
        for node in graph["nodes"]:
            made = self._node(node)
            outputs = node["outputs"]
            kinds = [_only(output) for output in outputs]
            pairs: list[tuple[Any, Any]]
            if len(kinds) == 1 and kinds[0][0] in ("as_tensors", "as_optional_tensors"):
                names = [_only(n)[1] if kinds[0][0] == "as_optional_tensors" else n for n in kinds[0][1]]
                pairs = list(zip(names, made or [], strict=True))
            elif len(kinds) == 1:
                pairs = [(kinds[0][1], made)]
            else:
                pairs = list(zip((value for _, value in kinds), made if kinds else (), strict=True))
            for output, value in pairs:
                name = output.get("name", output.get("as_name")) if isinstance(output, dict) else None
                if name is not None:
                    self.values[name] = value

    def _node(self, node: dict[str, Any]) -> Any:
        target, where = node["target"], _where(node)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for given in node["inputs"]:
            value = self._argument(given["arg"])
            if given.get("kind", 1) == 1 and not kwargs:
                args.append(value)
            else:
                kwargs[given["name"]] = value
        namespace, _, op = target.rpartition("aten.") if target.startswith("torch.ops.aten.") else ("", "", "")
        if namespace:
            return self.aliases.call(op, args, kwargs, where=where)
        if target.startswith(("_operator.", "torch.sym_", "math.")):
            op = target.rpartition(".")[2]
            return self.aliases.call(op, [*args, *kwargs.values()], {}, where=where)
        if target == "torch.ops.higher_order.wrap_with_set_grad_enabled":
            return self._inlined(args[1], args[2:])
        raise self.unsupported("the operator is not supported", node=f"{target.removeprefix('torch.ops.')} {where!r}")

    def _inlined(self, body: dict[str, Any], inputs: list[Any]) -> Any:
        """A graph within the graph, with values of its own."""
        outer, self.values = self.values, {}
        for port, value in zip(body["inputs"], inputs, strict=True):
            spec = _only(port)[1]
            self.values[spec.get("name", spec.get("as_name"))] = value
        self._nodes(body)
        made = [self._argument(output) for output in body["outputs"]]
        self.values = outer
        return made[0] if len(made) == 1 and body.get("is_single_tensor_return") else made

    def _argument(self, arg: dict[str, Any]) -> Any:
        kind, value = _only(arg)
        match kind:
            case "as_none":
                return None
            case "as_tensor":
                return self.values[value["name"]]
            case "as_tensors":
                return [self.values[tensor["name"]] for tensor in value]
            case "as_nested_tensors":
                return [[self.values[tensor["name"]] for tensor in tensors] for tensors in value]
            case "as_optional_tensor":
                return None if _only(value)[0] == "as_none" else self.values[_only(value)[1]["name"]]
            case "as_optional_tensors":
                return [self._argument(tensor) for tensor in value]
            case "as_int" | "as_ints" | "as_float" | "as_floats" | "as_bool" | "as_bools" | "as_string" | "as_strings":
                return _number(value)
            case "as_sym_int" | "as_sym_bool" | "as_sym_float":
                return self._symbol(value)
            case "as_sym_ints" | "as_sym_bools" | "as_sym_floats":
                return [self._symbol(item) for item in value]
            case "as_scalar_type":
                dtype = _DTYPES.get(value)
                if dtype is None:
                    raise self.unsupported("is an element type that is not supported", attribute="dtype", value=value)
                return np.dtype("float32" if dtype == "bfloat16" else dtype)
            case "as_device" | "as_memory_format":
                return None
            case "as_layout":
                return 0 if value == 7 else value
            case "as_graph":
                return value["graph"]
        raise self.unsupported(f"an argument of kind {kind}, which is not supported")

    def _symbol(self, symbol: dict[str, Any]) -> Any:
        kind, value = _only(symbol)
        return self.values[value] if kind == "as_name" else value

    # ------------------------------------------------------------------ outputs
    def _outputs(self, module: dict[str, Any]) -> None:
        made: list[Tensor] = []
        for entry in module["signature"]["output_specs"]:
            kind, spec = _only(entry)
            if kind in ("buffer_mutation", "parameter_mutation", "user_input_mutation"):
                name = next(value for key, value in spec.items() if key.endswith("_name"))
                what = kind.removesuffix("_mutation").replace("_", " ")
                raise self.unsupported(
                    f"changes its {what} {name!r} from call to call, which is not supported",
                    node=f"{what} {name!r}",
                    hint="Make it an input and an output of the model: streams carry it from frame to frame",
                )
            if kind != "user_output":
                raise self.unsupported(f"an output of kind {kind}, which is not supported")
            value = self._argument(spec["arg"])
            made.append(self._output(value))
        tree = None
        for call in module["module_call_graph"]:
            if call["fqn"] == "" and call["signature"]:
                tree = call["signature"]["out_spec"]
        names = flat_names(result_tree(tree), len(made))
        declare_outputs(self.aten, dict(zip(names, made, strict=True)))

    def _output(self, value: Any) -> Tensor:
        if isinstance(value, Ref):
            return self.aliases.read(value)
        if isinstance(value, SymInt):
            return Tensor(value.name, np.dtype(np.int64), ())
        if isinstance(value, (bool, int, float)):
            return self.aten.constant(np.array(value))
        raise self.unsupported(f"an output that is {type(value).__name__}, not a tensor")


def _number(value: Any) -> Any:
    """JSON has no infinities; the program writes them as text."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    return float(value) if isinstance(value, str) and value in ("Infinity", "-Infinity", "NaN") else value


def _dim(size: dict[str, Any]) -> Dim:
    kind, value = _only(size)
    if kind == "as_int":
        return _whole(size)
    match = _SYMBOL.fullmatch(value["expr_str"])
    return (match[1] or match[2]) if match else None


def _where(node: dict[str, Any]) -> str:
    """The module that a node belongs to, or the node's own name."""
    stack = (node.get("metadata") or {}).get("nn_module_stack", "").split(";")[-1].split(",")
    path = stack[1] if len(stack) > 2 else ""
    name = node.get("name") or next(
        (str(_only(output)[1].get("name", "")) for output in node["outputs"] if isinstance(_only(output)[1], dict)), ""
    )
    return path if path and not path.startswith("_empty") else name
