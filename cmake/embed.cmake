# SPDX-License-Identifier: Apache-2.0
# Run by the build: writes OUT, the C++ source of apps/halfmoon/embedded_files.h, from files of SOURCE and from what git
# says of it. OUT is touched only where it changes, so that a build with nothing to do stays one.
execute_process(COMMAND git -C ${SOURCE} describe --always --abbrev=7 --dirty=+ --exclude * OUTPUT_VARIABLE commit
                ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE status)
if(NOT status EQUAL 0 OR commit STREQUAL "")
  set(commit unknown)
endif()
file(READ ${SOURCE}/bench/llama_cpp_worker.py worker)
file(READ ${SOURCE}/bench/requirements.txt requirements)
file(READ ${SOURCE}/bench/costs/llama3-70b-8xa800.json paper_costs)
string(CONCAT text "// SPDX-License-Identifier: Apache-2.0\n"
       "#include \"apps/halfmoon/embedded_files.h\"\n\nnamespace halfmoon::app {\n\n"
       "std::string_view EmbeddedLlamaCppWorker() {\n  return R\"~~~(${worker})~~~\";\n}\n"
       "std::string_view EmbeddedBenchRequirements() {\n  return R\"~~~(${requirements})~~~\";\n}\n"
       "std::string_view EmbeddedPaperCosts() {\n  return R\"~~~(${paper_costs})~~~\";\n}\n"
       "std::string_view BuildCommit() { return \"${commit}\"; }\n\n}  // namespace halfmoon::app\n")
set(old "")
if(EXISTS ${OUT})
  file(READ ${OUT} old)
endif()
if(NOT text STREQUAL old)
  file(WRITE ${OUT} "${text}")
endif()
