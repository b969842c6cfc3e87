# Write every file below DIR as a C source OUT that defines the table of cli/template.h. Run as:
#   cmake -DDIR=... -DOUT=... -P embed_folder.cmake
# A name that begins with dot_ stands for one that begins with a dot, which would be hidden here.
# Bytes go through hexadecimal, so that nothing in a file needs quoting.
file(GLOB_RECURSE files RELATIVE "${DIR}" "${DIR}/*")
list(SORT files)
set(texts "")
set(rows "")
set(count 0)
foreach(file IN LISTS files)
  file(READ "${DIR}/${file}" hex HEX)
  string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
  string(REGEX REPLACE "(^|/)dot_" "\\1." name "${file}")
  string(APPEND texts "static const unsigned char file_${count}[] = {\n${hex}0x00};\n")
  string(APPEND rows "    {\"${name}\", (const char *)file_${count}},\n")
  math(EXPR count "${count} + 1")
endforeach()
if(count EQUAL 0)
  message(FATAL_ERROR "${DIR}: no files")
endif()
file(WRITE "${OUT}" "/* Made by embed_folder.cmake. */\n#include \"cli/template.h\"\n\n"
  "${texts}\nconst struct template_file template_files[] = {\n${rows}};\nconst size_t n_template_files = ${count};\n")
