# The binary port. Apart from the HTTP one, so that each can be built and tested alone.
msadb_room(NAME wire_server
  SOURCES
    wire_handlers.cc
    wire_server.cc
    wire_session.cc
  USES access client json_forms values db
  PRIVATE_LIBS Threads::Threads)
