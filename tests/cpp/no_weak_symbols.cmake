# Fails when an object file of the kernels defines a weak symbol: the linker keeps one copy of
# such a function, perhaps the one compiled for an instruction set the machine lacks.
#   cmake -DNM=... -DOBJECTS="a.o,b.o" -P no_weak_symbols.cmake
string(REPLACE "," ";" objects "${OBJECTS}")
list(LENGTH objects count)
if(count EQUAL 0)
  message(FATAL_ERROR "no object files given")
endif()
foreach(object IN LISTS objects)
  execute_process(COMMAND ${NM} ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]* [VWu] [^\n]*" weak "${symbols}")
  # A pointer to the exception handler, the same whatever the instruction set.
  list(FILTER weak EXCLUDE REGEX "DW\\.ref\\.__gxx_personality_v0")
  if(weak)
    message(SEND_ERROR "${object}: ${weak}")
  endif()
endforeach()
