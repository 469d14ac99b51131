# LibTorch as a C++ library, out of the torch wheel (scripts/setup puts it into a cache folder) or the
# official LibTorch archive. Not find_package(Torch): that wants nvcc and fails without it.
#
#   MUSTER_LIBTORCH   folder that holds torch/ (a wheel's target folder) or lib/ and include/ (the archive)
#   MUSTER_CUDA       AUTO: CUDA parts are built where nvcc and the wheel's NVIDIA libraries are both there
#
# Makes muster::torch (CPU), muster_use_torch_pch(target) and, with CUDA, muster::torch_cuda; sets
# MUSTER_WITH_CUDA.
if(NOT MUSTER_LIBTORCH)
  if(DEFINED ENV{MUSTER_LIBTORCH})
    set(MUSTER_LIBTORCH "$ENV{MUSTER_LIBTORCH}")
  else()
    if(DEFINED ENV{XDG_CACHE_HOME})
      set(_cache "$ENV{XDG_CACHE_HOME}/muster")
    else()
      set(_cache "$ENV{HOME}/.cache/muster")
    endif()
    foreach(_flavor cuda cpu)
      if(NOT MUSTER_LIBTORCH AND EXISTS "${_cache}/libtorch-2.14.1-${_flavor}")
        set(MUSTER_LIBTORCH "${_cache}/libtorch-2.14.1-${_flavor}")
      endif()
    endforeach()
  endif()
endif()
set(MUSTER_LIBTORCH "${MUSTER_LIBTORCH}" CACHE PATH "Folder of the torch wheel or LibTorch archive")

if(EXISTS "${MUSTER_LIBTORCH}/torch/lib/libtorch_cpu.so")
  set(_torch_root "${MUSTER_LIBTORCH}/torch")
elseif(EXISTS "${MUSTER_LIBTORCH}/lib/libtorch_cpu.so")
  set(_torch_root "${MUSTER_LIBTORCH}")
else()
  message(FATAL_ERROR "LibTorch not found in '${MUSTER_LIBTORCH}'. Run scripts/setup, or pass -DMUSTER_LIBTORCH=DIR.")
endif()

# Links to every entry of include/ but google: the wheel ships protobuf headers that would hide the system's.
set(_torch_include "${PROJECT_BINARY_DIR}/torch_include")
file(MAKE_DIRECTORY "${_torch_include}")
file(GLOB _entries RELATIVE "${_torch_root}/include" "${_torch_root}/include/*")
list(REMOVE_ITEM _entries google)
foreach(_entry IN LISTS _entries)
  file(CREATE_LINK "${_torch_root}/include/${_entry}" "${_torch_include}/${_entry}" SYMBOLIC)
endforeach()

add_library(muster_torch INTERFACE)
add_library(muster::torch ALIAS muster_torch)
# gloo_shim: ProcessGroupGloo.hpp includes gloo headers that the wheel does not ship.
target_include_directories(muster_torch SYSTEM INTERFACE
  "${_torch_include}" "${_torch_include}/torch/csrc/api/include" "${PROJECT_SOURCE_DIR}/cmake/gloo_shim")
# libprotobuf and gRPC first: libtorch_cpu.so exports protobuf symbols of its own.
target_link_libraries(muster_torch INTERFACE
  protobuf::libprotobuf "${_torch_root}/lib/libtorch_cpu.so" "${_torch_root}/lib/libc10.so")
target_compile_definitions(muster_torch INTERFACE USE_DISTRIBUTED USE_C10D_GLOO)
# Fused multiply-adds would break the == of IoUs that low-quality matching needs.
target_compile_options(muster_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)

set(MUSTER_WITH_CUDA FALSE)
if(NOT MUSTER_CUDA STREQUAL "OFF")
  find_package(CUDAToolkit QUIET)
  set(_nvidia "${MUSTER_LIBTORCH}/nvidia")
  if(CUDAToolkit_FOUND AND EXISTS "${_torch_root}/lib/libtorch_cuda.so" AND EXISTS "${_nvidia}/nccl/lib/libnccl.so.2")
    set(MUSTER_WITH_CUDA TRUE)
  elseif(MUSTER_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MUSTER_CUDA=ON needs a CUDA toolkit (nvcc) and a torch wheel with its NVIDIA packages in ${MUSTER_LIBTORCH}")
  endif()
endif()
if(MUSTER_WITH_CUDA)
  add_library(muster_torch_cuda INTERFACE)
  add_library(muster::torch_cuda ALIAS muster_torch_cuda)
  # The wheel's own NCCL and CUDA runtime: the toolkit's may be older and leave symbols undefined.
  target_include_directories(muster_torch_cuda SYSTEM INTERFACE "${_nvidia}/nccl/include" ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(muster_torch_cuda INTERFACE muster::torch
    "${_torch_root}/lib/libtorch_cuda.so" "${_torch_root}/lib/libc10_cuda.so"
    "${_nvidia}/nccl/lib/libnccl.so.2" "${_nvidia}/cu13/lib/libcudart.so.13")
  target_compile_definitions(muster_torch_cuda INTERFACE USE_C10D_NCCL)
endif()

# gRPC's re2 brings -pthread along, with which a translation unit cannot use the precompiled header.
if(TARGET re2::re2)
  set_target_properties(re2::re2 PROPERTIES INTERFACE_COMPILE_OPTIONS
    "$<$<NOT:$<BOOL:$<TARGET_PROPERTY:PRECOMPILE_HEADERS_REUSE_FROM>>>:-pthread>")
endif()

# One precompiled header for all code that sees LibTorch: a translation unit costs 20-40 s without it.
function(muster_use_torch_pch target)
  if(NOT TARGET muster_torch_pch)
    set(_pch_source "${PROJECT_BINARY_DIR}/torch_pch.cc")
    if(NOT EXISTS "${_pch_source}")
      file(WRITE "${_pch_source}" "")
    endif()
    add_library(muster_torch_pch OBJECT "${_pch_source}")
    target_link_libraries(muster_torch_pch PRIVATE muster::torch muster_warnings)
    target_precompile_headers(muster_torch_pch PRIVATE <torch/torch.h>)
  endif()
  target_precompile_headers(${target} REUSE_FROM muster_torch_pch)
  get_target_property(_type ${target} TYPE)
  if(_type STREQUAL "EXECUTABLE")
    # A header that was precompiled with -fPIC is refused under -fPIE, which a program would get.
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC)
  endif()
endfunction()
