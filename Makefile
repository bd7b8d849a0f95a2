# riverlua. `make help` lists the targets.
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:

VERSION := $(shell sed -n 's/^.define RIVERLUA_VERSION "\(.*\)"/\1/p' src/riverlua.h)
SOVERSION := 0

BUILD ?= build
PREFIX ?= /usr/local
ifeq ($(origin CC),default)
CC = cc
endif
CFLAGS ?= -O2 -g
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion
PKG_CFLAGS = $(shell pkg-config --cflags lua5.4 lua5.4-cjson libuv libcurl)
PKG_LIBDIR = $(shell pkg-config --variable=libdir lua5.4)
ALL_CFLAGS = -std=c11 -D_GNU_SOURCE $(WARNINGS) -Isrc -I$(BUILD) $(PKG_CFLAGS) $(CFLAGS)

LIB_C := $(filter-out src/main.c,$(wildcard src/*.c))
LUA_FILES := $(shell cd lua && find . -name '*.lua' | sed 's|^\./||' | LC_ALL=C sort)
OBJECTS := $(LIB_C:src/%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/embedded.o
PIC_OBJECTS := $(OBJECTS:$(BUILD)/obj/%=$(BUILD)/pic/%)
# Lua and libuv are linked into the binary: fewer shared objects, a faster start. libcurl is loaded on first use.
STATIC_LIBS = $(PKG_LIBDIR)/liblua5.4.a $(PKG_LIBDIR)/liblua5.4-cjson.a -l:libuv_a.a
SYSTEM_LIBS = -lm -ldl -lpthread

.PHONY: all
all: $(BUILD)/riverlua $(BUILD)/libriverlua.a $(BUILD)/libriverlua.so $(BUILD)/riverlua.pc

$(BUILD)/riverlua: $(BUILD)/obj/main.o $(BUILD)/libriverlua.a src/riverlua.map
	$(CC) $(CFLAGS) $(LDFLAGS) -Wl,--dynamic-list=src/riverlua.map -o $@ $< $(BUILD)/libriverlua.a $(STATIC_LIBS) $(SYSTEM_LIBS)

$(BUILD)/libriverlua.a: $(OBJECTS)
	rm -f $@
	ar rcs $@ $^

$(BUILD)/libriverlua.so.$(SOVERSION): $(PIC_OBJECTS)
	$(CC) -shared $(CFLAGS) $(LDFLAGS) -Wl,-soname,libriverlua.so.$(SOVERSION) -Wl,--no-undefined -o $@ $^ \
	  -llua5.4 -llua5.4-cjson -luv $(SYSTEM_LIBS)

$(BUILD)/libriverlua.so: $(BUILD)/libriverlua.so.$(SOVERSION)
	ln -sf libriverlua.so.$(SOVERSION) $@

$(BUILD)/riverlua.pc: riverlua.pc.in src/riverlua.h Makefile
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' $< > $@

$(BUILD)/obj/%.o: src/%.c | $(BUILD)/obj
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/pic/%.o: src/%.c | $(BUILD)/pic
	$(CC) $(ALL_CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c -o $@ $<

$(BUILD)/obj/embedded.o $(BUILD)/pic/embedded.o: $(BUILD)/embedded.S | $(BUILD)/obj $(BUILD)/pic
	$(CC) -c -o $@ $<

# The list is a file so that a Lua file added or removed is noticed.
$(BUILD)/lua_files: FORCE | $(BUILD)/obj
	@echo '$(LUA_FILES)' | cmp -s - $@ || echo '$(LUA_FILES)' > $@

$(BUILD)/embedded.S: src/tools/embed.sh $(BUILD)/lua_files $(LUA_FILES:%=lua/%)
	src/tools/embed.sh lua $(LUA_FILES) > $@

# Powers of ten for decimal.c, computed exactly rather than trusted.
$(BUILD)/gen_pow10: src/tools/gen_pow10.c | $(BUILD)/obj
	$(CC) -std=c11 $(WARNINGS) -O1 -o $@ $<

$(BUILD)/pow10.h: $(BUILD)/gen_pow10
	$< > $@

$(BUILD)/obj/decimal.o $(BUILD)/pic/decimal.o: $(BUILD)/pow10.h

$(BUILD)/obj $(BUILD)/pic:
	mkdir -p $@

.PHONY: clean FORCE
clean:
	rm -rf $(BUILD)

-include $(wildcard $(BUILD)/obj/*.d $(BUILD)/pic/*.d)
