# SPDX-License-Identifier: Apache-2.0
# Compiles for 64-bit ARM on another processor, and runs the tests in an emulator: `make test-arm`. Debian's packages
# g++-aarch64-linux-gnu and qemu-user have what it needs.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
