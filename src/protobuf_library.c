/* Finds the descriptors in a shared object by its table of symbols: so it is known what there is, whatever options the
 * .proto has for the names in C. */
#include "protobuf_library.h"

#include <dlfcn.h>
#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* What a loaded object says of itself. */
typedef struct tables {
  const ElfW(Sym) *symbols;
  const char *names;
  size_t count;   /* of symbols */
} tables;

/* glibc has put the address in place of the offset where that section can be written. */
static const void *place_of(const struct link_map *map, ElfW(Addr) value) {
  uintptr_t base = (uintptr_t)map->l_addr, at = (uintptr_t)value;
  return (const void *)(at < base ? at + base : at);
}

/* The object's table of symbols has no length: the last one is the end of the last chain of its hash table. */
static size_t count_by_gnu_hash(const uint32_t *table) {
  uint32_t buckets = table[0], first = table[1], words = table[2];
  const uint32_t *bucket = table + 4 + (size_t)words * (sizeof(ElfW(Addr)) / 4), *chains = bucket + buckets;
  uint32_t last = 0;
  for (uint32_t i = 0; i < buckets; i++)
    if (bucket[i] > last) last = bucket[i];
  if (last < first) return first;
  while ((chains[last - first] & 1) == 0) last++;
  return (size_t)last + 1;
}

static tables tables_of(const struct link_map *map) {
  tables t = {0};
  for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++) {
    const void *at = place_of(map, d->d_un.d_ptr);
    switch (d->d_tag) {
      case DT_SYMTAB: t.symbols = at; break;
      case DT_STRTAB: t.names = at; break;
      case DT_HASH: t.count = ((const uint32_t *)at)[1]; break;
      case DT_GNU_HASH:
        if (t.count == 0) t.count = count_by_gnu_hash(at);
        break;
      default: break;
    }
  }
  return t;
}

static bool is_descriptor_name(const char *name) {
  static const char end[] = "__descriptor";
  size_t length = strlen(name);
  return length >= sizeof end && strcmp(name + length - (sizeof end - 1), end) == 0;
}

const char *rvl_protobuf_library_visit(const char *path, rvl_protobuf_visit visit, void *context) {
  void *handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
  struct link_map *map = NULL;
  if (handle == NULL) return dlerror();
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0) map = NULL;
  dlclose(handle);   /* it stays: RTLD_NODELETE */
  if (map == NULL) return "the system does not tell what is in it";
  tables t = tables_of(map);
  if (t.symbols == NULL || t.names == NULL) return NULL;
  for (size_t i = 0; i < t.count; i++) {
    const ElfW(Sym) *s = &t.symbols[i];
    if (s->st_shndx == SHN_UNDEF || (s->st_info & 0xf) != STT_OBJECT || !is_descriptor_name(t.names + s->st_name))
      continue;
    const void *at = (const void *)((uintptr_t)map->l_addr + (uintptr_t)s->st_value);
    const ProtobufCMessageDescriptor *message = at;
    const ProtobufCServiceDescriptor *service = at;
    if (s->st_size == sizeof *message && message->magic == PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC)
      visit(context, message, NULL);
    else if (s->st_size == sizeof *service && service->magic == PROTOBUF_C__SERVICE_DESCRIPTOR_MAGIC)
      visit(context, NULL, service);
  }
  return NULL;
}
