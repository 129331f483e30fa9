# halfmoon_area(NAME DEPS AREA...): one folder of src/ as one static library, with its *_test.cc files as one
# test program beside it. Link lines are the architecture's arrows, so DEPS is the whole list of what the area
# may include (and what those may). Files that match HALFMOON_WITHOUT_NAME are left out.

# The suffix of a kernel file sets its instruction set; nothing else is compiled for more than the baseline.
set(HALFMOON_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(HALFMOON_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c)
set(HALFMOON_FLAGS_avx512bf16 ${HALFMOON_FLAGS_avx512} -mavx512bf16 -mavx512vbmi)
# GCC schedules before it assigns registers on AArch64, not on x86: loads of a whole straight kernel move up, and most of
# them are spilled. Any AArch64 has NEON.
set(HALFMOON_FLAGS_neon $<$<CXX_COMPILER_ID:GNU>:-fno-schedule-insns>)
set(HALFMOON_FLAGS_dotprod -march=armv8.2-a+dotprod ${HALFMOON_FLAGS_neon})

add_library(halfmoon_flags INTERFACE)
# -ffp-contract=off: a fused multiply-add only where the source asks for one, so that every build of a kernel
# rounds alike. -fno-math-errno frees sqrt and friends for the vectoriser without changing any value.
target_compile_options(halfmoon_flags INTERFACE -Wall -Wextra -Wpedantic -Werror -Wshadow -Wno-psabi
                       -Wno-missing-field-initializers -ffp-contract=off -fno-math-errno
                       $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
target_include_directories(halfmoon_flags INTERFACE ${CMAKE_CURRENT_SOURCE_DIR}/src ${CMAKE_BINARY_DIR}/generated)
if(HALFMOON_SANITIZE)
  target_compile_options(halfmoon_flags INTERFACE -fsanitize=${HALFMOON_SANITIZE} -fno-omit-frame-pointer
                         -fno-sanitize-recover=all)
  target_link_options(halfmoon_flags INTERFACE -fsanitize=${HALFMOON_SANITIZE})
endif()

# The instruction sets of the processor that is built for, and the definition that says so to the sources.
set(HALFMOON_ALL_ISAS avx2 avx512 avx512bf16 neon dotprod)
set(HALFMOON_ISAS)
set(HALFMOON_ISA_DEFINITION)
if(NOT HALFMOON_ONLY_GENERIC)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(HALFMOON_ISAS avx2 avx512 avx512bf16)
    set(HALFMOON_ISA_DEFINITION HALFMOON_X86=1)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64|ARM64")
    set(HALFMOON_ISAS neon dotprod)
    set(HALFMOON_ISA_DEFINITION HALFMOON_ARM=1)
  endif()
endif()

# Areas whose tests run under the thread sanitizer too: those in which threads meet.
set(HALFMOON_THREADED_AREAS base net transfer store engine serve cluster)
if(HALFMOON_TESTS)
  add_custom_target(threads_tests)
endif()

# A ctest case that leaves its results case by case in results/, for counting.
function(halfmoon_gtest_case test program label filter environment)
  add_test(NAME ${test} COMMAND ${program} --gtest_brief=1 --gtest_filter=${filter})
  set_tests_properties(${test} PROPERTIES TIMEOUT 1200 LABELS ${label}
    ENVIRONMENT "GTEST_OUTPUT=xml:${CMAKE_BINARY_DIR}/results/${test}.xml;${environment}")
endfunction()

# halfmoon_gtest(NAME PROGRAM [SHARDS N]): a GoogleTest program as the ctest case NAME, or as N of them, NAME_1 and so on, that
# share its cases and may run side by side; and its cases with Slow in their names as NAME_slow.
function(halfmoon_gtest name program)
  cmake_parse_arguments(GTEST "" "SHARDS" "" ${ARGN})
  target_compile_definitions(${program} PRIVATE
    HALFMOON_SOURCE_DIR="${CMAKE_SOURCE_DIR}" HALFMOON_GOLDEN_DIR="${CMAKE_SOURCE_DIR}/tests/golden")
  if(GTEST_SHARDS)
    foreach(shard RANGE 1 ${GTEST_SHARDS})
      math(EXPR index "${shard} - 1")
      halfmoon_gtest_case(${name}_${shard} ${program} fast -*Slow*
                          "GTEST_TOTAL_SHARDS=${GTEST_SHARDS};GTEST_SHARD_INDEX=${index}")
    endforeach()
  else()
    halfmoon_gtest_case(${name} ${program} fast -*Slow* "")
  endif()
  halfmoon_gtest_case(${name}_slow ${program} slow *Slow* "")
endfunction()

function(halfmoon_area name)
  cmake_parse_arguments(AREA "" "" "DEPS" ${ARGN})
  set(folder ${CMAKE_SOURCE_DIR}/src/${name})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${folder}/*.cc)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${folder}/*.h)
  if(HALFMOON_WITHOUT_${name})
    list(FILTER sources EXCLUDE REGEX "${HALFMOON_WITHOUT_${name}}")
    list(FILTER headers EXCLUDE REGEX "${HALFMOON_WITHOUT_${name}}")
  endif()
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  foreach(isa ${HALFMOON_ALL_ISAS})
    if(NOT isa IN_LIST HALFMOON_ISAS)
      list(FILTER sources EXCLUDE REGEX "_${isa}\\.cc$")
    endif()
    foreach(file ${sources})
      if(file MATCHES "_${isa}\\.cc$")
        set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${HALFMOON_FLAGS_${isa}}")
      endif()
    endforeach()
  endforeach()

  list(TRANSFORM AREA_DEPS PREPEND halfmoon_ OUTPUT_VARIABLE deps)
  if(sources)
    add_library(halfmoon_${name} STATIC ${sources} ${headers})
    target_link_libraries(halfmoon_${name} PUBLIC halfmoon_flags ${deps})
    target_compile_definitions(halfmoon_${name} PUBLIC ${HALFMOON_ISA_DEFINITION})
    # What fuzz targets count branches of: no parser of outside bytes is in kernels, whose tests it would slow.
    if(HALFMOON_FUZZ AND NOT name STREQUAL kernels)
      target_compile_options(halfmoon_${name} PRIVATE -fsanitize=fuzzer-no-link)
    endif()
  else()
    message(FATAL_ERROR "area ${name} has no sources in ${folder}")
  endif()

  if(HALFMOON_TESTS AND tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE halfmoon_${name} GTest::gmock GTest::gtest_main)
    halfmoon_gtest(${name} ${name}_test)
    if(name IN_LIST HALFMOON_THREADED_AREAS)
      add_dependencies(threads_tests ${name}_test)
      set_property(TEST ${name} APPEND PROPERTY LABELS threads)
    endif()
  endif()
endfunction()
