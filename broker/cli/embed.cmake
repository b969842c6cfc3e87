# Write the SQL files of DIR as a C source OUT that defines the table of cli/migrations.h. Run as:
#   cmake -DDIR=... -DOUT=... -P embed.cmake
# always.sql stands outside of the table: it has no number and runs each time.
# Bytes go through hexadecimal, so that nothing in a file needs quoting.
file(GLOB files "${DIR}/*.sql")
list(SORT files)
set(texts "")
set(rows "")
set(count 0)
set(last 0)
foreach(file IN LISTS files)
  get_filename_component(name "${file}" NAME_WE)
  if(name STREQUAL "always")
    set(number "always")
  elseif(NOT name MATCHES "^([0-9][0-9][0-9])_[a-z0-9_]+$")
    message(FATAL_ERROR "${file}: a name like 001_roles.sql, or always.sql, was expected")
  else()
    math(EXPR number "1${CMAKE_MATCH_1} - 1000") # a leading zero would read as octal
    if(NOT number GREATER last)
      message(FATAL_ERROR "${file}: the number ${number} is used twice")
    endif()
    set(last ${number})
  endif()
  file(READ "${file}" hex HEX)
  file(SHA256 "${file}" sha256)
  string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
  if(hex MATCHES "0x[89a-f]") # a database in LATIN1 has no place for other characters, not even in comments
    message(FATAL_ERROR "${file}: only ASCII was expected")
  endif()
  string(APPEND texts "static const char sql_${number}[] = {\n${hex}0x00};\n")
  if(NOT number STREQUAL "always")
    string(APPEND rows "    {${number}, \"${name}\", \"${sha256}\", sql_${number}},\n")
    math(EXPR count "${count} + 1")
  endif()
endforeach()
file(WRITE "${OUT}" "/* Made by embed.cmake from schemas/sql/. */\n#include \"cli/migrations.h\"\n\n"
  "${texts}\nconst struct migration migrations[] = {\n${rows}};\nconst size_t n_migrations = ${count};\n"
  "const struct migration migration_always = {.name = \"always\", .sql = sql_always};\n")
