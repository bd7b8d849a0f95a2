/* Shared objects made of what protobuf-c's compiler writes. No Lua in it. */
#ifndef RVL_PROTOBUF_LIBRARY_H
#define RVL_PROTOBUF_LIBRARY_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

/* Called for each descriptor: one of the two is NULL. It may not return. */
typedef void (*rvl_protobuf_visit)(void *context, const ProtobufCMessageDescriptor *message,
                                   const ProtobufCServiceDescriptor *service);

/* Loads a shared object and calls `visit` for the descriptors that it exports. The object stays loaded for the life of
** the process, for whoever has its descriptors. NULL: all is well; else why it cannot be loaded, in static memory. */
const char *rvl_protobuf_library_visit(const char *path, rvl_protobuf_visit visit, void *context);

#endif
