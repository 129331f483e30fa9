# Builds for AArch64 Linux on another machine: Debian's cross compiler, libraries in a folder that tools/aarch64_sysroot.sh
# fills, tests under QEMU's user-mode emulation. The environment variable QEMU_CPU (a name of `qemu-aarch64-static -cpu
# help`) is the CPU that tests see.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(HALFMOON_SYSROOT ${CMAKE_CURRENT_LIST_DIR}/../build/aarch64-sysroot CACHE PATH "Libraries for AArch64")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES HALFMOON_SYSROOT)

# No --sysroot: the C and C++ libraries to compile against are the cross compiler's own.
set(CMAKE_FIND_ROOT_PATH ${HALFMOON_SYSROOT} /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
# Libraries that those of ours need.
add_link_options(-Wl,-rpath-link,${HALFMOON_SYSROOT}/usr/lib/aarch64-linux-gnu)

set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static -L ${HALFMOON_SYSROOT})
