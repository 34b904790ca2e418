"""Functions that XLA calls, from text of LLVM to code of this processor."""

import ctypes
import hashlib
import platform
from functools import cache
from typing import Any

import jax
import llvmlite.binding as llvm

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

_kept: dict[str, Any] = {}


def check() -> None:
    """Raise Unscalarisable where this processor's code is not written."""
    if (machine := platform.machine().lower()) not in _PROCESSORS:
        raise Unscalarisable(f"the processor is {machine}, not x86-64")


def module(body: Text) -> str:
    """Return the text of a module whose function `lanes` serves XLA; the body begins in the block `work`.

    It reads the buffers of `%arguments` and `%results`, and ends by a branch to the block `leave`.
    """
    declared = "\n".join(sorted(body.declared))
    return f"""target triple = "{llvm.get_default_triple()}"
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
{declared}
define ptr @lanes(ptr %frame) #0 {{
entry:
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
  call void @llvm.x86.sse.stmxcsr(ptr %control)
  %kept = load i32, ptr %control
  %flush = or i32 %kept, {_FLUSH}
  store i32 %flush, ptr %flushing
  call void @llvm.x86.sse.ldmxcsr(ptr %flushing)
{chr(10).join(body.lines)}
leave:
  call void @llvm.x86.sse.ldmxcsr(ptr %control)
  ret ptr null
}}
{_ATTRIBUTES}
"""


def buffer(text: Text, base: str, place: int) -> str:
    """Write the address of the data of one of the buffers."""
    held = text.set(f"load ptr, ptr {text.address(base, 8 * place)}")
    return text.set(f"load ptr, ptr {text.address(held, DATA)}")


def registered(module: str) -> str:
    """Compile a module unless it was; return the name by which XLA calls its function."""
    name = f"jaxfact_{hashlib.sha256('/'.join((module, *_processor())).encode()).hexdigest()[:32]}"
    if name not in _kept:
        loaded = _loaded(_object(module))
        prototype = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
        function = prototype(loaded.get_function_address("lanes"))
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
        _kept[name] = loaded, function
    return name


def _object(module: str) -> bytes:
    """Compile a module to the bytes of an object file."""
    return _target().emit_object(llvm.parse_assembly(module))


def _loaded(code: bytes) -> Any:
    """Load an object file into this process."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


@cache
def _processor() -> tuple[str, str]:
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = _processor()
    triple = llvm.Target.from_default_triple()
    return triple.create_target_machine(cpu=name, features=features, opt=1, jit=True, codemodel="jitdefault")
