# What a plugin's own CMakeLists.txt calls; included by musterConfig.cmake.

# Relative: below CMAKE_INSTALL_PREFIX. No PATH: one that comes by -D would be seen from the working folder.
set(MUSTER_PLUGIN_INSTALL_DIR "${muster_PLUGIN_DIR}" CACHE STRING "Where plugins are installed")

# muster_add_plugin(NAME SOURCE... [VERSION V] [LIBRARIES LIB...])
#
# Makes NAME.so, as C11 or C++17, which exports its entry alone, leaves no symbol open and is never unloaded. A source sees
# MUSTER_PLUGIN_VERSION, which is V or the project's version. `cmake --install` puts it into the brokers' plugin folder.
function(muster_add_plugin name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "VERSION" "LIBRARIES")
  if(ARG_KEYWORDS_MISSING_VALUES OR NOT ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "muster_add_plugin(${ARGV}): NAME SOURCE... [VERSION V] [LIBRARIES LIB...] was expected")
  endif()
  if(NOT name MATCHES "^[A-Za-z0-9-][A-Za-z0-9_-]*$")
    message(FATAL_ERROR "muster_add_plugin(): the name \"${name}\" came, letters, digits, _ and -, the first no _, were expected")
  endif()
  if(NOT ARG_VERSION)
    set(ARG_VERSION "${PROJECT_VERSION}")
  endif()
  if(NOT ARG_VERSION)
    message(FATAL_ERROR "muster_add_plugin(${name}): neither VERSION nor project(... VERSION) says its version")
  endif()
  add_library(${name} MODULE ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE muster::plugin ${ARG_LIBRARIES})
  target_compile_definitions(${name} PRIVATE "MUSTER_PLUGIN_VERSION=\"${ARG_VERSION}\"")
  set_target_properties(${name} PROPERTIES PREFIX "" SUFFIX .so
    C_STANDARD 11 C_STANDARD_REQUIRED ON CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON POSITION_INDEPENDENT_CODE ON)
  target_link_options(${name} PRIVATE -Wl,-z,nodelete)
  # clang links the runtime of its sanitizers into programs only: a plugin then leaves its symbols open.
  if(NOT "${CMAKE_C_COMPILER_ID}${CMAKE_CXX_COMPILER_ID}" MATCHES "Clang" OR NOT "${CMAKE_C_FLAGS}${CMAKE_CXX_FLAGS}" MATCHES "-fsanitize")
    target_link_options(${name} PRIVATE -Wl,-z,defs)
  endif()
  install(TARGETS ${name} LIBRARY DESTINATION "${MUSTER_PLUGIN_INSTALL_DIR}")
endfunction()

# muster_add_plugin_test(NAME PLUGIN SOURCE... [LIBRARIES LIB...])
#
# Makes the program NAME with the test host, and a test of it for ctest. Its sources see MUSTER_TEST_PLUGIN, the plugin's file.
function(muster_add_plugin_test name plugin)
  cmake_parse_arguments(PARSE_ARGV 2 ARG "" "" "LIBRARIES")
  if(NOT TARGET muster::testhost)
    message(FATAL_ERROR "muster_add_plugin_test(${name}): this installation of Muster has no test host")
  endif()
  if(ARG_KEYWORDS_MISSING_VALUES OR NOT ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "muster_add_plugin_test(${ARGV}): NAME PLUGIN SOURCE... [LIBRARIES LIB...] was expected")
  endif()
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE muster::testhost ${ARG_LIBRARIES})
  target_compile_definitions(${name} PRIVATE "MUSTER_TEST_PLUGIN=\"$<TARGET_FILE:${plugin}>\"")
  set_target_properties(${name} PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON)
  add_dependencies(${name} ${plugin})
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 120)
endfunction()

# muster_add_plugin_check(NAME PLUGIN [CONFIG FILE])
#
# Makes a test of `muster plugin check`: the plugin against the contract of muster/plugin.h, each part in a process of its own, with the
# settings of FILE.
function(muster_add_plugin_check name plugin)
  cmake_parse_arguments(PARSE_ARGV 2 ARG "" "CONFIG" "")
  if(ARG_KEYWORDS_MISSING_VALUES OR ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "muster_add_plugin_check(${ARGV}): NAME PLUGIN [CONFIG FILE] was expected")
  endif()
  set(config "")
  if(ARG_CONFIG)
    set(config --config "${ARG_CONFIG}")
  endif()
  add_test(NAME ${name} COMMAND "${muster_COMMAND}" plugin check "$<TARGET_FILE:${plugin}>" ${config})
  set_tests_properties(${name} PROPERTIES TIMEOUT 300)
endfunction()
