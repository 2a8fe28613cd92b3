"""Reads what torch.save has pickled without running any of it.

A pickle names classes and functions and says what to call them with. Here each name is looked up in
a short list: torch's own modules and the classes of known projects become `Inert` objects, which
hold what they are given and do nothing; tensors are rebuilt from their bytes; all else is refused.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

# Modules whose classes and functions are taken as inert.
KNOWN_MODULES = (
    "torch.nn.modules.",
    "torch.optim.",
    "torch.nn.functional",
    "torch._C._nn",
    "models.vit",
    "models.proprio",
    "models.dino",
    "models.vqvae",
    "dinov2.models.vision_transformer",
    "dinov2.layers.",
    "einops.layers.torch",
    "accelerate.optimizer",
)
CONTAINERS = {kind.__name__: kind for kind in (dict, list, tuple, set, frozenset)}


class Inert:
    """An object of a class that is not here: its state, and no behaviour."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **keywords: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute of the object."""
        return self.__dict__.get(name, default)


def load_inert(path: Path) -> Any:
    """What a file of torch.save holds, with `Inert` objects in place of modules.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, is truncated, or asks for a name that is not known.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give a file that torch.save wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ValueError(f"{path} holds no data.pkl: it is not from torch.save")
            root = pickles[0].removesuffix("data.pkl")
            return _Unpickler(path, archive, root).load()
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
    ) as error:
        raise ValueError(
            f"{path} is truncated, or not from torch.save of PyTorch 1.6 or later ({error}); "
            "get it again"
        ) from error


def state_dict(module: Inert, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of a module and all within, by their usual names."""
    found: dict[str, Tensor] = {}
    for kind in ("_parameters", "_buffers"):
        for name, value in (module.get(kind) or {}).items():
            if isinstance(value, Tensor):
                found[prefix + name] = value
    for name, child in (module.get("_modules") or {}).items():
        if isinstance(child, Inert):
            found |= state_dict(child, f"{prefix}{name}.")
    return found


class _Unpickler(pickle.Unpickler):
    def __init__(self, path: Path, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(root + "data.pkl")))
        self._path, self._archive, self._root = path, archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("collections", "defaultdict"): _default_dict,
            ("functools", "partial"): Inert,
            ("torch", "device"): Inert,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }
        if (module, name) in known:
            return known[module, name]
        if module in ("builtins", "__builtin__") and name in CONTAINERS:
            return CONTAINERS[name]
        if module == "torch" and name.endswith("Storage"):
            return _storage_type(name) or self._refuse(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if any(module == m or (m[-1] == "." and module.startswith(m)) for m in KNOWN_MODULES):
            return Inert
        return self._refuse(module, name)

    def persistent_load(self, saved: Any) -> Tensor:
        kind, dtype, key, _, count = saved
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown kind of storage {kind!r}")
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._root}data/{key}"))
            if len(data) != count * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key} has {len(data)} bytes")
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0)
        return self._storages[key]

    def _refuse(self, module: str, name: str) -> NoReturn:
        raise ValueError(
            f"{self._path} asks for {module}.{name}, which is not part of a known world model; "
            "nothing of the file was run, and it is not read"
        )


def _default_dict(*arguments: Any) -> dict[Any, Any]:
    return {}


def _storage_type(name: str) -> torch.dtype | None:
    types = {
        "FloatStorage": torch.float32,
        "DoubleStorage": torch.float64,
        "HalfStorage": torch.float16,
        "BFloat16Storage": torch.bfloat16,
        "LongStorage": torch.int64,
        "IntStorage": torch.int32,
        "BoolStorage": torch.bool,
        "ByteStorage": torch.uint8,
    }
    return types.get(name)


def _rebuild_tensor(storage: Tensor, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    extent = sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
    if 0 not in size and not 0 <= offset <= offset + extent <= len(storage):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _rebuild_parameter(data: Tensor, *rest: Any) -> Tensor:
    return data
