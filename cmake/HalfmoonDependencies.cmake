# What is used from outside, and nowhere else is anything found. One line each in docs/dependencies.md.
find_package(Threads REQUIRED)
find_package(Boost 1.81 REQUIRED COMPONENTS json)
find_package(OpenSSL REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(ZLIB REQUIRED)
find_package(prometheus-cpp REQUIRED COMPONENTS core)

find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)
add_library(xxhash::xxhash INTERFACE IMPORTED)
target_include_directories(xxhash::xxhash INTERFACE ${XXHASH_INCLUDE_DIR})
# Header-only use: one more shared library for one hash is not worth its call overhead.
target_compile_definitions(xxhash::xxhash INTERFACE XXH_INLINE_ALL)

find_path(URING_INCLUDE_DIR liburing.h REQUIRED)
find_library(URING_LIBRARY uring REQUIRED)
add_library(uring::uring INTERFACE IMPORTED)
target_include_directories(uring::uring INTERFACE ${URING_INCLUDE_DIR})
target_link_libraries(uring::uring INTERFACE ${URING_LIBRARY})

if(HALFMOON_TESTS)
  find_package(GTest REQUIRED)
endif()
