"""Functions that XLA calls, from text of LLVM to code of this processor."""

import ctypes
import hashlib
import platform
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import jax
import llvmlite.binding as llvm
import numpy as np

from jaxfact.engine import cache
from jaxfact.engine.llvm import Text
from jaxfact.engine.scalars import Unscalarisable

# Where XLA's call frame (xla/ffi/api/c_api.h) holds what, in bytes; a test compares them with the header.
EXTENSION, ARGUMENTS, RESULTS, DATA = 8, 72, 112, 24
METADATA, MAJOR, MINOR = 24, 24, 28
VERSION = 0, 3

# Denormal numbers count as zero, as in XLA's own kernels; decaying rows would cost a hundred times more.
_FLUSH = 0x8040
_ATTRIBUTES = 'attributes #0 = { nounwind "min-legal-vector-width"="512" "prefer-vector-width"="512" }'
_PROCESSORS = ("x86_64", "amd64")

# What XLA calls, whatever is to be done: the address of that is data. So an executable serves every code that takes
# the same arrays, in every process.
TARGET = "jaxfact_lanes"
_ENTRANCE = f"""declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define ptr @enter(ptr %frame) {{
  %control = alloca i32
  %flushing = alloca i32
  %at.extension = getelementptr i8, ptr %frame, i64 {EXTENSION}
  %extension = load ptr, ptr %at.extension
  %asked = icmp ne ptr %extension, null
  br i1 %asked, label %metadata, label %work
metadata:
  %at.metadata = getelementptr i8, ptr %extension, i64 {METADATA}
  %described = load ptr, ptr %at.metadata
  %major = getelementptr i8, ptr %described, i64 {MAJOR}
  store i32 {VERSION[0]}, ptr %major
  %minor = getelementptr i8, ptr %described, i64 {MINOR}
  store i32 {VERSION[1]}, ptr %minor
  ret ptr null
work:
  %at.arguments = getelementptr i8, ptr %frame, i64 {ARGUMENTS}
  %arguments = load ptr, ptr %at.arguments
  %at.results = getelementptr i8, ptr %frame, i64 {RESULTS}
  %results = load ptr, ptr %at.results
  %first = load ptr, ptr %arguments
  %at.data = getelementptr i8, ptr %first, i64 {DATA}
  %data = load ptr, ptr %at.data
  %code = load ptr, ptr %data, align 4
  %others = getelementptr i8, ptr %arguments, i64 8
  call void @llvm.x86.sse.stmxcsr(ptr %control)
  %kept = load i32, ptr %control
  %flush = or i32 %kept, {_FLUSH}
  store i32 %flush, ptr %flushing
  call void @llvm.x86.sse.ldmxcsr(ptr %flushing)
  call void %code(ptr %others, ptr %results)
  call void @llvm.x86.sse.ldmxcsr(ptr %control)
  ret ptr null
}}
"""

_kept: dict[str, Any] = {}
_lock = Lock()


def check() -> None:
    """Raise Unscalarisable where this processor's code is not written."""
    if (machine := platform.machine().lower()) not in _PROCESSORS:
        raise Unscalarisable(f"the processor is {machine}, not x86-64")


def module(body: Text) -> str:
    """Return the text of a module with a function `lanes` of two arrays of buffers; the body begins in `work`.

    It reads the buffers of `%arguments` and `%results`, and ends by a branch to the block `leave`.
    """
    declared = "\n".join(sorted(body.declared))
    return f"""{declared}
define void @lanes(ptr %arguments, ptr %results) #0 {{
work:
{chr(10).join(body.lines)}
leave:
  ret void
}}
{_ATTRIBUTES}
"""


def buffer(text: Text, base: str, place: int) -> str:
    """Write the address of the data of one of the buffers."""
    held = text.set(f"load ptr, ptr {text.address(base, 8 * place)}")
    return text.set(f"load ptr, ptr {text.address(held, DATA)}")


def code_of(module: str) -> np.ndarray:
    """Compile a module unless it was; return the address of its function, as two words."""
    with _lock:
        if TARGET not in _kept:
            entrance, address = _function(_ENTRANCE, "enter")
            enter = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address)
            jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(enter), platform="cpu")
            _kept[TARGET] = entrance, enter
        digest = hashlib.sha256(module.encode()).hexdigest()  # a text has up to megabytes
        if digest not in _kept:
            _kept[digest] = _function(module, "lanes")
        return np.array([_kept[digest][1]], np.uint64).view(np.uint32)


def called(results: Sequence[Any], aliases: dict[int, int] | None = None) -> Callable[..., Any]:
    """Return a function of code and arrays that calls the code; `aliases` are results that begin as an array, by place.

    The code comes first, and is not counted.
    """
    places = {place + 1: result for place, result in (aliases or {}).items()}
    return jax.ffi.ffi_call(TARGET, results, input_output_aliases=places)


def _function(module: str, name: str) -> tuple[Any, int]:
    """Return what holds a module's code, and the address of a function in it."""
    loaded = _compiled(f'target triple = "{llvm.get_default_triple()}"\n{module}')
    return loaded, loaded.get_function_address(name)


def _compiled(module: str) -> Any:
    """Load a module's code, compiled here or by an earlier process."""
    digest = hashlib.sha256("/".join((module, *_processor())).encode()).hexdigest()
    key = f"{digest} by LLVM {'.'.join(map(str, llvm.llvm_version_info))}"
    if (kept := cache.get(key)) is not None:
        return _loaded(kept)
    code = _object(module)
    cache.put(key, code)
    return _loaded(code)


def _object(module: str) -> bytes:
    """Compile a module to the bytes of an object file."""
    return _target().emit_object(llvm.parse_assembly(module))


def _loaded(code: bytes) -> Any:
    """Load an object file into this process."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


@lru_cache(1)
def _processor() -> tuple[str, str]:
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = _processor()
    triple = llvm.Target.from_default_triple()
    return triple.create_target_machine(cpu=name, features=features, opt=1, jit=True, codemodel="jitdefault")
